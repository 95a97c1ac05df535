"""The rules of an agent: which verbs its state allows, and which tools and parameters it may have."""

import copy
from typing import Any

import orjson
import pytest
from agents_service.domain import LIFECYCLE, State, validate_tools
from agents_service.errors import InvalidToolsError
from ameide.agent.v1 import agent_pb2 as pb
from ameide.agent.v1 import reason_pb2
from api_common.contract import MAX_STRUCT_BYTES, MAX_STRUCT_DEPTH
from api_common.errors import FailedPreconditionError
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema_rs import meta

Schema = dict[str, Any]

WEATHER: Schema = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "city": {"type": "string", "minLength": 1.0, "pattern": "^\\p{L}+$", "description": "Where"},
        "unit": {"enum": ["C", "F", None]},
        "places": {"type": "array", "items": {"$ref": "#/$defs/place"}},
    },
    "required": ["city"],
    "additionalProperties": False,
    "$defs": {"place": {"type": "object", "properties": {"x": {"type": ["number", "null"]}}}},
}
KEYWORDS = ("type", "properties", "items", "anyOf", "$ref", "$defs", "$anchor", "$id", "required", "enum", "not")
TEXTS = ("object", "#", "#/properties", "#/$defs/a", "#a", "http://[", "a", "%", "#%zz", "#/~2", "")


def tool(schema: Schema, name: str = "weather") -> dict[str, Any]:
    return {"name": name, "description": "", "input_schema": schema}


def refusals(*tools: dict[str, Any]) -> list[tuple[str, str]]:
    """What saving says, with fields as they follow `agent.`."""
    with pytest.raises(InvalidToolsError) as caught:
        validate_tools(tools)
    return [(one.field.removeprefix("agent."), one.description) for one in caught.value.violations]


def refusal(schema: Schema) -> str:
    """The only thing that is wrong with a schema."""
    ((place, text),) = refusals(tool({"type": "object"}, "fine"), tool(schema))
    assert place == "tools[1].input_schema"
    return text


def nested(levels: int) -> Schema:
    """Returns a schema whose innermost object is ``levels`` deep."""
    schema: Schema = {"title": "leaf"}
    for _ in range(levels - 2):
        schema = {"not": schema}
    return {"type": "object", "not": schema}


class TestLifecycle:
    def test_knows_the_states_of_the_contract(self) -> None:
        assert {state.value for state in State} == set(pb.Agent.State.keys()) - {"STATE_UNSPECIFIED"}

    @pytest.mark.parametrize(
        ("verb", "before", "after"),
        [
            ("activate", "DRAFT", "ACTIVE"),
            ("activate", "ACTIVE", None),
            ("activate", "DISABLED", "ACTIVE"),
            ("disable", "DRAFT", None),
            ("disable", "ACTIVE", "DISABLED"),
            ("disable", "DISABLED", None),
        ],
    )
    def test_moves_only_along_the_arrows(self, verb: str, before: str, after: str | None) -> None:
        if after is not None:
            assert LIFECYCLE.apply(verb, before) == after
            return
        with pytest.raises(FailedPreconditionError) as caught:
            LIFECYCLE.apply(verb, before)
        assert caught.value.metadata.items() >= {"verb": verb, "state": before}.items()


class TestTools:
    def test_reason_is_in_the_contract(self) -> None:
        assert InvalidToolsError.reason in reason_pb2.Reason.DESCRIPTOR.values_by_name

    def test_may_be_none(self) -> None:
        validate_tools([])

    def test_may_share_schemas_but_not_names(self) -> None:
        assert refusals(tool(WEATHER, "a"), tool(WEATHER, "b"), tool(WEATHER, "a")) == [
            ("tools[2].name", "is the name of tools[0]: `a`")
        ]

    def test_reports_every_tool(self) -> None:
        places = [place for place, _ in refusals(tool({}, "a"), tool(WEATHER, "a"), tool({"type": "array"}, "c"))]
        assert places == ["tools[0].input_schema", "tools[1].name", "tools[2].input_schema"]

    def test_message_names_the_first_place(self) -> None:
        with pytest.raises(InvalidToolsError) as caught:
            validate_tools([tool({})])
        assert caught.value.told().startswith("The tools break a rule. agent.tools[0].input_schema must")

    def test_needs_a_schema(self) -> None:
        assert "type" in refusals({"name": "a", "description": ""})[0][1]


class TestInputSchema:
    @pytest.mark.parametrize(
        "schema",
        [
            WEATHER,
            {"type": "object"},
            {"type": "object", "properties": {"any": True, "none": False}},
            {"type": "object", "x-unknown": {"is": "an annotation"}},
            {"type": "object", "properties": {"$ref": {"type": "string"}, "$anchor": {}}},
            {"type": "object", "$schema": "http://json-schema.org/draft-07/schema#"},
        ],
    )
    def test_may_be_any_schema_of_an_object(self, schema: Schema) -> None:
        validate_tools([tool(schema)])

    @pytest.mark.parametrize("schema", [{}, {"type": "string"}, {"type": ["object"]}, {"properties": {}}])
    def test_must_be_of_an_object(self, schema: Schema) -> None:
        assert '"type": "object"' in refusal(schema)

    @pytest.mark.parametrize(
        ("part", "place"),
        [
            ({"properties": 5}, "$.properties"),
            ({"properties": {"city": {"type": "text"}}}, "$.properties.city.type"),
            ({"properties": {"city": {"minLength": -1}}}, "$.properties.city.minLength"),
            ({"properties": {"city": {"minLength": 1.5}}}, "$.properties.city.minLength"),
            ({"properties": {"city": "string"}}, "$.properties.city"),
            ({"required": "city"}, "$.required"),
            ({"required": ["city", "city"]}, "$.required"),
            ({"allOf": []}, "$.allOf"),
            ({"items": [{}]}, "$.items"),
            ({"$defs": {"a": {"enum": 1}}}, "$.$defs.a.enum"),
            ({"$ref": 5}, "$.$ref"),
        ],
    )
    def test_must_be_a_schema(self, part: Schema, place: str) -> None:
        text = refusal({"type": "object", **part})
        assert text.startswith("is no JSON Schema: ")
        assert place.replace("$['$defs']", "").replace("$.$ref", "") in text

    @pytest.mark.parametrize("key", ["$ref", "$dynamicRef"])
    @pytest.mark.parametrize(
        "target", ["#", "#/$defs/a", "#/$defs/a/anyOf/1", "#here", "#/$defs/%61", "#/$defs/x~1y~0"]
    )
    def test_may_refer_to_its_own_parts(self, key: str, target: str) -> None:
        parts = {"a": {"anyOf": [{}, {"$anchor": "here"}]}, "x/y~": {}}
        validate_tools([tool({"type": "object", "$defs": parts, "properties": {"a": {key: target}}})])

    @pytest.mark.parametrize("key", ["$ref", "$dynamicRef"])
    @pytest.mark.parametrize(
        "target",
        ["http://127.0.0.1:9/x", "https://example.com/#/a", "file:///etc/passwd", "other.json", "//host/x", ""],
    )
    def test_must_not_refer_to_anything_outside(self, key: str, target: str) -> None:
        text = refusal({"type": "object", "properties": {"deep": {"items": {key: target}}}})
        assert text == f"holds a reference that does not begin with `#`: `{target}`"

    @pytest.mark.parametrize(
        "target",
        [
            "#/$defs/b",
            "#there",
            "#/$defs/a/anyOf/2",
            "#/$defs/a/anyOf/-1",
            "#/$defs/a/anyOf/x",
            "#/$defs/a/anyOf/" + "9" * 5000,
            "#/$defs/a/anyOf/\N{ARABIC-INDIC DIGIT ZERO}",
            "#/type",
            "#/type/0",
            "#/required/0",
        ],
        ids=lambda target: target[:24],
    )
    def test_must_not_refer_to_nothing(self, target: str) -> None:
        text = refusal(
            {"type": "object", "required": ["x"], "$defs": {"a": {"anyOf": [{}, {}]}}, "not": {"$ref": target}}
        )
        assert text.startswith("holds a reference that leads nowhere")
        assert len(text) <= 512

    def test_may_nest_24_levels_and_no_more(self) -> None:
        validate_tools([tool(nested(MAX_STRUCT_DEPTH))])
        assert refusal(nested(MAX_STRUCT_DEPTH + 1)) == "nests deeper than 24 levels"

    def test_is_refused_without_a_crash_when_it_nests_for_ever(self) -> None:
        assert refusal(nested(100_000)) == "nests deeper than 24 levels"

    def test_may_be_64_kib_and_not_a_byte_more(self) -> None:
        schema = {"type": "object", "description": ""}
        schema["description"] = "x" * (MAX_STRUCT_BYTES - len(orjson.dumps(schema)))
        validate_tools([tool(schema)])
        schema["description"] += "x"
        assert "65537 bytes" in refusal(schema)

    def test_is_left_as_it_was(self) -> None:
        before = copy.deepcopy(WEATHER)
        validate_tools([tool(WEATHER)])
        assert before == WEATHER

    @settings(deadline=None)  # a busy machine is no reason to fail
    @given(
        st.recursive(
            st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(TEXTS),
            lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYWORDS), inner, max_size=4),
            max_leaves=30,
        )
    )
    def test_is_accepted_or_refused_whatever_it_is(self, value: Any) -> None:
        schema = {"type": "object", "not": value}
        try:
            validate_tools([tool(schema)])
        except InvalidToolsError:
            assert {place for place, _ in refusals(tool(schema))} == {"tools[0].input_schema"}
        else:
            assert meta.is_valid(schema)
