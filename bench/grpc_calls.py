"""Calls over gRPC, on a fixed number of connections to each address."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, Final

import grpc
import uuid_utils
from api_common.authn import channel_credentials
from api_common.settings import TlsSettings

from bench.order import CONNECTIONS, IN_FLIGHT, Order, Result
from bench.work import Plan, Work

_TIMEOUT_SECONDS: Final = 30


class GrpcCaller:
    """Keeps its connections open between orders."""

    def __init__(self, folder: Path) -> None:
        self._credentials = credentials_of(folder / "mesh" / "certs")
        self._channels: dict[str, list[grpc.aio.Channel]] = {}

    async def run(self, order: Order, plan: Plan, work: Work, numbers: Sequence[int], authorization: str) -> Result:
        """Makes the calls of ``order``.

        Raises:
            WrongAnswerError: an answer is wrong.
            grpc.aio.AioRpcError: a call failed.
        """
        channels = self._channels.get(order.address)
        if channels is None:
            channels = [self._connect(order) for _ in range(CONNECTIONS)]
            self._channels[order.address] = channels
        path = f"/{plan.method}"
        methods = [
            channel.unary_unary(path, request_serializer=_serialized, response_deserializer=work.answer.FromString)
            for channel in channels
        ]
        latencies: list[float] = []

        async def call(method: Any, number: int, due: float) -> None:
            # The edge adds the first two to every call, a client the key to a call that may be repeated.
            metadata = [("authorization", authorization), ("x-request-id", str(uuid_utils.uuid4()))]
            if plan.has_key:
                metadata.append(("idempotency-key", str(uuid_utils.uuid4())))
            if plan.max_age_seconds:
                metadata.append(("cache-control", f"max-age={plan.max_age_seconds}"))
            answer = await method(work.request(number), metadata=metadata, timeout=_TIMEOUT_SECONDS)
            latencies.append((time.perf_counter() - due) * 1000)
            work.check(number, answer)

        async def follow(method: Any, rest: Iterator[int]) -> None:
            for number in rest:
                await call(method, number, time.perf_counter())

        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            if order.rate:
                for place, (number, method) in enumerate(zip(numbers, cycle(methods), strict=False)):
                    due = started + place / order.rate
                    await asyncio.sleep(max(0, due - time.perf_counter()))
                    group.create_task(call(method, number, due))
            else:
                rest = iter(numbers)
                for method in methods * IN_FLIGHT:
                    group.create_task(follow(method, rest))
        return Result(time.perf_counter() - started, latencies)

    def _connect(self, order: Order) -> grpc.aio.Channel:
        # With a shared pool the channels would share one connection.
        options = (("grpc.use_local_subchannel_pool", 1),)
        if order.transport == "mtls":
            return grpc.aio.secure_channel(order.address, self._credentials, options=options)
        return grpc.aio.insecure_channel(order.address, options=options)


def credentials_of(certificates: Path) -> grpc.ChannelCredentials:
    """Returns the client credentials of the edge of a stage."""
    return channel_credentials(
        TlsSettings(
            certificate_path=certificates / "edge.pem",
            private_key_path=certificates / "edge.key",
            ca_path=certificates / "ca.pem",
        )
    )


def _serialized(message: Any) -> bytes:
    serialized: bytes = message.SerializeToString()
    return serialized
