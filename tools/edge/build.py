"""Builds the one configuration of the edge: `envoy/envoy.yaml` with the generated parts in the places that it marks.

- `!generated replies` stands for the content of `generated/replies.yaml`.
- `!routes` stands for the generated routes; its mapping says what the edge does with each kind of route.
- `!page` stands for a route that answers with a file.
- `!decided` stands for a value of the environment's `edge.json`.
- `!bucket` stands for a token bucket: a rate of `edge.json`, and how many seconds of it the bucket holds.
- `!buckets` stands for such buckets of each tenant and each principal, `!limits` for the limits that use them.
- `!endpoints` stands for the routes of each endpoint for AI agents; its file says what they are.
- `!file` stands for the content of another file, which may have tags, too; `!local` for one beside `edge.json`, if any.
- `!shared_limits` stands for the content of such a file if there are shared limits.
- `!spliced` stands for a list in which each list is replaced by its items.
- `!others` stands for a regular expression of all names but those in a file.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from tools.edge.start import decided, look_up
from tools.topology import ROOT

ENVOY: Final = ROOT / "envoy"
GENERATED: Final = ENVOY / "generated"
"""What `make proto` writes and git ignores."""

_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".txt": "text/plain; charset=utf-8",
}
_OFF: Final = {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": True}


def build(
    generated: Path = GENERATED,
    decisions: Path | None = ENVOY / "local" / "edge.json",
    *,
    source: str = "envoy.yaml",
    shared_limits: bool = False,
) -> Any:
    """Returns the configuration. The plain listener and the TLS listener share one list of filters.

    Without ``decisions`` it has places for them, which `start.py` fills. With ``shared_limits`` the edge asks the
    service of the shared limits about each call (ADR 50).
    """
    known = decided(decisions) if decisions else None

    class Loader(yaml.CSafeLoader):
        """Knows our tags."""

    def load(text: str) -> Any:
        return yaml.load(text, Loader)  # noqa: S506 - a safe loader that knows more tags

    def decide(place: str) -> Any:
        return look_up(known, place) if known else f"@{place}@"

    def bucket(*, rate: str, seconds: int) -> Any:
        return {"max_tokens": decide(f"{rate}*{seconds}"), "tokens_per_fill": decide(rate), "fill_interval": "1s"}

    def buckets(*, rate: str, seconds: int, classes: Sequence[str] = ()) -> Any:
        return [
            {
                "entries": [*first, *({"key": key} for key in keys)],
                "token_bucket": bucket(rate=f"{rate}{part}.{keys[-1]}", seconds=seconds),
            }
            for part, first in [(f".{name}", [{"key": "class", "value": name}]) for name in classes] or [("", [])]
            for keys in (("tenant",), ("tenant", "principal"))
        ]

    def routes(**kinds: Any) -> Any:
        return [_route(kinds[one["kind"]], **one) for one in _read(generated / "routes.yaml")]

    def file(name: str) -> Any:
        return load((ENVOY / name).read_text())

    def endpoints(name: str) -> Any:
        text, served = (ENVOY / name).read_text(), _read(generated / "mcp.yaml")
        texts = (text.replace("ENDPOINT", path).replace("TOOLS", json.dumps(tools)) for path, tools in served.items())
        return [route for one in texts for route in load(one)]

    def local(name: str) -> Any:
        path = decisions and decisions.parent / name
        return _read(path) if path and path.exists() else []

    tags = {
        "generated": _of_text(lambda name: _read(generated / f"{name}.yaml")),
        "endpoints": _of_text(endpoints),
        "routes": _of_mapping(routes),
        "page": _of_mapping(_page),
        "bucket": _of_mapping(bucket),
        "buckets": _of_mapping(buckets),
        "limits": _of_mapping(_limits),
        "decided": _of_text(decide),
        "file": _of_text(file),
        "local": _of_text(local),
        "shared_limits": _of_text(lambda name: file(name) if shared_limits else []),
        "spliced": _splice,
        "others": _of_text(lambda name: _others(file(name))),
    }
    for name, make in tags.items():
        Loader.add_constructor(f"!{name}", make)
    return file(source)


def _of_text(make: Callable[[str], Any]) -> Callable[[Any, Any], Any]:
    return lambda loader, node: make(str(loader.construct_scalar(node)))


def _of_mapping(make: Callable[..., Any]) -> Callable[[Any, Any], Any]:
    return lambda loader, node: make(**loader.construct_mapping(node, deep=True))


def _route(what: dict[str, Any], *, match: Any, cluster: str, headers: dict[str, str], **_: str) -> Any:
    more = [{"header": {"key": key, "value": value}} for key, value in headers.items()]
    return what | {"match": match, "route": what["route"] | {"cluster": cluster}, "response_headers_to_add": more}


def _page(*, path: str, file: str, cache: str, **more: str) -> Any:
    """Returns the routes to a file, with ``more`` headers.

    The first is for clients who have it already: it answers 304 (RFC 9110, section 13.1.2).
    """
    tag = f'"{hashlib.sha256(_source(file).read_bytes()).hexdigest()[:16]}"'
    kind = {"key": "content-type", "value": _TYPES[Path(file).suffix]}
    # header_mutation makes the etag of it, beside the compressor.
    more |= {"cache-control": cache, "x-ameide-etag": tag}
    headers = [{"header": {"key": key, "value": value}} for key, value in more.items()]
    reading = {"name": ":method", "string_match": {"safe_regex": {"regex": "GET|HEAD"}}}
    known = {"safe_regex": {"regex": rf"\*|(.*,)?[ \t]*(W/)?{tag}[ \t]*(,.*)?"}}
    off = {"typed_per_filter_config": {"envoy.filters.http.grpc_json_transcoder": _OFF}}
    return [
        off
        | {
            "match": {"path": path, "headers": [reading, {"name": "if-none-match", "string_match": known}]},
            "direct_response": {"status": 304},
            "response_headers_to_add": headers,
        },
        off
        | {
            "match": {"path": path, "headers": [reading]},
            "direct_response": {"status": 200, "body": {"filename": f"./{file}"}},
            "response_headers_to_add": [{"header": kind, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}, *headers],
        },
    ]


def _source(file: str) -> Path:
    """Returns where a file of the edge's working directory comes from (`layout.py`)."""
    folders = (ROOT / "docs", GENERATED, ENVOY, ROOT / "third_party" / "swagger-ui")
    return next(path for folder in folders for path in (folder / file, folder / Path(file).name) if path.exists())


def _limits(*, metadata: str, principal: str = "principal", size: str = "") -> Any:
    """Returns the limits of those whom ``metadata`` names: of calls in their class, or of bytes if a ``size`` is given.

    What has no class of its own is WRITE.
    """

    def said(key: str, name: str, **more: str) -> Any:
        place = {"key": metadata, "path": [{"key": name}]}
        return {"metadata": {"descriptor_key": key, "metadata_key": place, **more}}

    first = [] if size else [said("class", "class", default_value="WRITE")]
    keys = [said("tenant", "tenant"), said(principal, "principal")]
    counted = {"hits_addend": {"format": size}} if size else {}
    return [{"actions": [*first, *keys[:count]], **counted} for count in (1, 2)]


def _others(names: Iterable[str]) -> str:
    """Returns a regular expression of all texts but ``names``, letter by letter, because RE2 has no negation."""
    rests: dict[str, list[str]] = {}
    for name in names:
        rests.setdefault(name[:1], []).append(name[1:])
    ends = rests.pop("", None)
    letters = "".join(map(re.escape, rests))
    others = [f"[^{letters}].*" if letters else ".+", *(re.escape(one) + _others(rest) for one, rest in rests.items())]
    return f"({'|'.join(others if ends else ['', *others])})"


def _read(path: Path) -> Any:
    return yaml.load(path.read_text(), yaml.CSafeLoader)


def _splice(loader: yaml.CSafeLoader, node: yaml.SequenceNode) -> Any:
    items = loader.construct_sequence(node, deep=True)
    return [item for one in items for item in (one if isinstance(one, list) else [one])]
