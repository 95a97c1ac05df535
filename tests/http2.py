"""A client of HTTP/2 that says what it is told to, valid or not."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Self

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)

Header = tuple[str | bytes, str | bytes]


@dataclass
class Answer:
    """What came back on one stream."""

    headers: dict[str, str] = field(default_factory=dict)
    """With the trailers."""
    body: bytes = b""
    ended: str = ""
    """How: empty, `reset`, or `closed` with the connection."""

    @property
    def outcome(self) -> str:
        """The HTTP status, or how the stream ended without one."""
        return self.headers.get(":status") or self.ended


class Http2:
    """One connection; streams are used one after the other."""

    def __init__(self, port: int) -> None:
        self._port = port
        config = H2Configuration(
            validate_outbound_headers=False, normalize_outbound_headers=False, header_encoding=None
        )
        self._h2 = H2Connection(config)
        # Huffman's code, in Python, takes 10 ms for a long header.
        self._h2.encoder.encode = partial(self._h2.encoder.encode, huffman=False)  # type: ignore[method-assign]

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._h2.initiate_connection()
        self._writer.write(self._h2.data_to_send())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def ask(
        self,
        headers: Iterable[Header],
        body: bytes = b"",
        *,
        method: str = "GET",
        path: str = "/v1/me",
        trailers: Sequence[Header] = (),
    ) -> Answer:
        """Sends a request and waits for its end; a pseudo-header in ``headers`` replaces the good one."""
        given = list(headers)
        good = [(":method", method), (":scheme", "http"), (":authority", "x"), (":path", path)]
        named = {name for name, _ in given}
        request = [one for one in good if one[0] not in named] + given
        stream = self._h2.get_next_available_stream_id()
        self._h2.send_headers(stream, request, end_stream=not body and not trailers)
        if body:
            self._h2.send_data(stream, body, end_stream=not trailers)
        if trailers:
            self._h2.send_headers(stream, trailers, end_stream=True)
        answer = Answer()
        self._writer.write(self._h2.data_to_send())
        while data := await asyncio.wait_for(self._reader.read(65536), 10):
            ends = [self._take(event, stream, answer) for event in self._h2.receive_data(data)]
            self._writer.write(self._h2.data_to_send())
            if any(ends):
                return answer
        answer.ended = "closed"
        return answer

    @staticmethod
    def _take(event: Event, stream: int, answer: Answer) -> bool:
        match event:
            case ResponseReceived(stream_id=one, headers=headers) | TrailersReceived(stream_id=one, headers=headers):
                if one == stream:
                    answer.headers |= {name.decode(): value.decode("latin-1") for name, value in headers or ()}
            case DataReceived(stream_id=one, data=data) if one == stream:
                answer.body += data or b""
            case StreamEnded(stream_id=one) if one == stream:
                return True
            case StreamReset(stream_id=one) if one == stream:
                answer.ended = "reset"
                return True
            case ConnectionTerminated():
                answer.ended = "closed"
                return True
        return False
