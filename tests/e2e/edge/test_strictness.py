"""What the edge refuses of a JSON body because nobody would act on it, or two readers would differently (ADR 16)."""

import json
import re
from collections.abc import AsyncIterator
from decimal import Decimal
from math import inf
from typing import Any, Final

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.e2e.edge.backend import Backend
from tests.e2e.edge.callers import violation
from tests.e2e.edge.plugin import Layout, running

JSON: Final = {"content-type": "application/json"}
TEXT: Final = 6 * 256 * 1024
"""The longest text in bytes of JSON."""
TIME: Final = 'must be a time like "2030-01-31T00:00:00Z"'
NO_TIME: Final = "must be a time of the calendar, from year 1 to year 9999"


@pytest.fixture(scope="module")
async def everywhere(layout: Layout, published: None) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an edge that calls the scripted service for every method, whosoever it is."""

    def change(manager: Any) -> None:
        *routes, _nowhere = manager["route_config"]["virtual_hosts"][0]["routes"]
        for route in routes:
            if "route" in route:
                route["route"]["cluster"] = "users"

    async with running(layout("everywhere", 2, change)) as edge, edge.client(headers=edge.credentials) as client:
        yield client


class TestField:
    @pytest.mark.parametrize(
        ("path", "body", "field"),
        [
            ("/v1/users", '{"nick": 1}', "user.nick"),
            ("/v1/users", '{"DisplayName": "a"}', "user.DisplayName"),
            ("/v1/users", '{"user": {"displayName": "a"}}', "user.user"),
            ("/v1/users", '{"": 1}', "user."),
            ("/v1/users", '{"[ameide.user.v1.nick]": 1}', "user[ameide.user.v1.nick]"),
            ("/v1/users/a:suspend", '{"force": true}', "force"),
            ("/v1/workflows", '{"definition": {"nodes": [{}, {"colour": 1}]}}', "workflow.definition.nodes[1].colour"),
            ("/v1/serviceAccounts/a/keys/b:rotate", '{"overlap": 1}', "rotation.overlap"),
            ("/v1/users", '{"%s": 1}' % ("x" * 5000), "user." + "x" * 64),
        ],
        ids=["top", "case", "envelope", "empty", "extension", "verb", "deep", "part", "long"],
    )
    async def test_that_is_unknown_is_named(
        self, rest: httpx.AsyncClient, backend: Backend, path: str, body: str, field: str
    ) -> None:
        response = await rest.post(path, content=body, headers=JSON)
        assert violation(response) == (field, "is unknown")
        assert backend.calls == []

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ('{"email": "a", "email": "b"}', "user.email"),
            ('{"email": "a", "email": "a"}', "user.email"),
            ('{"displayName": "a", "display_name": "b"}', "user.displayName"),
            ('{"email": "a", "\\u0065mail": "b"}', "user.email"),
            ('{"email": null, "email": "b"}', "user.email"),
            ('{"labels": {"a": "1", "a": "2"}}', "user.labels[a]"),
            ('{"labels": {"\\u00e9": "1", "é": "2"}}', "user.labels[é]"),
        ],
        ids=["differs", "same", "spelling", "escape", "null", "map", "map escape"],
    )
    async def test_that_is_there_twice_is_named(
        self, rest: httpx.AsyncClient, backend: Backend, body: str, field: str
    ) -> None:
        response = await rest.post("/v1/users", content=body.encode(), headers=JSON)
        assert violation(response) == (field, "is there twice")
        assert backend.calls == []

    @pytest.mark.parametrize(
        ("path", "body", "field", "description"),
        [
            ("/v1/users", '{"displayName": 5}', "user.displayName", "must be a string"),
            ("/v1/users", '{"displayName": ["a"]}', "user.displayName", "must be a string"),
            ("/v1/users", '{"roles": "admin"}', "user.roles", "must be a list"),
            ("/v1/users", '{"roles": ["viewer", 5]}', "user.roles[1]", "must be a string"),
            ("/v1/users", '{"roles": [null]}', "user.roles[0]", "must be a string"),
            ("/v1/users", '{"roles": {"a": 1}}', "user.roles", "must be a list"),
            ("/v1/users", '{"labels": []}', "user.labels", "must be an object"),
            ("/v1/users", '{"labels": {"a": 1}}', "user.labels[a]", "must be a string"),
            ("/v1/users", '{"labels": {"a": null}}', "user.labels[a]", "must be a string"),
            ("/v1/users", '{"state": "ASLEEP"}', "user.state", "must be one of ACTIVE, SUSPENDED"),
            ("/v1/users", '{"state": true}', "user.state", "must be one of ACTIVE, SUSPENDED"),
            ("/v1/users", '{"createTime": 5}', "user.createTime", TIME),
            ("/v1/users", '{"createTime": "2030-01-31"}', "user.createTime", TIME),
            ("/v1/users", '{"createTime": "2030-01-31T00:00:00"}', "user.createTime", TIME),
            ("/v1/users", '{"createTime": "2030-02-31T00:00:00Z"}', "user.createTime", NO_TIME),
            ("/v1/ipas", '{"workflowRevision": "5x"}', "ipa.workflowRevision", "must be a whole number"),
            ("/v1/ipas", '{"workflowRevision": ""}', "ipa.workflowRevision", "must be a whole number"),
            ("/v1/ipas", '{"workflowRevision": true}', "ipa.workflowRevision", "must be a whole number"),
            ("/v1/agents", '{"parameters": []}', "agent.parameters", "must be an object"),
            ("/v1/agents", '{"tools": [[]]}', "agent.tools[0]", "must be an object"),
            ("/v1/agents", "[]", "agent", "must be an object"),
            ("/v1/agents", "null", "agent", "must be an object"),
            ("/v1/agents/a:disable", '"a"', "", "must be an object"),
        ],
    )
    async def test_of_another_type_is_named(
        self, rest: httpx.AsyncClient, path: str, body: str, field: str, description: str
    ) -> None:
        response = await rest.post(path, content=body, headers=JSON)
        assert violation(response) == (field, description)

    @pytest.mark.parametrize("value", ["1.5", '"1.5"', "2147483648", '"-2147483649"', "1e99", "NaN", '"NaN"'])
    async def test_that_is_no_integer_is_refused(self, rest: httpx.AsyncClient, value: str) -> None:
        body = f'{{"workflowRevision": {value}}}'
        said = violation(await rest.post("/v1/ipas", content=body, headers=JSON))
        assert said[0] == "ipa.workflowRevision"
        assert said[1] in {"must be a whole number", "must be from -2147483648 to 2147483647"}

    @pytest.mark.parametrize(
        ("body", "expected"),
        [
            ('{"display_name": "a"}', {"display_name": "a"}),
            ('{"\\u0065mail": "\\ud83d\\ude00\\n\\/"}', {"email": "\U0001f600\n/"}),
            (' \t\r\n{ "email" : "a" }\n', {"email": "a"}),
            ('{"email": null, "labels": null, "roles": null, "state": null}', {}),
            ('{"state": "SUSPENDED"}', {"state": 2}),
            ('{"state": 2}', {"state": 2}),
            ('{"createTime": "2026-01-02T03:04:05.5Z"}', {"create_time": None}),
            ('{"labels": {"a": "1", "b": "2"}, "roles": []}', {"labels": {"a": "1", "b": "2"}}),
            ("{}", {}),
            ("", {}),
        ],
    )
    async def test_as_the_json_of_protobuf_has_it_passes(
        self, rest: httpx.AsyncClient, backend: Backend, body: str, expected: dict[str, Any]
    ) -> None:
        response = await rest.post("/v1/users", content=body, headers=JSON)
        assert response.status_code == 200, response.text
        user = backend.calls[0].request.user
        assert {field.name for field, _ in user.ListFields()} == set(expected)
        assert {name: value for name, value in expected.items() if value and getattr(user, name) != value} == {}

    @pytest.mark.parametrize("value", ["5", '"5"', "5.0", "5e0", "-0"])
    async def test_may_be_a_number_in_every_spelling(self, everywhere: httpx.AsyncClient, value: str) -> None:
        body = f'{{"workflowRevision": {value}}}'
        assert (await everywhere.post("/v1/ipas", content=body, headers=JSON)).status_code == 200

    @pytest.mark.parametrize(
        "number",
        [
            *("9007199254740993", "-9007199254740993", "9007199254740993.0", "9.007199254740993e15"),
            *("9223372036854775807", "1" * 300, "1e400", "1e1048576", "-1e11048576", "1e-11048576", "1e" + "9" * 99),
        ],
    )
    async def test_that_a_double_does_not_hold_is_named(
        self, rest: httpx.AsyncClient, backend: Backend, number: str
    ) -> None:
        body = f'{{"parameters": {{"a": [1, {{"b": {number}}}]}}}}'
        said = violation(await rest.post("/v1/agents", content=body, headers=JSON))
        assert said == (
            "agent.parameters[a][1][b]",
            "is a number that a double does not hold: send it as a string",
        )
        assert backend.calls == []

    @pytest.mark.parametrize(
        "number", ["9007199254740992", "-9007199254740994", "1152921504606846976", "1152921504606847000", "1e23", "0.1"]
    )
    async def test_that_a_double_holds_passes(self, everywhere: httpx.AsyncClient, number: str) -> None:
        body = f'{{"parameters": {{"a": {number}}}}}'
        assert (await everywhere.post("/v1/agents", content=body, headers=JSON)).status_code == 200

    async def test_that_is_the_id_of_the_path_may_have_another_case(
        self, rest: httpx.AsyncClient, backend: Backend
    ) -> None:
        lower = "6f9c2a34-8f3f-4b0e-9a51-0c8f4f0f4f1a"
        upper = lower.upper()
        for in_path, in_body in ((upper, lower), (lower, upper)):
            path = f"/v1/users/{in_path}"
            for response in (
                await rest.patch(f"{path}?updateMask=displayName", json={"id": in_body, "displayName": "a"}),
                await rest.post(f"{path}:suspend", json={"id": in_body}),
            ):
                assert response.status_code == 200, response.text
            assert {call.request.user.id for call in backend.calls if call.method == "UpdateUser"} <= {upper, lower}
        assert [call.method for call in backend.calls] == ["UpdateUser", "SuspendUser"] * 2
        other = await rest.patch(f"/v1/users/{upper}", json={"id": f"{lower[:-1]}b"})
        assert violation(other) == ("user.id", "is not what the path says")

    async def test_that_the_path_holds_must_agree(self, rest: httpx.AsyncClient, backend: Backend) -> None:
        for path, body in (
            ("/v1/serviceAccounts/a", {"id": "b"}),
            ("/v1/users/a", {"id": ""}),
            ("/v1/users/a%62", {"id": "a%62"}),
        ):
            found = violation(await rest.patch(path, json=body))
            assert found[0].endswith(".id")
            assert found[1] == "is not what the path says"
        for path, body in (
            ("/v1/users/a:suspend", {"id": "b"}),
            ("/v1/serviceAccounts/a/keys", {"serviceAccountId": "b"}),
            ("/v1/serviceAccounts/a/keys", {"service_account_id": "b"}),
        ):
            assert violation(await rest.post(path, json=body))[1] == "is not what the path says"
        assert backend.calls == []
        assert (await rest.patch("/v1/users/a%62", json={"id": "ab"})).status_code == 200
        assert backend.calls[0].request.user.id == "ab"


class TestText:
    @pytest.mark.parametrize(
        "body",
        [
            b"{",
            b'{"email": "a"',
            b'{"email": "a',
            b'{"email": "a"}}',
            b'{"email": "a"} {}',
            b'{"email": "a",}',
            b'{"roles": ["a",]}',
            b'{"roles": ["a" "b"]}',
            b'{"roles": [,"a"]}',
            b"{'email': 'a'}",
            b'{email: "a"}',
            b'{"email" "a"}',
            b'{"email": "a"; "state": 1}',
            b'{"email": "\\x61"}',
            b'{"email": "\\u12"}',
            b'{"email": "\\ud83d"}',
            b'{"email": "\\ude00\\ud83d"}',
            b'{"email": "a\tb"}',
            b'{"email": "\xff\xfe"}',
            b'{"email": "\xed\xa0\x80"}',
            b'{"state": 01}',
            b'{"state": +1}',
            b'{"state": 1.}',
            b'{"state": .5}',
            b'{"state": 0x1}',
            b'{"email": nul}',
            b'{"email": nullx}',
            b'{"email": /* a */ "b"}',
            b'{"email": "a"} // b',
            b'\xef\xbb\xbf{"email": "a"}',
            b" ",
            b"a",
            b"\0",
        ],
    )
    async def test_that_is_no_json_is_refused(self, rest: httpx.AsyncClient, backend: Backend, body: bytes) -> None:
        violation(await rest.post("/v1/users", content=body, headers=JSON))
        assert backend.calls == []

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    async def test_is_read_as_json_is(self, everywhere: httpx.AsyncClient, data: st.DataObject) -> None:
        """Any JSON, a few of its characters changed: the edge takes what Python's parser takes, made strict."""
        leaves = (
            st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
        )
        texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
        trees = st.recursive(
            leaves | texts,
            lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
            max_leaves=12,
        )
        ascii_only, indent = data.draw(st.booleans()), data.draw(st.sampled_from([None, 1]))
        body = json.dumps({"a": data.draw(trees)}, ensure_ascii=ascii_only, indent=indent)
        for _ in range(data.draw(st.integers(0, 2))):
            start = data.draw(st.integers(1, len(body) - 1))
            put = data.draw(
                st.sampled_from(["", *'"\\{}[]:,', "\\u", "d83d", "0", "1", ".", "e", "-", "true", " ", "\n"])
            )
            body = body[:start] + put + body[start + data.draw(st.integers(0, 1)) :]
        text = f'{{"parameters": {body}}}'.encode()
        response = await everywhere.post("/v1/agents", content=text, headers=JSON)
        assert response.status_code == (200 if is_strict_json(text) else 400), response.text


def is_strict_json(text: bytes) -> bool:
    """Whether this is JSON, and means the same to everybody (RFC 7493)."""

    def unique(members: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in members}) < len(members):
            raise ValueError("a name twice")
        return dict(members)

    def refuse(name: str) -> None:
        raise ValueError(name)

    def finite(number: str) -> float:
        value = float(number)
        exponent = int(re.split("[eE]", number + "e0")[1])
        if abs(exponent) > 1_000_000:
            raise ValueError(number)
        if abs(value) >= 2**53 and (value in {inf, -inf} or Decimal(number) not in {Decimal(repr(value)), int(value)}):
            raise ValueError(number)
        return value

    try:
        value = json.loads(text, object_pairs_hook=unique, parse_constant=refuse, parse_float=finite, parse_int=finite)
        json.dumps(value, ensure_ascii=False).encode()
    except ValueError:
        return False
    return isinstance(value["parameters"], dict | None)


class TestSize:
    @pytest.mark.parametrize(
        ("value", "status"),
        [
            ("[" * 30 + "]" * 30, 200),
            ("[" * 31 + "]" * 31, 400),
            ("[" * 100_000, 400),
            ('{"a":' * 100_000, 400),
            ("[" + "1," * 19_995 + "1]", 200),
            ("[" + "1," * 19_996 + "1]", 400),
            ("{" + ",".join(f'"{n}":1' for n in range(9_998)) + "}", 200),
            ("{" + ",".join(f'"{n}":1' for n in range(9_999)) + "}", 400),
            (f'"{"x" * TEXT}"', 200),
            (f'"{"x" * (TEXT + 1)}"', 400),
            ("0." + "1" * 298, 200),
            ("1" * 1001, 400),
            ("0." + "1" * 5_000_000, 400),
        ],
        ids=[
            *("deep", "deeper", "abyss", "abyss of objects", "many", "more", "members", "more members"),
            *("text", "longer text", "long", "longer", "endless"),
        ],
    )
    async def test_is_bounded(self, everywhere: httpx.AsyncClient, value: str, status: int) -> None:
        body = f'{{"parameters": {{"a": {value}}}}}'
        response = await everywhere.post("/v1/agents", content=body, headers=JSON)
        assert response.status_code == status, response.text
