"""The files of `envoy/lua/` without Envoy: in the same LuaJIT, with `envoy.lua` for what Envoy gives them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lupa.luajit21 import LuaRuntime

from tools.edge.build import ENVOY, GENERATED

_ENCODING: Final = "latin-1"
"""Strings of Lua are bytes; in Python each byte is one character."""


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
