"""`strict.lua` reads bodies as protobuf's own parser of JSON does, but for differences that are listed here."""

import json
import operator
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

import pytest
from google.api import annotations_pb2
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.lua.filters import Filter
from tests.protos import option, public_methods

STRICT: Final = Filter("strict")
ID: Final = "x1"

STRICTER: Final[Mapping[str, str]] = {
    "is there twice": "Both spellings of a name are one field; the parser takes the last of them.",
    "must be an object": "The parser takes an empty list for an empty message.",
    "must be one of": "The parser takes a number in quotes for a value of an enum.",
    "is a number that a double does not hold: send it as a string": "The parser rounds it.",
    "must be a whole number": 'The parser takes what Python\'s int() takes: "1_0".',
    'must be a time like "2030-01-31T00:00:00Z"': "The parser takes months and days of one digit.",
    "must be a time of the calendar, from year 1 to year 9999": "The parser takes any offset.",
    "must be names of fields with commas between them": "The parser takes any text.",
}
"""Why `strict.lua` refuses what protobuf's parser takes, by its own words."""
LAXER: Final = r"FieldMask|path name"
"""The names of fields in a mask may have underscores, as services and the transcoder read them."""

SCRAPS: Final = (
    *(
        "9007199254740993",
        "-9007199254740993.0",
        "9007199254740994",
        "1e23",
        "null",
        "true",
        "false",
        "0",
        "-0",
        "1",
        "-1",
        "1.0",
        "1.5",
        "1e3",
        "1E-3",
        "4294967296",
        "1e400",
    ),
    *('""', '"x"', '"5"', '"-5"', '"1.5"', '"x1"', '"NaN"', '"-Infinity"', '"true"', '"null"', '"ACTIVE"', '"a,b"'),
    *('"2024-01-01T00:00:00Z"', '"1s"', '"\\u0061\\n\\/"', '"\\ud83d\\ude00"', '"é"', '"\\u0000"', '" 5"', '"1_0"'),
    *("[]", "{}", "[null]", "[1]", '["x"]', "[[]]", '{"a": 1}', '{"a": null}', '{"a": {"a": []}}', '{"": ""}'),
    *("NaN", "Infinity", "01", "1.", ".5", "+1", "1e", "--1", "tru", "nulll", "'x'", '"x', '"\\x"', '"\\u12"', '"\t"'),
    *('"\\ud83d"', '"\\ude00\\ud83d"', "[1,]", "[,1]", "[1 2]", '{"a": 1, "a": 2}', '{"a": 1,}', "{a: 1}", '{"a" 1}'),
    *('{"a"}', "", "[", "]", "}", "//", "\u00a01"),
)


@dataclass(frozen=True)
class Body:
    """What an RPC takes as its body."""

    verb: str
    path: str
    message: Descriptor
    bound: frozenset[str]
    """The fields of the message that the path binds, too: each to `ID`."""


def bodies() -> Iterator[Body]:
    """Every body there is, of REST and of Connect."""
    for method in public_methods():
        if method.input_type.fields:
            yield Body("POST", f"/{method.containing_service.full_name}/{method.name}", method.input_type, frozenset())
        rule = option(method, annotations_pb2.http)
        if rule.body:
            verb = rule.WhichOneof("pattern")
            path = getattr(rule, verb)
            field = method.input_type.fields_by_name.get(rule.body)
            message = method.input_type if field is None else field.message_type
            assert message is not None
            leaves = {name.rpartition(".")[2] for name in re.findall(r"\{([\w.]+)\}", path)}
            bound = frozenset(leaves & set(message.fields_by_name))
            yield Body(verb.upper(), re.sub(r"\{[\w.]+\}", ID, path), message, bound)


BODIES: Final = tuple(bodies())
NAME: Final = operator.attrgetter("name")
BLANKS: Final = st.sampled_from(["", "", "", " ", "\n", "\t\r "])
WELL_KNOWN: Final = {
    "google.protobuf.Timestamp": ['"2024-01-01T00:00:00Z"', '"2024-01-01T00:00:00.123456789+02:00"'],
    "google.protobuf.Duration": ['"1s"', '"-1.5s"'],
    "google.protobuf.FieldMask": ['"displayName"', '"displayName,email"', '""'],
    "google.protobuf.Struct": ["{}", '{"a": null, "b": [1, "x", {"c": true}]}'],
    "google.protobuf.Value": ["null", "1", '"x"', "[[], {}]"],
    "google.protobuf.ListValue": ["[]", "[1, null]"],
}


@cache
def of_field(field: FieldDescriptor, depth: int) -> st.SearchStrategy[str]:
    """Text that is a value of a field, or any other text of JSON."""
    one = of_type(field, depth)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        value = of_type(field.message_type.fields_by_name["value"], depth)
        members = st.dictionaries(st.sampled_from(["a", "b", "é"]), value, max_size=2)
        one = members.map(lambda found: "{" + ", ".join(f'"{name}": {text}' for name, text in found.items()) + "}")
    elif field.is_repeated:
        one = st.lists(one, max_size=2).map(lambda found: f"[{', '.join(found)}]")
    return st.integers(0, 19).flatmap(
        lambda dice: (st.sampled_from(SCRAPS), st.just("null"))[dice] if dice < 2 else one
    )


@cache
def of_type(field: FieldDescriptor, depth: int) -> st.SearchStrategy[str]:
    """Text that is one value of a field."""
    if field.message_type is not None:
        name = field.message_type.full_name
        if name in WELL_KNOWN:
            return st.sampled_from(WELL_KNOWN[name])
        return objects(field.message_type, depth + 1) if depth < 3 else st.just("{}")
    if field.enum_type is not None:
        names = [f'"{value.name}"' for value in field.enum_type.values]
        return st.sampled_from([*names, *names, "0", "1", "77", '"1"', '"NONE"'])
    if field.type == FieldDescriptor.TYPE_BOOL:
        return st.sampled_from(["true", "false"])
    if field.type == FieldDescriptor.TYPE_STRING:
        return st.sampled_from(['""', '"x"', f'"{ID}"']) | st.text(max_size=5).map(json.dumps)
    assert field.cpp_type == FieldDescriptor.CPPTYPE_INT32, f"{field.full_name}: what is a value of it?"
    return st.sampled_from(["0", "1", "-1", '"5"', "1.0", "1e2", "2147483647"])


@st.composite
def objects(draw: st.DrawFn, message: Descriptor, depth: int = 0) -> str:
    """Text that is an object of a message, or nearly one."""
    members = []
    for field in draw(st.lists(st.sampled_from(list(message.fields)), min_size=1, max_size=4, unique_by=NAME)):
        name = field.json_name
        name = draw(st.sampled_from([*[name] * 8, field.name, f"\\u{ord(name[0]):04x}{name[1:]}"]))
        members.append(f'"{name}"{draw(BLANKS)}:{draw(of_field(field, depth))}')
    return "{" + ",".join(members) + "}"


@st.composite
def requests(draw: st.DrawFn) -> tuple[Body, str]:
    """The body of a request, sometimes with other text in the middle."""
    body = draw(st.sampled_from(BODIES))
    text = draw(objects(body.message))
    if draw(st.integers(0, 3)) == 0:
        start = draw(st.integers(0, len(text)))
        text = (
            text[:start]
            + draw(st.sampled_from([*'"{}[],:\\ -', '"unknown": 1, ', *SCRAPS]))
            + text[start + draw(st.integers(0, 2)) :]
        )
    return body, text


def refused_by_strict(body: Body, text: str) -> str | None:
    """Returns why `strict.lua` refuses a text, without the values of an enum, or None."""
    passed = STRICT.request({":method": body.verb, ":path": body.path}, text.encode())
    assert passed.status in (None, "422")
    return passed.status and re.sub("^(must be one of) .*", r"\1", str(passed.metadata["strict"]["description"]))


def refused_by_protobuf(body: Body, text: str) -> str | None:
    """Returns why protobuf refuses a text, or why the text contradicts the path, or None."""
    try:
        json_format.Parse(text, GetMessageClass(body.message)())
    except json_format.ParseError as error:
        return str(error)
    said = json.loads(text)
    for name in body.bound:
        values = {said.get(key) for key in (name, body.message.fields_by_name[name].json_name)} - {None}
        if values - {ID}:
            return "The path says something else."
    return None


@settings(max_examples=100, deadline=None)
@given(requests())
def test_bodies_are_read_as_protobuf_reads_them(request: tuple[Body, str]) -> None:
    ours, theirs = refused_by_strict(*request), refused_by_protobuf(*request)
    if ours is not None and theirs is None:
        assert ours in STRICTER
    elif ours is None and theirs is not None:
        assert re.search(LAXER, theirs)


@pytest.mark.parametrize(
    ("path", "text", "reason"),
    [
        ("/v1/users", '{"display_name": "x", "displayName": "x"}', "is there twice"),
        ("/v1/users:batchDelete", '{"requests": [[]]}', "must be an object"),
        ("/v1/users", '{"state": "1"}', "must be one of"),
        ("/v1/agents", '{"parameters": {"a": 9007199254740993}}', list(STRICTER)[3]),
        (f"/v1/serviceAccounts/{ID}/keys/{ID}:rotate", '{"overlapSeconds": "1_0"}', "must be a whole number"),
        ("/v1/users", '{"createTime": "2026-1-2T3:4:5Z"}', 'must be a time like "2030-01-31T00:00:00Z"'),
        ("/v1/users", '{"createTime": "2026-01-02T03:04:05+24:00"}', list(STRICTER)[6]),
        ("/ameide.user.v1.UserService/UpdateUser", '{"updateMask": "a b(c"}', list(STRICTER)[7]),
    ],
    ids=list(STRICTER),
)
def test_is_stricter_here(path: str, text: str, reason: str) -> None:
    body = next(body for body in BODIES if body.path == path and body.verb == "POST")
    assert (refused_by_strict(body, text), refused_by_protobuf(body, text)) == (reason, None)


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        ("99999999999999991611392", "must be one of"),
        ("1.5", "must be one of"),
        ("7", None),
    ],
)
def test_takes_the_numbers_that_an_enum_may_have(number: str, reason: str | None) -> None:
    body, text = (
        next(body for body in BODIES if (body.verb, body.path) == ("POST", "/v1/users")),
        f'{{"state": {number}}}',
    )
    assert refused_by_strict(body, text) == reason


def test_finds_a_way_to_both_verdicts() -> None:
    """The generated bodies would prove nothing if all were refused."""
    verdicts = Counter[bool]()

    @settings(max_examples=100, deadline=None, database=None, derandomize=True)
    @given(requests())
    def count(request: tuple[Body, str]) -> None:
        verdicts[refused_by_strict(*request) is None] += 1

    count()
    assert min(verdicts.values()) > 20


def test_a_refusal_is_text_that_json_may_hold() -> None:
    """`local_reply_config` writes it between quotes; a name may be any bytes, and is cut after 64."""
    for name in ('"', "\\", "\x07", "\xff", "a" * 63 + "é", "é", "%REQ(x)%"):
        query = name.encode("latin-1" if name == "\xff" else "utf-8").decode("latin-1")
        passed = STRICT.request({":method": "GET", ":path": f"/v1/users?{query}=1"})
        assert passed.status == "422"
        for said in passed.metadata["strict.json"].values():
            json.loads(f'"{said}"'.encode("latin-1"))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", "?resumeToken=new"),
        ("?filter=a&initialState=true", "?filter=a&initialState=true&resumeToken=new"),
        ("?resumeToken=old", "?resumeToken=new"),
        ("?resume_token=old&filter=a", "?filter=a&resumeToken=new"),
    ],
)
def test_goes_on_after_the_last_event_that_a_client_has(query: str, expected: str) -> None:
    asked = {":method": "GET", ":path": f"/v1/users:watch{query}", "last-event-id": "new"}
    assert STRICT.request(asked).headers[":path"] == f"/v1/users:watch{expected}"


def test_has_no_last_event_but_of_a_stream() -> None:
    asked = {":method": "GET", ":path": "/v1/users?filter=a", "last-event-id": "new"}
    assert STRICT.request(asked).headers[":path"] == "/v1/users?filter=a"
