"""The rules of a workflow: which verbs its state allows, and which graphs may be saved and published."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise, product
from random import Random
from typing import Any

import orjson
import pytest
from ameide.workflow.v1 import reason_pb2
from ameide.workflow.v1 import workflow_pb2 as pb
from api_common.contract import MAX_STRUCT_BYTES
from api_common.errors import FailedPreconditionError, FieldViolation
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from workflows_service.domain import LIFECYCLE, MAX_DEFINITION_BYTES, State, validate_definition, validate_draft
from workflows_service.errors import InvalidGraphError

Definition = dict[str, Any]

# A busy machine is no reason to fail.
unhurried = settings(deadline=None, max_examples=60)
INNER_TYPES = sorted(set(pb.Node.Type.keys()) - {"TYPE_UNSPECIFIED", "START", "END"})


def node(id: str, type: str = "TASK", **more: Any) -> Definition:
    return {"id": id, "type": type, **more}


def edge(source: str, target: str) -> Definition:
    return {"source": source, "target": target}


def graph(nodes: str, edges: str) -> Definition:
    """Reads `"s:START a e:END"` and `"s-a a-e"`."""
    parts = [text.partition(":") for text in nodes.split()]
    ways = [text.split("-") for text in edges.split()]
    return {
        "nodes": [node(id, type or "TASK") for id, _, type in parts],
        "edges": [edge(source, target) for source, target in ways],
    }


def violations(validate: Callable[[Definition], None], definition: Definition) -> list[FieldViolation]:
    with pytest.raises(InvalidGraphError) as caught:
        validate(definition)
    assert caught.value.violations[0].description in caught.value.told()
    return list(caught.value.violations)


def refusals(definition: Definition) -> list[tuple[str, str]]:
    """What publishing says, with fields as they follow `workflow.definition.`."""
    found = violations(validate_definition, definition)
    return [(one.field.removeprefix("workflow.definition."), one.description) for one in found]


class TestLifecycle:
    def test_knows_the_states_of_the_contract(self) -> None:
        assert {state.value for state in State} == set(pb.Workflow.State.keys()) - {"STATE_UNSPECIFIED"}

    @pytest.mark.parametrize(
        ("verb", "before", "after"),
        [
            ("update", "DRAFT", "DRAFT"),
            ("update", "PUBLISHED", "PUBLISHED"),
            ("update", "ARCHIVED", None),
            ("publish", "DRAFT", "PUBLISHED"),
            ("publish", "PUBLISHED", "PUBLISHED"),
            ("publish", "ARCHIVED", None),
            ("archive", "DRAFT", None),
            ("archive", "PUBLISHED", "ARCHIVED"),
            ("archive", "ARCHIVED", None),
        ],
    )
    def test_moves_only_along_the_arrows(self, verb: str, before: str, after: str | None) -> None:
        if after is not None:
            assert LIFECYCLE.apply(verb, before) == after
            return
        with pytest.raises(FailedPreconditionError) as caught:
            LIFECYCLE.apply(verb, before)
        assert caught.value.reason == "INVALID_STATE"
        assert caught.value.metadata.items() >= {"verb": verb, "state": before}.items()


class TestDraft:
    @pytest.mark.parametrize(
        "definition",
        [
            {},
            {"nodes": [], "edges": []},
            graph("a b", ""),
            graph("s:START t:START", "s-s s-t t-s s-t"),
        ],
        ids=["nothing", "empty", "no edges", "not to be published"],
    )
    def test_may_be_incomplete(self, definition: Definition) -> None:
        validate_draft(definition)

    def test_names_the_node_whose_id_is_taken(self) -> None:
        assert violations(validate_draft, graph("a b a b a", "")) == [
            FieldViolation("workflow.definition.nodes[2]", "has the id of nodes[0]: `a`", "DUPLICATE"),
            FieldViolation("workflow.definition.nodes[3]", "has the id of nodes[1]: `b`", "DUPLICATE"),
            FieldViolation("workflow.definition.nodes[4]", "has the id of nodes[0]: `a`", "DUPLICATE"),
        ]

    def test_names_the_end_of_an_edge_that_is_no_node(self) -> None:
        assert violations(validate_draft, graph("a", "a-x y-a z-z a-a")) == [
            FieldViolation("workflow.definition.edges[0]", "names `x`, which is not a node: `a → x`", "NOT_FOUND"),
            FieldViolation("workflow.definition.edges[1]", "names `y`, which is not a node: `y → a`", "NOT_FOUND"),
            FieldViolation("workflow.definition.edges[2]", "names `z`, which is not a node: `z → z`", "NOT_FOUND"),
        ]

    def test_says_which_rules_are_broken(self) -> None:
        with pytest.raises(InvalidGraphError) as caught:
            validate_draft(graph("a a", "a-x"))
        assert caught.value.told() == (
            "The definition breaks a rule. workflow.definition.nodes[1] has the id of nodes[0]: `a`; "
            "workflow.definition.edges[0] names `x`, which is not a node: `a → x`."
        )

    def test_keeps_a_config_of_64_kib_and_not_a_byte_more(self) -> None:
        envelope = len(orjson.dumps({"text": ""}))
        config = {"text": "x" * (MAX_STRUCT_BYTES - envelope)}
        validate_draft({"nodes": [node("a", config=config)]})
        config["text"] += "x"
        (found,) = violations(validate_draft, {"nodes": [node("b"), node("a", config=config)]})
        assert found.field == "workflow.definition.nodes[1].config"

    def test_keeps_a_definition_of_1_mib_and_not_a_byte_more(self) -> None:
        definition = {"nodes": [node(f"n{index}", config={"text": "é" * 30_000}) for index in range(17)]}
        definition["nodes"].append(node("last", display_name=""))
        fill = MAX_DEFINITION_BYTES - len(orjson.dumps(definition))
        definition["nodes"][-1]["display_name"] = "x" * fill
        validate_draft(definition)
        definition["nodes"][-1]["display_name"] += "x"
        assert [one.field for one in violations(validate_draft, definition)] == ["workflow.definition"]


class TestDefinition:
    def test_reason_is_in_the_contract(self) -> None:
        assert InvalidGraphError.reason in reason_pb2.Reason.DESCRIPTOR.values_by_name

    def test_accepts_a_start_that_is_followed_by_an_end(self) -> None:
        validate_definition(graph("s:START e:END", "s-e"))

    def test_accepts_branches_that_meet_again_and_several_ends(self) -> None:
        validate_definition(graph("s:START a b c e:END f:END", "s-a s-b a-c b-c c-e c-f s-f"))

    def test_accepts_500_nodes_in_one_row(self) -> None:
        inner = [f"n{index}" for index in range(498)]
        row = ["s", *inner, "e"]
        nodes = [node("s", "START"), *map(node, inner), node("e", "END")]
        validate_definition({"nodes": nodes, "edges": [edge(*way) for way in pairwise(row)]})

    def test_names_a_cycle_of_500_nodes_in_a_short_sentence(self) -> None:
        inner = [f"n{index:062}" for index in range(498)]
        nodes = [node("s", "START"), *map(node, inner), node("e", "END")]
        ring = zip(inner, [*inner[1:], inner[0]], strict=True)
        edges = [edge("s", inner[0]), edge(inner[0], "e"), *(edge(*way) for way in ring)]
        (found,) = violations(validate_definition, {"nodes": nodes, "edges": edges})
        assert "lies on a cycle" in found.description
        assert "→ … →" in found.description
        assert len(found.description) <= 512

    @pytest.mark.parametrize(
        ("nodes", "edges", "expected"),
        [
            ("", "", [("nodes", "has no START node"), ("nodes", "has no END node")]),
            ("a e:END", "a-e", [("nodes", "has no START node")]),
            ("s:START a", "s-a", [("nodes", "has no END node")]),
            ("s:START t:START e:END", "s-e t-e", [("nodes[1]", "is a START node beside `s`: `t`")]),
            ("s:START e:END", "s-e s-e", [("edges[1]", "is there already: `s → e`")]),
            ("s:START a e:END", "s-a a-a a-e", [("edges[1]", "leads back to its own node: `a → a`")]),
            (
                "s:START a e:END",
                "s-a a-s a-e",
                [
                    ("edges[1]", "leads into the START node `s`: `a → s`"),
                    ("nodes[0]", "lies on a cycle: `s → a → s`"),
                ],
            ),
            (
                "s:START e:END f:END",
                "s-e e-f",
                [("edges[1]", "leads out of the END node `e`: `e → f`")],
            ),
            (
                "s:START a b c e:END",
                "s-a a-b b-c c-a b-e",
                [("nodes[1]", "lies on a cycle: `a → b → c → a`")],
            ),
            (
                "lonely s:START e:END",
                "s-e",
                [
                    ("nodes[0]", "cannot be reached from a START node: `lonely`"),
                    ("nodes[0]", "has no way to an END node: `lonely`"),
                ],
            ),
            ("s:START e:END stuck", "s-e s-stuck", [("nodes[2]", "has no way to an END node: `stuck`")]),
            ("s:START e:END odd", "s-e odd-e", [("nodes[2]", "cannot be reached from a START node: `odd`")]),
            (
                "s:START a e:END a",
                "s-a a-e a-x",
                [
                    ("nodes[3]", "has the id of nodes[1]: `a`"),
                    ("edges[2]", "names `x`, which is not a node: `a → x`"),
                ],
            ),
        ],
    )
    def test_names_the_node_of_each_broken_rule(self, nodes: str, edges: str, expected: list[tuple[str, str]]) -> None:
        assert refusals(graph(nodes, edges)) == expected

    def test_reports_all_broken_rules_at_once(self) -> None:
        found = " | ".join(text for _, text in refusals(graph("a a b lonely", "a-b b-a a-x a-a a-b")))
        for rule in (
            "has the id",
            "names `x`",
            "no START",
            "no END",
            "is there already",
            "back to its own node",
            "on a cycle",
        ):
            assert rule in found


@dataclass
class Plan:
    """A valid graph, made in an order in which every edge leads forward."""

    start: str
    inner: list[str]
    ends: list[str]
    types: dict[str, str]
    edges: list[tuple[str, str]] = field(default_factory=list)

    def definition(self) -> Definition:
        return {
            "nodes": [node(id, type) for id, type in self.types.items()],
            "edges": [edge(*way) for way in self.edges],
        }

    def place(self, id: str) -> str:
        return f"nodes[{list(self.types).index(id)}]"


@st.composite
def plans(draw: st.DrawFn, inner_from: int = 0) -> Plan:
    inner = [f"n{index}" for index in range(draw(st.integers(inner_from, 8)))]
    ends = [f"end{index}" for index in range(draw(st.integers(1, 3)))]
    ways: list[tuple[str, str]] = []
    for index, target in enumerate([*inner, *ends]):
        before = ["start", *inner[:index]]
        # One bit for each node that may lead here: one draw, where a set of names would be many.
        chosen = draw(st.integers(1, 2 ** len(before) - 1))
        ways += [(source, target) for bit, source in enumerate(before) if chosen >> bit & 1]
    sources = {source for source, _ in ways}
    chance = Random(draw(st.integers(0, 999)))
    ways += [(id, chance.choice(ends)) for id in inner if id not in sources]
    types = {"start": "START", **{id: chance.choice(INNER_TYPES) for id in inner}, **dict.fromkeys(ends, "END")}
    order = chance.sample(list(types), len(types))
    return Plan("start", inner, ends, {id: types[id] for id in order}, chance.sample(ways, len(ways)))


class TestEveryValidGraph:
    @unhurried
    @given(plans())
    def test_is_accepted(self, plan: Plan) -> None:
        validate_definition(plan.definition())

    @unhurried
    @given(plans(), st.data())
    def test_is_refused_with_an_id_used_twice(self, plan: Plan, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(list(plan.types)))
        definition = plan.definition()
        definition["nodes"].append(node(id))
        assert refusals(definition) == [(f"nodes[{len(plan.types)}]", f"has the id of {plan.place(id)}: `{id}`")]

    @unhurried
    @given(plans(), st.data())
    def test_is_refused_with_an_edge_to_nowhere(self, plan: Plan, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from([plan.start, *plan.inner]))
        last = f"edges[{len(plan.edges)}]"
        plan.edges.append((id, "nowhere"))
        assert refusals(plan.definition()) == [(last, f"names `nowhere`, which is not a node: `{id} → nowhere`")]

    @unhurried
    @given(plans(inner_from=1), st.data())
    def test_is_refused_with_an_edge_to_itself(self, plan: Plan, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(plan.inner))
        plan.edges.append((id, id))
        assert refusals(plan.definition()) == [
            (f"edges[{len(plan.edges) - 1}]", f"leads back to its own node: `{id} → {id}`")
        ]

    @unhurried
    @given(plans(), st.data())
    def test_is_refused_with_an_edge_twice(self, plan: Plan, data: st.DataObject) -> None:
        source, target = data.draw(st.sampled_from(plan.edges))
        plan.edges.append((source, target))
        assert refusals(plan.definition()) == [
            (f"edges[{len(plan.edges) - 1}]", f"is there already: `{source} → {target}`")
        ]

    @unhurried
    @given(plans(inner_from=2), st.data())
    def test_is_refused_with_an_edge_backwards(self, plan: Plan, data: st.DataObject) -> None:
        forward = [way for way in plan.edges if set(way) <= set(plan.inner)]
        assume(forward)
        source, target = data.draw(st.sampled_from(forward))
        plan.edges.append((target, source))
        ((place, text),) = refusals(plan.definition())
        assert place in {plan.place(id) for id in plan.inner}
        named = set(text.partition("cycle: ")[2].strip("`").split(" → "))
        # A long way round is cut short.
        assert {source, target} <= named or "…" in named

    @unhurried
    @given(plans())
    def test_is_refused_without_its_start(self, plan: Plan) -> None:
        plan.types[plan.start] = "TASK"
        assert refusals(plan.definition()) == [("nodes", "has no START node")]

    @unhurried
    @given(plans())
    def test_is_refused_without_an_end(self, plan: Plan) -> None:
        plan.types |= dict.fromkeys(plan.ends, "TASK")
        assert refusals(plan.definition()) == [("nodes", "has no END node")]

    @unhurried
    @given(plans(), st.data())
    def test_is_refused_with_a_second_start(self, plan: Plan, data: st.DataObject) -> None:
        plan.types["other"] = "START"
        plan.edges.append(("other", data.draw(st.sampled_from([*plan.inner, *plan.ends]))))
        assert refusals(plan.definition()) == [(plan.place("other"), "is a START node beside `start`: `other`")]

    @unhurried
    @given(plans(), st.data())
    def test_is_refused_with_a_node_that_is_never_reached(self, plan: Plan, data: st.DataObject) -> None:
        plan.types["odd"] = "TASK"
        plan.edges.append(("odd", data.draw(st.sampled_from([*plan.inner, *plan.ends]))))
        assert refusals(plan.definition()) == [(plan.place("odd"), "cannot be reached from a START node: `odd`")]

    @unhurried
    @given(plans(), st.data())
    def test_is_refused_with_a_dead_end(self, plan: Plan, data: st.DataObject) -> None:
        plan.types["stuck"] = "HUMAN"
        plan.edges.append((data.draw(st.sampled_from([plan.start, *plan.inner])), "stuck"))
        assert refusals(plan.definition()) == [(plan.place("stuck"), "has no way to an END node: `stuck`")]

    @unhurried
    @given(plans(), st.data())
    def test_is_refused_with_an_edge_into_its_start_or_out_of_an_end(self, plan: Plan, data: st.DataObject) -> None:
        end = data.draw(st.sampled_from(plan.ends))
        last = f"edges[{len(plan.edges)}]"
        plan.edges.append((end, plan.start))
        found = refusals(plan.definition())
        assert (last, f"leads into the START node `start`: `{end} → start`") in found
        assert (last, f"leads out of the END node `{end}`: `{end} → start`") in found


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.sampled_from(["START", "TASK", "END"]), max_size=5),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=8),
)
def test_any_graph_is_accepted_exactly_if_the_rules_say_so(types: list[str], ways: list[tuple[int, int]]) -> None:
    """Compares with the rules as the contract words them, over the transitive closure of the edges."""
    size = len(types)
    ways = [(a, b) for a, b in ways if a < size and b < size]
    joined = {(a, b): (a, b) in ways for a, b in product(range(size), repeat=2)}
    for through, a, b in product(range(size), repeat=3):
        joined[a, b] |= joined[a, through] and joined[through, b]
    starts = [index for index in range(size) if types[index] == "START"]
    ends = [index for index in range(size) if types[index] == "END"]
    allowed = (
        len(starts) == 1
        and len(ends) >= 1
        and len(set(ways)) == len(ways)
        and not any(joined[index, index] for index in range(size))
        and not any(types[b] == "START" or types[a] == "END" for a, b in ways)
        and all(index in starts or joined[starts[0], index] for index in range(size))
        and all(index in ends or any(joined[index, end] for end in ends) for index in range(size))
    )
    definition = {
        "nodes": [node(f"n{index}", type) for index, type in enumerate(types)],
        "edges": [edge(f"n{a}", f"n{b}") for a, b in ways],
    }
    if allowed:
        validate_definition(definition)
    else:
        assert refusals(definition)
