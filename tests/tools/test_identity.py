"""The development identity: tokens that verify, and a command that prints nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs

import httpx
import jwt
import pytest
from api_common.authn import OidcVerifier

from tests.e2e.edge.plugin import publishing
from tools.secrets import identity
from tools.secrets.issuer import IssuerServer
from tools.topology import AUDIENCE, ISSUER, ROOT, MeshError


def verified(token: str, folder: Path) -> dict[str, object]:
    (key,) = jwt.PyJWKSet.from_json((folder / "jwks.json").read_text()).keys
    assert jwt.get_unverified_header(token) == {"alg": "RS256", "kid": key.key_id, "typ": "JWT"}
    return jwt.decode(token, key, algorithms=["RS256"], audience=AUDIENCE, issuer=ISSUER)


def print_token(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "AMEIDE_LOCAL_DIR": str(folder), **variables}
    command = [sys.executable, "-m", "tools.secrets.identity"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


class TestMint:
    def test_verifies_against_the_key_set_and_carries_the_claims(self, tmp_path: Path) -> None:
        token = identity.mint(tmp_path, sub="ada", tenant="acme", roles=["admin", "viewer"], ttl_seconds=60)
        claims = verified(token, tmp_path)
        assert claims["sub"] == "ada"
        assert claims["tenant_id"] == "acme"
        assert claims["roles"] == ["admin", "viewer"]
        assert claims["email"] == "ada@acme.example"
        assert isinstance(claims["iat"], int)
        assert claims["exp"] == claims["iat"] + 60

    def test_keeps_its_key(self, tmp_path: Path) -> None:
        first = identity.ensure(tmp_path).read_bytes()
        assert identity.ensure(tmp_path).read_bytes() == first

    def test_publishes_nothing_private(self, tmp_path: Path) -> None:
        (key,) = json.loads(identity.ensure(tmp_path).read_text())["keys"]
        assert set(key) == {"kty", "kid", "use", "alg", "n", "e"}
        assert (tmp_path / "private.pem").stat().st_mode & 0o777 == 0o600

    def test_makes_the_key_set_anew_from_the_same_key(self, tmp_path: Path) -> None:
        first = identity.ensure(tmp_path).read_bytes()
        (tmp_path / "jwks.json").unlink()
        assert identity.ensure(tmp_path).read_bytes() == first

    def test_names_the_remedy_for_a_broken_key(self, tmp_path: Path) -> None:
        identity.ensure(tmp_path)
        (tmp_path / "private.pem").write_text("scribble")
        with pytest.raises(MeshError, match="make reset"):
            identity.mint(tmp_path, sub="ada", tenant="acme", roles=[])


class TestSignIn:
    def test_leads_back_to_the_console_with_a_token(self, tmp_path: Path) -> None:
        console = "http://127.0.0.1:8080/console"
        with publishing(IssuerServer(tmp_path, 0, console=console)) as server:
            assert server.server_address[0] == "127.0.0.1"
            answer = httpx.get(f"{server.url}/sign-in", params={"state": "a\r\nb&token=c"})
        assert answer.status_code == 303
        address, _, told = answer.headers["location"].partition("#")
        found = parse_qs(told)
        assert (address, found["state"]) == (console, ["a\r\nb&token=c"])
        claims = verified(found["token"][0], tmp_path)
        assert (claims["sub"], claims["tenant_id"], claims["roles"]) == ("ada", "acme", ["admin"])

    def test_is_for_issuers_that_know_a_console(self, tmp_path: Path) -> None:
        with publishing(IssuerServer(tmp_path, 0)) as server:
            assert httpx.get(f"{server.url}/sign-in").status_code == 404


class TestTokenCommand:
    def test_prints_a_token_and_nothing_else(self, tmp_path: Path) -> None:
        result = print_token(tmp_path, SUB="bob", TENANT="globex", ROLES="viewer, editor", TTL="120")
        assert result.stderr == ""
        assert result.stdout.count("\n") == 1
        claims = verified(result.stdout.strip(), tmp_path / "issuer")
        assert (claims["sub"], claims["tenant_id"], claims["roles"]) == ("bob", "globex", ["viewer", "editor"])

    def test_has_defaults(self, tmp_path: Path) -> None:
        claims = verified(print_token(tmp_path).stdout.strip(), tmp_path / "issuer")
        assert (claims["sub"], claims["tenant_id"], claims["roles"]) == ("ada", "acme", ["admin"])

    def test_gives_no_role_if_none_is_asked_for(self, tmp_path: Path) -> None:
        claims = verified(print_token(tmp_path, ROLES="").stdout.strip(), tmp_path / "issuer")
        assert claims["roles"] == []

    @pytest.mark.parametrize("ttl", ["soon", "86401", "999999", "1.5"])
    def test_says_what_is_wrong_with_the_time(self, tmp_path: Path, ttl: str) -> None:
        """A longer token would be refused by edge and services."""
        result = print_token(tmp_path, TTL=ttl)
        assert result.returncode != 0
        assert result.stdout == ""
        assert result.stderr == f"TTL must be a whole number of seconds up to 86400, not {ttl!r}\n"
        assert OidcVerifier.MAX_LIFETIME_SECONDS == 86400


class TestRotate:
    @staticmethod
    def known(folder: Path) -> list[str]:
        return [key["kid"] for key in json.loads((folder / "jwks.json").read_text())["keys"]]

    @staticmethod
    def signing(folder: Path) -> str:
        token = identity.mint(folder, sub="ada", tenant="acme", roles=[])
        return str(jwt.get_unverified_header(token)["kid"])

    def test_signs_with_a_key_only_while_it_is_published(self, tmp_path: Path) -> None:
        first = self.signing(tmp_path)
        for step in identity.ROTATION:
            # Twice: a step may be repeated.
            for _ in range(2):
                identity.rotate(tmp_path, step)
                assert self.signing(tmp_path) in self.known(tmp_path)
            assert (first in self.known(tmp_path)) == (step != "retire")
            assert (first == self.signing(tmp_path)) == (step == "publish")
        assert len(self.known(tmp_path)) == 1
        assert not (tmp_path / "next.pem").exists()

    @pytest.mark.parametrize(("taken", "step"), [((), "activate"), (("publish",), "retire")])
    def test_keeps_the_order(self, tmp_path: Path, taken: tuple[str, ...], step: str) -> None:
        for before in taken:
            identity.rotate(tmp_path, before)
        with pytest.raises(MeshError, match="first"):
            identity.rotate(tmp_path, step)

    def test_ends_one_rotation_before_the_next(self, tmp_path: Path) -> None:
        identity.rotate(tmp_path, "publish")
        identity.rotate(tmp_path, "activate")
        with pytest.raises(MeshError, match="retire first"):
            identity.rotate(tmp_path, "publish")
