"""Where the API is, and who calls it."""

import ipaddress
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import urlsplit

import grpc

OPTIONS: Final = (
    # Messages of 10 MiB and their frames; gRPC's own limit is 4.
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    ("grpc.max_send_message_length", 16 * 1024 * 1024),
    # Below the edge's 15 minutes without a call.
    ("grpc.client_idle_timeout_ms", 10 * 60 * 1000),
    # A watch only listens: without a ping it would not notice that nobody is there any longer.
    ("grpc.keepalive_time_ms", 60 * 1000),
    ("grpc.keepalive_timeout_ms", 20 * 1000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.primary_user_agent", "ameide-client-python/0.1.0"),
)


@dataclass(frozen=True, slots=True)
class Address:
    """The edge of a mesh."""

    target: str
    """Host and port, as gRPC wants them."""
    credentials: grpc.ChannelCredentials | None
    """None for plain text."""

    @classmethod
    def parse(cls, url: str, *, ca: bytes | None) -> Self:
        """Reads `https://api.example.com` or, for this machine only, `http://127.0.0.1:8080`.

        Raises:
            ValueError: the URL is none of ours, or would send credentials through a network in plain text.
        """
        parts = urlsplit(url)
        if parts.scheme not in {"https", "http"} or not parts.hostname or parts.path.strip("/") or parts.query:
            raise ValueError(f"expected a URL such as https://api.example.com, not {url!r}")
        if parts.scheme == "http" and not _is_this_machine(parts.hostname):
            raise ValueError(f"{url!r} would send credentials in plain text; use https")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        if parts.scheme == "http":
            return cls(f"{host}:{parts.port or 80}", None)
        return cls(f"{host}:{parts.port or 443}", grpc.ssl_channel_credentials(ca))


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
