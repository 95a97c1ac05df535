"""Keys are found, replaced and kept, whatever the issuer does."""

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from api_common.authn.key_sets import DiscoveredKeySet, FileKeySet, UnknownKeyError
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm


def key(name: str) -> dict[str, Any]:
    private = ec.generate_private_key(ec.SECP256R1())
    return {**ECAlgorithm.to_jwk(private.public_key(), as_dict=True), "kid": name, "use": "sig", "alg": "ES256"}


class Issuer:
    """A real HTTP server with a discovery document and a key set; counts what is fetched."""

    def __init__(self) -> None:
        self.keys = [key("k1")]
        self.fetches = 0
        self.up = True
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if not issuer.up:
                    self.send_error(503)
                    return
                if self.path == "/jwks":
                    issuer.fetches += 1
                body = json.dumps(issuer.document(self.path)).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        self.named = self.url

    def document(self, path: str) -> object:
        return {"keys": self.keys} if path == "/jwks" else {"issuer": self.named, "jwks_uri": f"{self.url}jwks"}


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    issuer = Issuer()
    thread = threading.Thread(target=issuer.server.serve_forever, args=(0.01,))
    thread.start()
    yield issuer
    issuer.server.shutdown()
    issuer.server.server_close()
    thread.join()


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


class TestDiscoveredKeySet:
    async def test_finds_keys_through_the_discovery_document(self, issuer: Issuer, clock: Clock) -> None:
        keys = DiscoveredKeySet(issuer.url, now=clock)
        assert (await keys.find("k1")).key_id == "k1"
        assert (await keys.find(None)).key_id == "k1"
        await keys.close()

    async def test_asks_once_however_many_tokens_name_unknown_keys(self, issuer: Issuer, clock: Clock) -> None:
        keys = DiscoveredKeySet(issuer.url, now=clock)
        results = await asyncio.gather(*(keys.find(f"x{index}") for index in range(50)), return_exceptions=True)
        assert all(isinstance(result, UnknownKeyError) for result in results)
        assert issuer.fetches == 1
        clock.now += 11
        with pytest.raises(UnknownKeyError):
            await keys.find("x")
        assert issuer.fetches == 2
        await keys.close()

    async def test_learns_a_new_key_from_the_first_token_that_names_it(self, issuer: Issuer, clock: Clock) -> None:
        keys = DiscoveredKeySet(issuer.url, now=clock)
        await keys.find("k1")
        issuer.keys.append(key("k2"))
        clock.now += 11
        assert (await keys.find("k2")).key_id == "k2"
        assert (await keys.find("k1")).key_id == "k1"
        with pytest.raises(UnknownKeyError):
            await keys.find(None)
        await keys.close()

    async def test_forgets_a_removed_key_when_it_refreshes(self, issuer: Issuer, clock: Clock) -> None:
        keys = DiscoveredKeySet(issuer.url, now=clock)
        await keys.find("k1")
        before = keys.generation
        issuer.keys = [key("k2")]
        clock.now += 31
        await keys.refresh()
        assert keys.generation > before
        with pytest.raises(UnknownKeyError):
            await keys.find("k1")
        await keys.close()

    async def test_keeps_its_keys_while_the_issuer_is_down(self, issuer: Issuer, clock: Clock) -> None:
        keys = DiscoveredKeySet(issuer.url, now=clock)
        await keys.find("k1")
        issuer.up = False
        clock.now += 31
        await keys.refresh()
        assert (await keys.find("k1")).key_id == "k1"
        await keys.close()

    async def test_refuses_the_document_of_another_issuer(self, issuer: Issuer, clock: Clock) -> None:
        issuer.named = "https://evil.example/"
        keys = DiscoveredKeySet(issuer.url, now=clock)
        with pytest.raises(UnknownKeyError):
            await keys.find("k1")
        assert issuer.fetches == 0
        await keys.close()

    @pytest.mark.parametrize("broken", [{"keys": []}, {"keys": "x"}, {}, [], None])
    async def test_keeps_its_keys_when_the_document_breaks(self, issuer: Issuer, clock: Clock, broken: object) -> None:
        keys = DiscoveredKeySet(issuer.url, now=clock)
        await keys.find("k1")
        good = issuer.document

        def document(path: str) -> object:
            return broken if path == "/jwks" else good(path)

        issuer.document = document  # type: ignore[method-assign]
        clock.now += 31
        await keys.refresh()
        assert (await keys.find("k1")).key_id == "k1"
        await keys.close()


class TestFileKeySet:
    async def test_notices_a_new_file(self, tmp_path: Path) -> None:
        path = tmp_path / "jwks.json"
        path.write_text(json.dumps({"keys": [key("k1")]}))
        keys = FileKeySet(path)
        path.write_text(json.dumps({"keys": [key("k2")]}))
        assert (await keys.find("k2")).key_id == "k2"
        with pytest.raises(UnknownKeyError):
            await keys.find("k1")

    async def test_keeps_its_keys_when_the_file_breaks(self, tmp_path: Path) -> None:
        path = tmp_path / "jwks.json"
        path.write_text(json.dumps({"keys": [key("k1")]}))
        keys = FileKeySet(path)
        path.write_text("{")
        await keys.refresh()
        assert (await keys.find("k1")).key_id == "k1"

    def test_stops_the_start_without_a_usable_file(self, tmp_path: Path) -> None:
        path = tmp_path / "jwks.json"
        path.write_text('{"keys": []}')
        with pytest.raises(ValueError, match="usable"):
            FileKeySet(path)
        with pytest.raises(OSError, match="No such file"):
            FileKeySet(tmp_path / "missing.json")
