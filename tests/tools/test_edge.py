import re
from pathlib import Path

import pytest
import yaml
from api_common.authn import CLAIM_MAPS

from tools.edge import layout as edge
from tools.edge.build import ENVOY, GENERATED, build
from tools.topology import SERVICES


@pytest.fixture
def certs(tmp_path: Path) -> Path:
    folder = tmp_path / "certs"
    folder.mkdir()
    return folder


class TestLayOut:
    def test_lays_what_the_configuration_names(self, tmp_path: Path, certs: Path) -> None:
        target = tmp_path / "envoy"
        edge.lay_out(target, certs=certs)
        lua = [path.name for path in (ENVOY / "lua").iterdir()]
        sources = {
            **{name: ENVOY / "local" / name for name in ("authentication.yaml", "audience.lua", "edge.json")},
            **{name: GENERATED / name for name in ("transcoder.pb", "rpcs.lua", "open_paths.lua", "replies.lua")},
            "mcp/users/tools.json": GENERATED / "mcp" / "users" / "tools.json",
            **{f"lua/{name}": ENVOY / "lua" / name for name in lua},
        }
        for laid, source in sources.items():
            assert (target / laid).read_bytes() == source.read_bytes()
        texts = (target / "envoy.yaml").read_text() + (target / "clusters.yaml").read_text()
        named = re.findall(r"\./([\w./-]+)", texts)
        assert {name for name in named if not (target / name).exists()} == set()
        assert (target / "certs").resolve() == certs

    @pytest.mark.parametrize("claims", CLAIM_MAPS)
    def test_lays_the_claims_that_were_chosen(self, tmp_path: Path, certs: Path, claims: str) -> None:
        edge.lay_out(tmp_path / "envoy", certs=certs, claims=claims)
        chosen = ENVOY / "claims" / f"{claims}.lua"
        assert (tmp_path / "envoy" / "claims.lua").read_bytes() == chosen.read_bytes()

    def test_moves_every_port_and_nothing_else(self, tmp_path: Path, certs: Path) -> None:
        edge.lay_out(tmp_path / "here", certs=certs)
        edge.lay_out(tmp_path / "there", certs=certs, port_offset=100)
        for name, ports in (
            ("envoy.yaml", (9901, 8080, 9100, 8443, 9100, 9105, 9901)),
            ("clusters.yaml", (*(service.grpc_port for service in SERVICES), 9100, 4317)),
        ):
            here, there = (
                yaml.load((tmp_path / side / name).read_text(), yaml.CSafeLoader) for side in ("here", "there")
            )
            moved = re.findall(r"'port_(?:value|redirect)': (\d+)", str(there))
            assert [int(port) for port in moved] == [port + 100 for port in ports]
            back = re.sub(r"('port_\w+': )(\d+)", lambda match: f"{match[1]}{int(match[2]) - 100}", str(there))
            assert back == str(here)

    def test_replaces_an_earlier_layout(self, tmp_path: Path, certs: Path) -> None:
        target = tmp_path / "envoy"
        edge.lay_out(target, certs=tmp_path, port_offset=100)
        edge.lay_out(target, certs=certs)
        assert yaml.load((target / "envoy.yaml").read_text(), yaml.CSafeLoader) == build()
        assert (target / "certs").resolve() == certs
