"""The rules of an IPA: what may change in which state, and which nodes agents may be bound to."""

import pytest
from ameide.ipa.v1 import ipa_pb2 as pb
from ameide.ipa.v1 import reason_pb2
from api_common.errors import FailedPreconditionError, FieldViolation, ValidationError
from ipas_service.domain import (
    DEPLOYED_FIELDS,
    LIFECYCLE,
    State,
    require_changeable,
    validate_bindings,
    validate_deployable,
    validate_selection,
)
from ipas_service.errors import InvalidBindingsError

FREE = ["display_name", "description", "labels"]


class TestLifecycle:
    def test_knows_the_states_of_the_contract(self) -> None:
        assert {state.value for state in State} == set(pb.Ipa.State.keys()) - {"STATE_UNSPECIFIED"}

    @pytest.mark.parametrize(
        ("verb", "starts", "after"),
        [
            ("deploy", {"DRAFT", "FAILED"}, "DEPLOYING"),
            ("retire", {"DEPLOYING", "DEPLOYED", "FAILED"}, "RETIRED"),
        ],
    )
    def test_moves_only_along_the_arrows(self, verb: str, starts: set[str], after: str) -> None:
        for state in State:
            if state in starts:
                assert LIFECYCLE.apply(verb, state) == after
                continue
            with pytest.raises(FailedPreconditionError, match=f"Cannot {verb} the IPA: it is {state} and must be"):
                LIFECYCLE.apply(verb, state)


class TestChanges:
    def test_concern_fields_of_the_contract(self) -> None:
        assert {*DEPLOYED_FIELDS, *FREE} <= {field.name for field in pb.Ipa.DESCRIPTOR.fields}

    @pytest.mark.parametrize("state", list(State))
    def test_of_name_description_and_labels_are_always_allowed(self, state: State) -> None:
        require_changeable(state, FREE)
        require_changeable(state, [])

    @pytest.mark.parametrize("state", [State.DRAFT, State.FAILED])
    def test_of_anything_are_allowed_before_it_is_deployed(self, state: State) -> None:
        require_changeable(state, [*DEPLOYED_FIELDS, *FREE])

    @pytest.mark.parametrize("state", [State.DEPLOYING, State.DEPLOYED, State.RETIRED])
    @pytest.mark.parametrize("name", ["workflow_id", "workflow_revision", "agent_bindings", "variables"])
    def test_of_what_is_deployed_are_refused(self, state: State, name: str) -> None:
        with pytest.raises(FailedPreconditionError) as caught:
            require_changeable(state, [name, *FREE])
        assert caught.value.reason == "INVALID_STATE"
        assert caught.value.metadata == {"verb": "update", "state": state, "allowed": "DRAFT,FAILED", "fields": name}
        assert caught.value.message == f"Cannot change {name} of the IPA: it is {state} and must be DRAFT or FAILED."


class TestDeletion:
    @pytest.mark.parametrize("state", [State.DRAFT, State.FAILED, State.RETIRED])
    def test_is_allowed_when_nothing_is_at_work(self, state: State) -> None:
        LIFECYCLE.apply("delete", state)

    @pytest.mark.parametrize("state", [State.DEPLOYING, State.DEPLOYED])
    def test_is_refused_while_it_is_at_work(self, state: State) -> None:
        with pytest.raises(FailedPreconditionError, match=f"Cannot delete the IPA: it is {state} and must be DRAFT or"):
            LIFECYCLE.apply("delete", state)


class TestSelection:
    @pytest.mark.parametrize(
        ("workflow_id", "workflow_revision", "bindings"),
        [("", 0, {}), ("w", 0, {}), ("w", 1, {}), ("w", 0, {"a": "agent"}), ("w", 1, {"a": "agent"})],
    )
    def test_may_stop_at_any_step(self, workflow_id: str, workflow_revision: int, bindings: dict[str, str]) -> None:
        validate_selection(workflow_id=workflow_id, workflow_revision=workflow_revision, bindings=bindings)

    @pytest.mark.parametrize(
        ("workflow_revision", "bindings", "dependent"),
        [
            (1, {}, "`workflow_revision`"),
            (0, {"a": "agent"}, "`agent_bindings`"),
            (1, {"a": "agent"}, "`workflow_revision` and `agent_bindings`"),
        ],
    )
    def test_begins_with_the_workflow(self, workflow_revision: int, bindings: dict[str, str], dependent: str) -> None:
        with pytest.raises(ValidationError) as caught:
            validate_selection(workflow_id="", workflow_revision=workflow_revision, bindings=bindings)
        assert caught.value.violations == (FieldViolation("ipa.workflow_id", f"is needed by {dependent}", "REQUIRED"),)


class TestBindings:
    def test_reason_is_in_the_contract(self) -> None:
        assert InvalidBindingsError.reason in reason_pb2.Reason.DESCRIPTOR.values_by_name

    @pytest.mark.parametrize("bindings", [{}, {"read": "agent-1"}, {"read": "agent-1", "write": "agent-1"}])
    def test_of_a_draft_may_be_incomplete(self, bindings: dict[str, str]) -> None:
        validate_bindings(bindings, ["read", "write"])

    def test_of_a_draft_must_name_agent_nodes(self) -> None:
        with pytest.raises(InvalidBindingsError) as caught:
            validate_bindings({"read": "x", "start": "y", "gone": "z"}, ["read", "write"])
        assert caught.value.violations == (
            FieldViolation("ipa.agent_bindings[start]", "names no AGENT node of the workflow", "CONFLICT"),
            FieldViolation("ipa.agent_bindings[gone]", "names no AGENT node of the workflow", "CONFLICT"),
        )

    def test_to_deploy_are_complete(self) -> None:
        validate_deployable({"read": "x", "write": "y"}, ["read", "write"])
        validate_deployable({}, [])

    def test_to_deploy_name_each_node_that_is_missing_or_not_there(self) -> None:
        with pytest.raises(InvalidBindingsError) as caught:
            validate_deployable({"read": "x", "gone": "z", "blank": ""}, ["read", "write", "blank"])
        assert caught.value.violations == (
            FieldViolation("ipa.agent_bindings[gone]", "names no AGENT node of the workflow", "CONFLICT"),
            FieldViolation("ipa.agent_bindings[write]", "is missing: the AGENT node has no agent", "REQUIRED"),
            FieldViolation("ipa.agent_bindings[blank]", "is missing: the AGENT node has no agent", "REQUIRED"),
        )
