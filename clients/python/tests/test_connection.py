"""Where a client connects to, and where it refuses to."""

import pytest
from ameide_client import AsyncClient, Client
from ameide_client.connection import parse_address


@pytest.mark.parametrize(
    ("url", "target", "encrypted"),
    [
        ("https://api.example.com", "api.example.com:443", True),
        ("https://api.example.com:8443/", "api.example.com:8443", True),
        ("http://127.0.0.1:8080", "127.0.0.1:8080", False),
        ("http://localhost:8080", "localhost:8080", False),
        ("http://[::1]:8080", "[::1]:8080", False),
    ],
)
def test_an_address_is_read(url: str, target: str, encrypted: bool) -> None:
    found, credentials = parse_address(url, ca=None)
    assert (found, credentials is not None) == (target, encrypted)


@pytest.mark.parametrize("url", ["http://api.example.com", "http://10.0.0.1:8080", "http://localhost.example.com"])
def test_a_credential_never_travels_in_plain_text(url: str) -> None:
    with pytest.raises(ValueError, match="plain text"):
        Client(url, token="t")


@pytest.mark.parametrize("url", ["api.example.com", "ftp://api.example.com", "https://", "https://a.example/v1"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="expected a URL"):
        parse_address(url, ca=None)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_two_credentials_are_refused(kind: type[Client | AsyncClient]) -> None:
    with pytest.raises(ValueError, match="not both"):
        kind("http://localhost:8080", token="t", api_key="k")
