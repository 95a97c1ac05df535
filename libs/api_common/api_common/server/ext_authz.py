"""Answers Envoy's ext_authz, which the edge calls for every request with `x-api-key`.

The answer replaces the key by an internal token, or refuses the request; the edge words the refusal.
"""

import asyncio
from http import HTTPStatus
from typing import Final, Protocol, cast

import grpc
from ameide.edge.v1 import ext_authz_pb2 as pb
from google.protobuf.message import Message

from api_common.contract import MethodPolicy
from api_common.errors import RateLimitError
from api_common.rpc import Incoming, Pipeline

HEADER: Final = "x-api-key"
"""The header of the key."""

_CHECK: Final = MethodPolicy(
    path="/envoy.service.auth.v3.Authorization/Check",
    name="Check",
    permission="",
    rate_class="READ",
    read_only=False,
    users_only=False,
    returns_secret=True,
    request_class=pb.CheckRequest,
    response_class=pb.CheckResponse,
)
_OVERWRITE: Final = 2
_REFUSAL: Final = pb.CheckResponse(
    status=pb.Status(code=grpc.StatusCode.UNAUTHENTICATED.value[0]),
    denied_response=pb.DeniedHttpResponse(
        status=pb.HttpStatus(code=HTTPStatus.UNAUTHORIZED),
        headers=[pb.HeaderValueOption(header=pb.HeaderValue(key="www-authenticate", value="Bearer"))],
    ),
).SerializeToString()
_LIMITED: Final = pb.CheckResponse(
    status=pb.Status(code=grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]),
    denied_response=pb.DeniedHttpResponse(status=pb.HttpStatus(code=HTTPStatus.TOO_MANY_REQUESTS)),
).SerializeToString()


class ApiKeyAuthority(Protocol):
    """Verifies API keys."""

    async def exchange(self, key: str, *, address: str, timeout_seconds: float) -> str | None:
        """Returns an internal token for the owner of ``key``; None if the key is not valid, whatever the cause.

        Args:
            address: the client's address as the edge sees it.

        Raises:
            RateLimitError: too many keys from the address were not valid.
            DomainError: the key cannot be verified now.
        """


def check_handler(authority: ApiKeyAuthority, pipeline: Pipeline) -> grpc.GenericRpcHandler:
    """Returns Envoy's `Authorization/Check` over ``authority``."""

    async def check(request: Message, incoming: Incoming) -> bytes:
        asked = cast(pb.CheckRequest, request).attributes
        headers, address = asked.request.http.headers, asked.source.address.socket_address.address
        # A request with both a token and a key is ambiguous.
        unambiguous = "authorization" not in headers
        key = headers.get(HEADER, "")
        seconds_left = incoming.deadline - asyncio.get_running_loop().time()
        try:
            token = await authority.exchange(key, address=address, timeout_seconds=seconds_left)
        except RateLimitError:
            return _LIMITED
        return _pass(token) if token and unambiguous else _REFUSAL

    return pipeline.method_handler(_CHECK, check)


def _pass(token: str) -> bytes:
    header = pb.HeaderValue(key="authorization", value=f"Bearer {token}")
    answer = pb.OkHttpResponse(
        headers=[pb.HeaderValueOption(header=header, append_action=_OVERWRITE)], headers_to_remove=[HEADER]
    )
    return pb.CheckResponse(ok_response=answer).SerializeToString()
