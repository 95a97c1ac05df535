"""A process of the mesh with a certificate of its own, that calls what is internal to a service."""

import secrets
import time
from pathlib import Path
from typing import TypeVar

import grpc
from api_common.authn import TRUST_DOMAIN, Principal, ServiceTokenSigner, channel_credentials
from api_common.testing import tls_of
from google.protobuf.message import Message

ResponseT = TypeVar("ResponseT", bound=Message)


class CallingProcess:
    """Calls ``service`` at ``address`` over mutual TLS, as the process ``name``."""

    def __init__(self, certificates: Path, name: str, *, service: str, address: str) -> None:
        self._tls = tls_of(certificates, name)
        self._service = service
        self._address = address

    async def call(self, path: str, request: Message, response: type[ResponseT], *, tenant_id: str) -> ResponseT:
        """Calls a method for a user of ``tenant_id``."""
        principal = Principal(f"s-{secrets.token_hex(4)}", tenant_id, frozenset(), expires_at=time.time() + 60)
        signer = ServiceTokenSigner(self._tls.certificate_path.read_bytes(), self._tls.private_key_path.read_bytes())
        token = signer.token(principal, audience=f"{TRUST_DOMAIN}{self._service}", method=path)
        metadata = (("authorization", f"Bearer {token}"),)
        async with grpc.aio.secure_channel(self._address, channel_credentials(self._tls)) as channel:
            method: grpc.aio.UnaryUnaryMultiCallable[Message, ResponseT] = channel.unary_unary(
                path, request_serializer=lambda one: one.SerializeToString(), response_deserializer=response.FromString
            )
            return await method(request, metadata=metadata)
