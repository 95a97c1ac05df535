"""Builds the one configuration of the edge: `envoy/envoy.yaml` with the generated parts in the places that it marks.

- `!generated replies` stands for the content of `generated/replies.yaml`.
- `!routes` stands for the generated routes; its mapping says what the edge does with each kind of route.
- `!page` stands for a route that answers with a file.
- `!decided` stands for a value of the environment's `edge.json`.
- `!bucket` stands for a token bucket: a rate of `edge.json`, and how many seconds of it the bucket holds.
- `!buckets` stands for such buckets of each tenant and each principal, `!sizes` for the limits that count bytes.
- `!endpoints` stands for the routes of each endpoint for AI agents; its file says what they are.
- `!file` stands for the content of another file, which may have tags, too; `!local` for one beside `edge.json`, if any.
- `!spliced` stands for a list in which each list is replaced by its items.
"""

import hashlib
import json
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


def build(generated: Path = GENERATED, decisions: Path | None = ENVOY / "local" / "edge.json") -> Any:
    """Returns the configuration. The plain listener and the TLS listener share one list of filters.

    Without ``decisions`` it has places for them, which `start.py` fills.
    """
    known = decided(decisions) if decisions else None

    class Loader(yaml.CSafeLoader):
        """Knows our tags."""

    def part(loader: yaml.CSafeLoader, node: yaml.ScalarNode) -> Any:
        return _read(generated / f"{loader.construct_scalar(node)}.yaml")

    def file(loader: yaml.CSafeLoader, node: yaml.ScalarNode) -> Any:
        return yaml.load((ENVOY / str(loader.construct_scalar(node))).read_text(), Loader)  # noqa: S506 - as below

    def decide(place: str) -> Any:
        return look_up(known, place) if known else f"@{place}@"

    def decision(loader: yaml.CSafeLoader, node: yaml.ScalarNode) -> Any:
        return decide(str(loader.construct_scalar(node)))

    def bucket(rate: str, seconds: int) -> Any:
        return {"max_tokens": decide(f"{rate}*{seconds}"), "tokens_per_fill": decide(rate), "fill_interval": "1s"}

    def one_bucket(loader: yaml.CSafeLoader, node: yaml.MappingNode) -> Any:
        found = loader.construct_mapping(node)
        return bucket(found["rate"], found["seconds"])

    def buckets(loader: yaml.CSafeLoader, node: yaml.MappingNode) -> Any:
        found = loader.construct_mapping(node, deep=True)
        return [
            {
                "entries": [*first, *({"key": key} for key in keys)],
                "token_bucket": bucket(f"{found['rate']}{part}.{keys[-1]}", found["seconds"]),
            }
            for part, first in _parts(found.get("classes"))
            for keys in (("tenant",), ("tenant", "principal"))
        ]

    def routes(loader: yaml.CSafeLoader, node: yaml.MappingNode) -> Any:
        kinds = loader.construct_mapping(node, deep=True)
        return [_route(kinds[one["kind"]], **one) for one in _read(generated / "routes.yaml")]

    def endpoints(loader: yaml.CSafeLoader, node: yaml.ScalarNode) -> Any:
        texts = _per_endpoint(ENVOY / str(loader.construct_scalar(node)), _read(generated / "mcp.yaml"))
        return [route for text in texts for route in yaml.load(text, Loader)]  # noqa: S506 - as below

    Loader.add_constructor("!generated", part)
    Loader.add_constructor("!endpoints", endpoints)
    Loader.add_constructor("!routes", routes)
    Loader.add_constructor("!page", _page)
    Loader.add_constructor("!bucket", one_bucket)
    Loader.add_constructor("!buckets", buckets)
    Loader.add_constructor("!sizes", _sizes)
    Loader.add_constructor("!decided", decision)
    Loader.add_constructor("!file", file)
    Loader.add_constructor("!local", lambda *node: _local(decisions, *node))
    Loader.add_constructor("!spliced", _splice)
    return yaml.load((ENVOY / "envoy.yaml").read_text(), Loader)  # noqa: S506 - a safe loader that knows more tags


def _local(decisions: Path | None, loader: yaml.CSafeLoader, node: yaml.ScalarNode) -> Any:
    path = decisions and decisions.parent / str(loader.construct_scalar(node))
    return _read(path) if path and path.exists() else []


def _route(what: dict[str, Any], *, match: Any, cluster: str, headers: dict[str, str], **_: str) -> Any:
    more = [{"header": {"key": key, "value": value}} for key, value in headers.items()]
    return what | {"match": match, "route": what["route"] | {"cluster": cluster}, "response_headers_to_add": more}


def _per_endpoint(template: Path, served: dict[str, Any]) -> list[str]:
    """Returns the text of ``template`` with the path and the tools of each endpoint in their places."""
    text = template.read_text()
    return [text.replace("ENDPOINT", path).replace("TOOLS", json.dumps(tools)) for path, tools in served.items()]


def _page(loader: yaml.CSafeLoader, node: yaml.MappingNode) -> Any:
    """Returns the routes to a file: `path`, `file`, `cache`; every other key is a header.

    The first is for clients who have it already: it answers 304 (RFC 9110, section 13.1.2).
    """
    page = loader.construct_mapping(node)
    path, file, cache = page.pop("path"), page.pop("file"), page.pop("cache")
    tag = f'"{hashlib.sha256(_source(file).read_bytes()).hexdigest()[:16]}"'
    kind = {"key": "content-type", "value": _TYPES[Path(file).suffix]}
    # header_mutation makes the etag of it, beside the compressor.
    more = page | {"cache-control": cache, "x-ameide-etag": tag}
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


def _parts(classes: list[str] | None) -> list[tuple[str, list[Any]]]:
    return [(f".{name}", [{"key": "class", "value": name}]) for name in classes] if classes else [("", [])]


def _sizes(loader: yaml.CSafeLoader, node: yaml.MappingNode) -> Any:
    """Returns the limits that count `bytes`, of those whom `metadata` names."""
    size = loader.construct_mapping(node)
    keys = [
        {"metadata": {"descriptor_key": key, "metadata_key": {"key": size["metadata"], "path": [{"key": key}]}}}
        for key in ("tenant", "principal")
    ]
    return [{"actions": keys[:count], "hits_addend": {"format": size["bytes"]}} for count in (1, 2)]


def _read(path: Path) -> Any:
    return yaml.load(path.read_text(), yaml.CSafeLoader)


def _splice(loader: yaml.CSafeLoader, node: yaml.SequenceNode) -> Any:
    items = loader.construct_sequence(node, deep=True)
    return [item for one in items for item in (one if isinstance(one, list) else [one])]
