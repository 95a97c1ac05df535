"""The overview for language models, as https://llmstxt.org proposes it: what there is, and where to read more."""

from tools.openapi.schemas import Json

_HEAD = """\
# Ameide API

> Users, workflows, agents and IPAs (a workflow bound to agents) of a tenant. REST, gRPC, gRPC-Web, Connect, MCP.

Send `Authorization: Bearer TOKEN`, or `X-API-Key: KEY` of a service account; the tenant comes from it. Every error has
a `reason` for programs. An `Idempotency-Key` makes a call that writes safe to repeat; an `etag` guards an update.

## Documents

- [OpenAPI](/openapi.json): every operation with its schemas, examples and errors.
- [Page](/docs): the same for people; it calls the API, too.
- [Tools for agents](/mcp): MCP, if it is switched on. /mcp/readonly only reads; /mcp/users and its like have fewer.
"""


def render(document: Json) -> str:
    """Returns the overview of what ``document`` describes."""
    parts = [_HEAD]
    for tag in document["tags"]:
        rows = [
            f"- [{verb.upper()} {path}](/docs#/{tag['name']}/{operation['operationId']}): {operation['summary']}.\n"
            for path, verbs in document["paths"].items()
            for verb, operation in verbs.items()
            if operation["tags"] == [tag["name"]]
        ]
        parts.append(f"\n## {tag['name']}\n\n{tag['description']}\n\n{''.join(rows)}")
    return "".join(parts)
