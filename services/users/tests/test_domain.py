"""The rules of a user: which verbs its state allows."""

import pytest
from ameide.user.v1 import user_pb2 as pb
from api_common.errors import FailedPreconditionError
from users_service.domain import LIFECYCLE, State


class TestLifecycle:
    def test_knows_the_states_of_the_contract(self) -> None:
        assert {state.value for state in State} == set(pb.User.State.keys()) - {"STATE_UNSPECIFIED"}

    @pytest.mark.parametrize(
        ("verb", "before", "after"),
        [
            ("suspend", "ACTIVE", "SUSPENDED"),
            ("suspend", "SUSPENDED", None),
            ("activate", "ACTIVE", None),
            ("activate", "SUSPENDED", "ACTIVE"),
        ],
    )
    def test_moves_only_along_the_arrows(self, verb: str, before: str, after: str | None) -> None:
        if after is not None:
            assert LIFECYCLE.apply(verb, before) == after
            return
        with pytest.raises(FailedPreconditionError, match=f"Cannot {verb} the user: it is {before}"):
            LIFECYCLE.apply(verb, before)
