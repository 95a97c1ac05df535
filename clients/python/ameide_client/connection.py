"""The address of the API, and the credential of the caller."""

import ipaddress
from typing import Any, Final
from urllib.parse import urlsplit

import grpc

OPTIONS: Final = (
    # Messages of 10 MiB and their frames; the default of gRPC is 4 MiB.
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    ("grpc.max_send_message_length", 16 * 1024 * 1024),
    # Shorter than the 15 minutes after which the edge closes an idle connection.
    ("grpc.client_idle_timeout_ms", 10 * 60 * 1000),
    # A watch only receives: without pings it would not notice a dead connection.
    ("grpc.keepalive_time_ms", 60 * 1000),
    ("grpc.keepalive_timeout_ms", 20 * 1000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.primary_user_agent", "ameide-client-python/0.1.0"),
)


def parse_address(url: str, *, ca: bytes | None) -> tuple[str, grpc.ChannelCredentials | None]:
    """Returns host and port in the form of gRPC, and the credentials of the connection: None for plain text.

    Args:
        url: `https://api.example.com` or, for this machine only, `http://127.0.0.1:8080`.

    Raises:
        ValueError: the URL has another form, or would send credentials over a network in plain text.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"https", "http"} or not parts.hostname or parts.path.strip("/") or parts.query:
        raise ValueError(f"expected a URL such as https://api.example.com, not {url!r}")
    if parts.scheme == "http" and not _is_this_machine(parts.hostname):
        raise ValueError(f"{url!r} would send credentials in plain text; use https")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    if parts.scheme == "http":
        return f"{host}:{parts.port or 80}", None
    return f"{host}:{parts.port or 443}", grpc.ssl_channel_credentials(ca)


def open_channel(stack: Any, url: str, ca: bytes | None) -> Any:
    """Returns a channel of ``stack``, `grpc` or `grpc.aio`.

    Raises:
        ValueError: the URL cannot be used.
    """
    target, credentials = parse_address(url, ca=ca)
    if credentials is None:
        return stack.insecure_channel(target, options=OPTIONS)
    return stack.secure_channel(target, credentials, options=OPTIONS)


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
