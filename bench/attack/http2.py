"""HTTP/2 that sends what it is told, right or wrong. A client library would refuse most of it."""

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Final, Self

from hpack import Decoder
from hpack.exceptions import HPACKError
from hpack.hpack import encode_integer

from bench.attack.attacker import Attacker, Connection

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4
LARGEST_WINDOW: Final = 2**31 - 1
FRAME_BYTES: Final = 16384

_INITIAL_WINDOW_SIZE: Final = 4
_ANSWER_SECONDS: Final = 20

Headers = Iterable[tuple[str | bytes, str | bytes]]


def frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0) -> bytes:
    """Returns one frame."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def block(headers: Headers) -> bytes:
    """Encodes headers as literals without index, whatever characters they hold."""
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in headers)


def _text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return bytes(encode_integer(len(raw), 7)) + raw


def get(path: str, *extra: tuple[str | bytes, str | bytes], method: str = "GET") -> Headers:
    """Returns the headers of a REST request."""
    return [(":method", method), (":scheme", "http"), (":authority", "x"), (":path", path), *extra]


def grpc(path: str, *extra: tuple[str | bytes, str | bytes]) -> Headers:
    """Returns the headers of a gRPC call."""
    return [*get(path, method="POST"), ("te", "trailers"), ("content-type", "application/grpc"), *extra]


def bearer(token: str) -> tuple[str, str]:
    return ("authorization", f"Bearer {token}")


def message(payload: bytes, *, compressed: bool = False) -> bytes:
    """Returns a message as gRPC frames it."""
    return bytes([compressed]) + len(payload).to_bytes(4, "big") + payload


class Http2:
    """One connection; answers are counted by their status."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._decoder = Decoder()
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._statuses: dict[int, str] = {}
        self._stream = -1
        self.arrived = 0
        """Messages and parts of answers so far."""
        self.is_closed = False
        connection.reading = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, attacker: Attacker, *, window: int = LARGEST_WINDOW) -> Self:
        """Opens a connection that takes ``window`` bytes of each answer before it must be asked again."""
        self = cls(await attacker.connect())
        settings = frame(SETTINGS, _INITIAL_WINDOW_SIZE.to_bytes(2, "big") + window.to_bytes(4, "big"))
        more = frame(WINDOW_UPDATE, (LARGEST_WINDOW - 65535).to_bytes(4, "big"))
        await self.send(PREFACE + settings + more)
        return self

    async def send(self, data: bytes) -> bool:
        """Sends frames, and tells whether the other end still takes them."""
        return not self.is_closed and await self._connection.send(data)

    async def begin(self, headers: Headers, body: bytes | None = None, *, ends: bool = True) -> int:
        """Begins a call and returns its stream; with ``ends`` false its body stays open. The body is below 64 KiB."""
        self._connection.cost.calls += 1
        self._stream += 2
        stream = self._stream
        self._waiting[stream] = asyncio.get_running_loop().create_future()
        last = END_STREAM if ends else 0
        sent = frame(HEADERS, block(headers), flags=END_HEADERS | (last if body is None else 0), stream=stream)
        if body is not None:
            parts = [body[start : start + FRAME_BYTES] for start in range(0, len(body), FRAME_BYTES)] or [b""]
            sent += b"".join(frame(DATA, part, stream=stream) for part in parts[:-1])
            sent += frame(DATA, parts[-1], flags=last, stream=stream)
        if not await self.send(sent):
            self._end(stream, "closed")
        return stream

    async def answer(self, stream: int) -> None:
        """Waits for the end of an answer."""
        if waiting := self._waiting.get(stream):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ANSWER_SECONDS):
                    await waiting
            self._end(stream, "none")

    async def call(self, headers: Headers, body: bytes | None = None) -> None:
        """Makes a call and waits for the end of its answer."""
        await self.answer(await self.begin(headers, body))

    async def reset(self, stream: int) -> None:
        """Gives up a call."""
        self._end(stream, "given up")
        await self.send(frame(RST_STREAM, (8).to_bytes(4, "big"), stream=stream))

    @property
    def open_streams(self) -> int:
        return len(self._waiting)

    async def _read(self) -> None:
        reader = self._connection.reader
        try:
            while True:
                head = await reader.readexactly(9)
                payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
                await self._take(head[3], head[4], int.from_bytes(head[5:9], "big") & LARGEST_WINDOW, payload)
        except (asyncio.IncompleteReadError, OSError, HPACKError):
            self.is_closed = True
            how = "closed" if self._connection.closed_by_other else "held"
            for stream in list(self._waiting):
                self._end(stream, how)

    async def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        match kind:
            case 4 if not flags & ACK:
                await self.send(frame(SETTINGS, flags=ACK))
            case 6 if not flags & ACK:
                await self.send(frame(PING, payload, flags=ACK))
            case 1:
                # Undecoded headers would spoil the table of the next ones.
                self._note(
                    stream, {bytes(name): bytes(value) for name, value in self._decoder.decode(payload, raw=True)}
                )
            case 0:
                self.arrived += 1
            case 3:
                self._end(stream, f"reset {int.from_bytes(payload, 'big')}")
        if kind in {DATA, HEADERS} and flags & END_STREAM:
            self._end(stream, self._statuses.get(stream, "?"))

    def _note(self, stream: int, headers: dict[bytes, bytes]) -> None:
        if b":status" in headers:
            is_grpc = headers.get(b"content-type", b"").startswith(b"application/grpc")
            self._statuses[stream] = "grpc" if is_grpc else headers[b":status"].decode()
        # An answer over REST may have trailers with a grpc-status, too.
        if b"grpc-status" in headers and self._statuses.get(stream, "").startswith("grpc"):
            self._statuses[stream] = f"grpc {headers[b'grpc-status'].decode()}"

    def _end(self, stream: int, how: str) -> None:
        self._statuses.pop(stream, None)
        if waiting := self._waiting.pop(stream, None):
            self._connection.cost.answers[how] += 1
            if not waiting.done():
                waiting.set_result(None)


class Pool:
    """Opens another connection when the edge has closed the last one."""

    def __init__(self, attacker: Attacker, *, window: int = LARGEST_WINDOW) -> None:
        self._attacker = attacker
        self._window = window
        self._opened: list[Http2] = []

    async def get(self, *, streams: int = 900) -> Http2:
        """Returns a connection with room for another stream."""
        if not self._opened or self._opened[-1].is_closed or self._opened[-1].open_streams >= streams:
            self._opened.append(await Http2.open(self._attacker, window=self._window))
        return self._opened[-1]
