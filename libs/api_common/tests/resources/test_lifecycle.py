"""States and the verbs between them."""

import pytest
from api_common.errors import FailedPreconditionError
from api_common.resources.lifecycle import Lifecycle

DOOR = Lifecycle(
    resource="door",
    transitions={
        "open": ({"CLOSED", "AJAR"}, "OPEN"),
        "paint": ({"CLOSED", "OPEN"}, None),
    },
)


def test_a_verb_leads_to_its_state() -> None:
    assert [DOOR.apply("open", state) for state in ("CLOSED", "AJAR")] == ["OPEN", "OPEN"]


def test_a_verb_without_a_state_stays() -> None:
    assert [DOOR.apply("paint", state) for state in ("CLOSED", "OPEN")] == ["CLOSED", "OPEN"]


@pytest.mark.parametrize("state", ["OPEN", "", "LOCKED", "closed"])
def test_a_verb_refuses_every_other_state(state: str) -> None:
    with pytest.raises(FailedPreconditionError) as caught:
        DOOR.apply("open", state)
    assert caught.value.metadata == {"verb": "open", "state": state, "allowed": "AJAR,CLOSED"}
    assert "AJAR or CLOSED" in caught.value.message


def test_a_verb_that_nobody_declared_is_a_defect() -> None:
    with pytest.raises(KeyError):
        DOOR.apply("lock", "CLOSED")
