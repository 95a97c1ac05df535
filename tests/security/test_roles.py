"""Which role may do what, asked of every method of the running services."""

from collections.abc import Mapping
from typing import Final

import grpc
import pytest
from api_common.authn import InternalTokenSigner
from api_common.contract import ROLE_PERMISSIONS
from api_common.testing import AUDIENCE, NEVER, Identity

from tests.security.world import Rpc, Running, rpcs

READERS: Final = {"viewer", "editor", "operator", "admin"}
ALLOWED: Final[Mapping[str, set[str]]] = {
    "read": READERS,
    "write": {"editor", "admin"},
    "users.write": {"admin"},
    "admin": {"admin"},
    "ipas.deploy": {"operator", "admin"},
}
"""Who has each permission, or each action on any other collection. Written down a second time on purpose: a change of
the contract or of the table of roles must be meant."""

USERS_ONLY: Final = {"GetMe"}
"""Closed to service accounts, whatever their roles."""

OTHERS: Final = ("root", "Admin", "ADMIN", "admin ", "*", "*.admin", "users.admin", "", "administrator")


@pytest.fixture(scope="module")
def users_tokens(identity: Identity) -> Mapping[str, str]:
    """A user's token for each role."""
    return {role: identity.caller("t-roles", role).token for role in (*ROLE_PERMISSIONS, *OTHERS)}


@pytest.mark.parametrize("rpc", rpcs(), ids=str)
async def test_a_method_serves_the_roles_that_it_should(
    mesh: Mapping[str, Running], identity: Identity, users_tokens: Mapping[str, str], rpc: Rpc
) -> None:
    """What does not decode is refused after the role was looked at, so that nothing is changed here."""
    allowed = ALLOWED.get(rpc.policy.permission, ALLOWED.get(rpc.policy.permission.partition(".")[2]))
    assert allowed is not None, f"say in ALLOWED who has {rpc.policy.permission}"
    method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
    method = mesh[rpc.service].service.channel.unary_unary(rpc.policy.path)

    async def serves(token: str) -> bool:
        code = await method(b"\xff", metadata=(("authorization", f"Bearer {token}"),)).code()
        assert code in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.PERMISSION_DENIED}
        return code is grpc.StatusCode.INVALID_ARGUMENT

    # These tokens live a minute, so that they cannot be made once for all.
    signer = InternalTokenSigner(identity.signing_key_path.read_bytes(), audience=AUDIENCE)
    of_api_keys = {role: signer.token(subject=NEVER, tenant_id="t-roles", roles=[role]) for role in users_tokens}
    users = {role for role, token in users_tokens.items() if await serves(token)}
    programs = {role for role, token in of_api_keys.items() if await serves(token)}
    assert users == allowed
    assert programs == (set() if rpc.method.name in USERS_ONLY else allowed)


async def test_roles_that_are_unknown_take_nothing_away(
    mesh: Mapping[str, Running], identity: Identity, tenant_id: str
) -> None:
    method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
    method = mesh["users"].service.channel.unary_unary("/ameide.user.v1.UserService/ListUsers")
    assert await method(b"", metadata=identity.caller(tenant_id, "from-another-product", "viewer").metadata) == b""
