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


@pytest.mark.parametrize("rpc", rpcs(), ids=str)
async def test_a_method_serves_the_roles_that_it_should(
    mesh: Mapping[str, Running], identity: Identity, tenant_id: str, rpc: Rpc
) -> None:
    """What does not decode is refused after the role was looked at, so that nothing is changed here."""
    allowed = ALLOWED.get(rpc.policy.permission, ALLOWED.get(rpc.policy.permission.partition(".")[2]))
    assert allowed is not None, f"say in ALLOWED who has {rpc.policy.permission}"
    method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
    method = mesh[rpc.service].service.channel.unary_unary(rpc.policy.path)
    signer = InternalTokenSigner(identity.signing_key_path.read_bytes(), audience=AUDIENCE)
    users: set[str] = set()
    programs: set[str] = set()
    for role in (*ROLE_PERMISSIONS, *OTHERS):
        of_api_key = signer.token(subject=NEVER, tenant_id=tenant_id, roles=[role])
        for found, token in ((users, identity.caller(tenant_id, role).token), (programs, of_api_key)):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await method(b"\xff", metadata=(("authorization", f"Bearer {token}"),))
            if caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT:
                found.add(role)
            else:
                assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert users == allowed
    assert programs == (set() if rpc.method.name in USERS_ONLY else allowed)


async def test_roles_that_are_unknown_take_nothing_away(
    mesh: Mapping[str, Running], identity: Identity, tenant_id: str
) -> None:
    method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
    method = mesh["users"].service.channel.unary_unary("/ameide.user.v1.UserService/ListUsers")
    assert await method(b"", metadata=identity.caller(tenant_id, "from-another-product", "viewer").metadata) == b""
