"""Who may call a service, and with what; every token that was made for something else is refused."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from api_common.authn.authenticator import EDGE, TRUST_DOMAIN, Authenticator, peer_of, read_peer
from api_common.authn.key_sets import FileKeySet
from api_common.authn.oidc import OidcVerifier
from api_common.authn.principal import Principal
from api_common.authn.service_tokens import TOKEN_TYPE, Peer, ServiceTokenSigner, spiffe_id
from api_common.authn.tls import channel_credentials, server_credentials
from api_common.errors import AuthorizationError, UnauthenticatedError
from api_common.settings import TlsSettings
from api_common.testing import AUDIENCE, Identity
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

from tools.secrets.certificates import ensure

METHOD = "/ameide.agent.v1.AgentService/GetAgent"
ADA = Principal("ada", "acme", frozenset({"viewer"}), "ada@example.com", time.time() + 3600)


USERS_OWN = jwt.encode({"iss": "users"}, "x" * 32)


class Users(OidcVerifier):
    """A verifier that knows one token."""

    async def verify(self, token: str) -> Principal:
        if token != USERS_OWN:
            raise UnauthenticatedError
        return ADA


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certs")
    ensure(folder)
    return folder


def signer(folder: Path, name: str, now: float | None = None) -> ServiceTokenSigner:
    clock = time.time if now is None else lambda: now
    return ServiceTokenSigner((folder / f"{name}.pem").read_bytes(), (folder / f"{name}.key").read_bytes(), now=clock)


def peer(folder: Path, name: str) -> Peer:
    certificate = (folder / f"{name}.pem").read_bytes()
    return Peer(spiffe_id(certificate), certificate)


def issue(folder: Path, target: Path, names: Sequence[x509.GeneralName]) -> None:
    """Makes `odd.pem` and `odd.key`: our authority's word for ``names``, whatever they are."""
    authority = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
    authority_key = load_pem_private_key((folder / "ca.key").read_bytes(), None)
    assert isinstance(authority_key, EllipticCurvePrivateKey)
    key = generate_private_key(SECP256R1())
    today = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, EDGE)]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - timedelta(hours=1))
        .not_valid_after(today + timedelta(days=1))
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    (target / "odd.pem").write_bytes(builder.sign(authority_key, SHA256()).public_bytes(Encoding.PEM))
    (target / "odd.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


@pytest.fixture
def policy(identity: Identity) -> Authenticator:
    return Authenticator(
        {"users": Users(issuer="users", audience=AUDIENCE, key_set=FileKeySet(identity.jwks_path))},
        service="agents",
        callers=("edge", "ipas"),
    )


class TestPeerPolicy:
    async def test_lets_the_edge_pass_on_a_users_token(self, policy: Authenticator, folder: Path) -> None:
        assert await policy.authenticate(USERS_OWN, peer=peer(folder, "edge"), method=METHOD) is ADA

    async def test_lets_a_named_sibling_act_for_a_user(self, policy: Authenticator, folder: Path) -> None:
        token = signer(folder, "ipas").token(ADA, audience=f"{TRUST_DOMAIN}agents", method=METHOD)
        for _ in range(2):
            found = await policy.authenticate(token, peer=peer(folder, "ipas"), method=METHOD)
            assert replace(found, expires_at=ADA.expires_at) == replace(ADA, actor=f"{TRUST_DOMAIN}ipas")

    async def test_remembers_a_token_for_its_method_and_peer_only(self, policy: Authenticator, folder: Path) -> None:
        own, forged = (
            signer(folder, name).token(ADA, audience=f"{TRUST_DOMAIN}agents", method=METHOD)
            for name in ("ipas", "users")
        )
        await policy.authenticate(own, peer=peer(folder, "ipas"), method=METHOD)
        for token, name, method in ((forged, "ipas", METHOD), (own, "edge", METHOD), (own, "ipas", f"{METHOD}s")):
            with pytest.raises(UnauthenticatedError):
                await policy.authenticate(token, peer=peer(folder, name), method=method)

    async def test_forgets_a_token_that_has_expired(
        self, policy: Authenticator, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        token = signer(folder, "ipas").token(ADA, audience=f"{TRUST_DOMAIN}agents", method=METHOD)
        found = await policy.authenticate(token, peer=peer(folder, "ipas"), method=METHOD)
        end = found.expires_at + OidcVerifier.CLOCK_SKEW_SECONDS
        monkeypatch.setattr(policy, "_now", lambda: end - 0.5)
        assert await policy.authenticate(token, peer=peer(folder, "ipas"), method=METHOD) == found
        monkeypatch.setattr(policy, "_now", lambda: end)
        with pytest.raises(UnauthenticatedError):
            await policy.authenticate(token, peer=peer(folder, "ipas"), method=METHOD)

    async def test_knows_a_program_from_a_user(self, policy: Authenticator, folder: Path) -> None:
        program = replace(ADA, kind="service_account")
        token = signer(folder, "ipas").token(program, audience=f"{TRUST_DOMAIN}agents", method=METHOD)
        assert (await policy.authenticate(token, peer=peer(folder, "ipas"), method=METHOD)).kind == "service_account"

    async def test_refuses_everybody_else_whatever_they_carry(self, policy: Authenticator, folder: Path) -> None:
        for name in ("workflows", "users"):
            token = signer(folder, name).token(ADA, audience=f"{TRUST_DOMAIN}agents", method=METHOD)
            for credential in (token, USERS_OWN):
                with pytest.raises(AuthorizationError):
                    await policy.authenticate(credential, peer=peer(folder, name), method=METHOD)

    async def test_refuses_a_users_own_token_from_a_sibling(self, policy: Authenticator, folder: Path) -> None:
        with pytest.raises(UnauthenticatedError):
            await policy.authenticate(USERS_OWN, peer=peer(folder, "ipas"), method=METHOD)

    async def test_refuses_a_siblings_token_from_the_edge(self, policy: Authenticator, folder: Path) -> None:
        token = signer(folder, "ipas").token(ADA, audience=f"{TRUST_DOMAIN}agents", method=METHOD)
        with pytest.raises(UnauthenticatedError):
            await policy.authenticate(token, peer=peer(folder, "edge"), method=METHOD)

    @pytest.mark.parametrize(
        ("audience", "method"),
        [
            (f"{TRUST_DOMAIN}workflows", METHOD),
            (f"{TRUST_DOMAIN}agents/", METHOD),
            (f"{TRUST_DOMAIN}agents", "/ameide.agent.v1.AgentService/DeleteAgent"),
        ],
    )
    async def test_refuses_a_token_for_another_service_or_method(
        self, policy: Authenticator, folder: Path, audience: str, method: str
    ) -> None:
        token = signer(folder, "ipas").token(ADA, audience=audience, method=method)
        with pytest.raises(UnauthenticatedError):
            await policy.authenticate(token, peer=peer(folder, "ipas"), method=METHOD)

    async def test_refuses_a_token_that_another_key_signed(
        self, policy: Authenticator, folder: Path, tmp_path: Path
    ) -> None:
        ensure(tmp_path)
        token = signer(tmp_path, "ipas").token(ADA, audience=f"{TRUST_DOMAIN}agents", method=METHOD)
        with pytest.raises(UnauthenticatedError):
            await policy.authenticate(token, peer=peer(folder, "ipas"), method=METHOD)

    async def test_refuses_an_old_token(self, policy: Authenticator, folder: Path) -> None:
        past = signer(folder, "ipas", time.time() - 70)
        token = past.token(ADA, audience=f"{TRUST_DOMAIN}agents", method=METHOD)
        with pytest.raises(UnauthenticatedError):
            await policy.authenticate(token, peer=peer(folder, "ipas"), method=METHOD)

    @pytest.mark.parametrize(
        "change",
        [
            {"act": {"sub": EDGE}},
            {"act": None},
            {"iss": EDGE},
            {"aud": [f"{TRUST_DOMAIN}agents"]},
            {"exp": None},
            {"method": None},
            {"roles": None},
            {"roles": "admin"},
            {"roles": [1]},
            {"tenant_id": None},
            {"tenant_id": ["acme"]},
            {"tenant_id": "acme'"},
            {"kind": "admin"},
            {"kind": ["user"]},
            {"email": 5},
            {"exp": time.time() + 10 * 365 * 86_400},
        ],
    )
    async def test_refuses_claims_that_are_not_as_we_make_them(
        self, policy: Authenticator, folder: Path, change: dict[str, Any]
    ) -> None:
        own = signer(folder, "ipas")
        claims = jwt.decode(
            own.token(ADA, audience=f"{TRUST_DOMAIN}agents", method=METHOD), options={"verify_signature": False}
        )
        changed = {name: value for name, value in {**claims, **change}.items() if value is not None}
        key = load_pem_private_key((folder / "ipas.key").read_bytes(), None)
        token = jwt.encode(changed, key, algorithm="ES256", headers={"typ": TOKEN_TYPE})  # type: ignore[arg-type]
        with pytest.raises(UnauthenticatedError):
            await policy.authenticate(token, peer=peer(folder, "ipas"), method=METHOD)


class TestReadPeer:
    async def test_gives_what_is_no_certificate_a_name_that_no_policy_has(self, policy: Authenticator) -> None:
        found = read_peer({"x509_pem_cert": [b"pem"], "x509_subject_alternative_name": [EDGE.encode()]})
        with pytest.raises(AuthorizationError):
            await policy.authenticate(USERS_OWN, peer=found, method=METHOD)

    def test_is_none_without_tls(self) -> None:
        assert read_peer({}) is None


class TestPeerOf:
    """Over real connections: what gRPC tells of a peer decides who may call."""

    @pytest.mark.parametrize("name", ["edge", "ipas"])
    async def test_is_who_the_certificate_names(self, folder: Path, name: str) -> None:
        assert await self.seen(folder, name) == Peer(f"{TRUST_DOMAIN}{name}", (folder / f"{name}.pem").read_bytes())

    @pytest.mark.parametrize(
        "names",
        [
            [],
            ["spiffe://ameide.local/intruder"],
            ["spiffe://ameide.local.evil.example/edge"],
            ["spiffe://other.example/edge"],
            ["SPIFFE://ameide.local/edge"],
            ["spiffe://ameide.local/edge/"],
            ["https://ameide.local/edge"],
            [EDGE, f"{TRUST_DOMAIN}ipas"],
            [f"{TRUST_DOMAIN}ipas", EDGE],
            [EDGE, EDGE],
            [f"{EDGE}\0.evil.example"],
            [f"{TRUST_DOMAIN}ipas\0"],
            [f"\0{EDGE}"],
            [f"https://other.example/\0{EDGE}", "\0"],
        ],
        ids=repr,
    )
    async def test_is_nobody_with_another_certificate_of_our_authority(
        self, policy: Authenticator, folder: Path, tmp_path: Path, names: list[str]
    ) -> None:
        issue(folder, tmp_path, [x509.UniformResourceIdentifier(name) for name in names])
        found = await self.seen(folder, "odd", tmp_path)
        assert found is not None
        for credential in (USERS_OWN, signer(folder, "ipas").token(ADA, audience="x", method=METHOD)):
            with pytest.raises(AuthorizationError):
                await policy.authenticate(credential, peer=found, method=METHOD)

    @pytest.mark.parametrize("name", [EDGE, f"{TRUST_DOMAIN}ipas"])
    async def test_is_not_who_a_name_of_another_kind_says(
        self, policy: Authenticator, folder: Path, tmp_path: Path, name: str
    ) -> None:
        """GRPC gives names without their kind; a URI's is to come from a URI."""
        issue(folder, tmp_path, [x509.DNSName(name), x509.RFC822Name("edge@ameide.local")])
        found = await self.seen(folder, "odd", tmp_path)
        with pytest.raises(AuthorizationError):
            await policy.authenticate(USERS_OWN, peer=found, method=METHOD)

    @staticmethod
    async def seen(folder: Path, name: str, place: Path | None = None) -> Peer | None:
        """Connects with a certificate and returns who the server believes to see."""
        found: list[Peer | None] = []

        async def handle(_: bytes, transport: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            found.append(peer_of(transport))
            return b""

        def files(who: str, place: Path) -> TlsSettings:
            paths = {"certificate_path": place / f"{who}.pem", "private_key_path": place / f"{who}.key"}
            return TlsSettings(**paths, ca_path=folder / "ca.pem")

        server = grpc.aio.server()
        method: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(handle)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.S", {"Do": method}),))
        port = server.add_secure_port("127.0.0.1:0", server_credentials(files("agents", folder)))
        await server.start()
        credentials = channel_credentials(files(name, place or folder))
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
            call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/t.S/Do")
            await call(b"")
        await server.stop(None)
        (one,) = found
        return one


class TestServiceTokenSigner:
    def test_uses_a_token_again_for_half_its_life(self, folder: Path) -> None:
        own = signer(folder, "ipas")
        tokens = {own.token(ADA, audience=audience, method=METHOD) for audience in ("a", "a", "b")}
        assert len(tokens) == 2

    def test_never_outlives_the_users_credential(self, folder: Path) -> None:
        ending = replace(ADA, expires_at=time.time() + 5)
        token = signer(folder, "ipas").token(ending, audience="a", method=METHOD)
        assert jwt.decode(token, options={"verify_signature": False})["exp"] <= ending.expires_at
