"""The files of `envoy/lua/` without Envoy: in the same LuaJIT, with `envoy.lua` for what Envoy gives them."""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lupa.luajit21 import LuaRuntime

from tools.edge.build import ENVOY, GENERATED, build
from tools.topology import AUDIENCE, ISSUER

JWT_AUTHN: Final = "envoy.filters.http.jwt_authn"
TOKEN: Final = "e30.e30.AAAA"
_ENCODING: Final = "latin-1"
"""Strings of Lua are bytes; in Python each byte is one character."""
_MANAGER: Final = build()["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
_OTHERS: Final = next(
    rule["remove_on_match"]["key_matcher"]["safe_regex"]["regex"]
    for rule in _MANAGER["early_header_mutation_extensions"][0]["typed_config"]["mutations"]
    if "remove_on_match" in rule
)
"""The names of headers that nobody reads."""


@dataclass(frozen=True)
class Passed:
    """What a filter made of a request or a response."""

    headers: dict[str, str]
    metadata: Any
    """A table of Lua: what filters tell each other."""
    status: str | None
    """The status of the filter's own response, if it made one."""
    allow: str | None
    """The methods that the response says the path has."""
    text: str | None
    """The body of that response."""


class Filter:
    """One file, in a runtime of its own, as a worker of Envoy has it."""

    def __init__(self, name: str, generated: Path = GENERATED, claims: str = "generic") -> None:
        self._runtime: Any = LuaRuntime(encoding=_ENCODING)
        package = self._runtime.globals().package
        package.path = f"{generated}/?.lua;{ENVOY}/local/?.lua;{ENVOY}/?.lua"
        package.loaded["claims"] = self._run(ENVOY / "claims" / f"{claims}.lua")
        self._handle = self._run(Path(__file__).with_name("envoy.lua"))
        self._run(ENVOY / "lua" / f"{name}.lua")

    def request(self, headers: Mapping[str, str], content: bytes = b"", metadata: Mapping[str, Any] = {}) -> Passed:
        """Passes a request through the filter."""
        return self._pass("envoy_on_request", headers, content, metadata)

    def response(self, headers: Mapping[str, str], metadata: Any = None) -> dict[str, str]:
        """Passes a response through the filter, with what it told itself of the request, and returns its headers."""
        return self._pass("envoy_on_response", headers, b"", dict(metadata or {})).headers

    def _pass(self, function: str, headers: Mapping[str, str], content: bytes, metadata: Mapping[str, Any]) -> Passed:
        table = self._runtime.table_from
        seen, handle = self._handle(table(headers), content.decode(_ENCODING), table(metadata, recursive=True))
        self._runtime.globals()[function](handle)
        return Passed(dict(seen.headers.items()), seen.metadata, seen.status, seen.allow, seen.text)

    def _run(self, path: Path) -> Any:
        return self._runtime.execute(path.read_text(_ENCODING))


def good_claims(**changed: object) -> dict[str, Any]:
    """Returns the claims of a good token of ada in the tenant acme; what is None is missing."""
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "tenant_id": "acme", "roles": ["admin"], "iat": now}
    return {name: value for name, value in (claims | {"exp": now + 60} | changed).items() if value is not None}


def verified(claims: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what jwt_authn tells the next filters of a token."""
    return {JWT_AUTHN: {"claims": claims, "header": {"kid": "one"}}}


class Transport(Filter):
    """`transport.lua` behind what `envoy.yaml` does before: count the headers and remove those that nobody reads."""

    def __init__(self) -> None:
        super().__init__("transport")

    def request(self, headers: Mapping[str, str], content: bytes = b"", metadata: Mapping[str, Any] = {}) -> Passed:
        counted = {"x-ameide-header-bytes": str(sum(map(len, [*headers, *headers.values()])))}
        kept = {name: value for name, value in headers.items() if not re.fullmatch(_OTHERS, name)}
        passed = super().request(kept | counted, content, metadata)
        del passed.headers["x-ameide-header-bytes"]
        return passed
