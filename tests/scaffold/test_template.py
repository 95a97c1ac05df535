"""The template is the agents service without tools, parameters and reservations: no line of it has become untrue."""

import re
from collections.abc import Set
from pathlib import Path
from typing import Final

import pytest

from tests.protos import ROOT
from tools.scaffold.__main__ import render

OWN: Final = frozenset(
    {
        'revision = "0001"',
        'servicers={agent_pb2.DESCRIPTOR.services_by_name["AgentService"]: _servicer},',
        "return AgentServicer(AgentRepository(dependencies.page_tokens), watch, quotas)",
        "return agent_to_proto(await self.agents.delete(ctx.transaction, request.id, etag=request.etag))",
        'return agent_to_proto(await self.agents.move(ctx.transaction, request.id, "disable", etag=request.etag))',
        'return {**agent_from_proto(request.agent), "state": State.DRAFT}',
        "FIELDS = resource_fields(agents, State)",
        'MUTABLE = frozenset({"display_name", "labels", "description"})',
        '\'{"displayName": "Example",\'',
        '\' "labels": {"team": "a"},\'',
        '\' "description": "The first one"}\';',
        # A later version gave the real table this name.
        "CREATE TABLE recorded_changes (",
        "CONSTRAINT pk_recorded_changes PRIMARY KEY (tenant_id, seq)",
        "CREATE INDEX ix_recorded_changes_xid_tenant_id ON recorded_changes (xid, tenant_id);",
        "CREATE POLICY changes_reap ON recorded_changes",
        "USING (current_setting('app.task', true) = 'reap' AND true) WITH CHECK (false);",
        "CREATE POLICY changes_tenant ON recorded_changes",
        "ALTER TABLE recorded_changes ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;",
    }
)
"""The lines that agents has in another form, because it has more to do in them."""


def lines(folder: Path) -> Set[str]:
    """Returns the code of the agents service and its proto; imports and texts for people are left out."""
    paths = (
        *folder.glob("services/agents/agents_service/*.py"),
        *folder.glob("services/agents/migrations/versions/[0-9]*.*"),
        folder / "proto/ameide/agent/v1/agent.proto",
    )
    code = "\n".join(
        re.sub(r'^ *"""(?!\n).*?"""', "", path.read_text(), flags=re.DOTALL | re.MULTILINE) for path in paths
    )
    return {line.strip() for line in code.splitlines() if not re.match(r"\s*(//|--|#|import |from )", line)}


def test_every_line_is_one_of_a_real_service(tmp_path: Path) -> None:
    render("agents", tmp_path)
    invented = lines(tmp_path) - lines(ROOT)
    assert invented == OWN, "change tools/scaffold/template as services/agents was changed"


def test_has_the_rpcs_of_the_real_service(tmp_path: Path) -> None:
    render("agents", tmp_path)
    rpcs = [
        re.findall(r"^  rpc (\w+)", (folder / "proto/ameide/agent/v1/agent.proto").read_text(), re.MULTILINE)
        for folder in (tmp_path, ROOT)
    ]
    assert rpcs[0] == rpcs[1]


@pytest.mark.parametrize("name", ["connector", "Connectors", "my-connectors", "s", "../connectors", "a" * 30 + "s"])
def test_refuses_what_is_no_plural_of_one_word(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="must be a plural"):
        render(name, tmp_path)
    assert list(tmp_path.iterdir()) == []
