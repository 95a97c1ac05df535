"""What a lifecycle allows, and how it says no."""

import pytest
from api_common.errors import FailedPreconditionError
from api_common.lifecycle import Lifecycle

LIFECYCLE = Lifecycle(
    resource="workflow",
    transitions={
        "update": ({"DRAFT", "PUBLISHED"}, None),
        "publish": ({"PUBLISHED", "DRAFT"}, "PUBLISHED"),
        "archive": ({"PUBLISHED"}, "ARCHIVED"),
    },
)


class TestApply:
    def test_leads_to_the_state_of_the_table(self) -> None:
        assert LIFECYCLE.apply("publish", "DRAFT") == "PUBLISHED"

    @pytest.mark.parametrize("state", ["DRAFT", "PUBLISHED"])
    def test_stays_where_the_table_names_no_state(self, state: str) -> None:
        assert LIFECYCLE.apply("update", state) == state

    def test_names_verb_state_and_what_is_allowed(self) -> None:
        with pytest.raises(FailedPreconditionError) as caught:
            LIFECYCLE.apply("publish", "ARCHIVED")
        assert caught.value.reason == "INVALID_STATE"
        assert caught.value.message == "Cannot publish the workflow: it is ARCHIVED and must be DRAFT or PUBLISHED."
        assert caught.value.metadata == {"verb": "publish", "state": "ARCHIVED", "allowed": "DRAFT,PUBLISHED"}
