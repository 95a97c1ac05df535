"""Keys are found, replaced and kept, whatever the issuer does."""

import asyncio
import json
from pathlib import Path

import pytest
from api_common.authn.key_sets import DiscoveredKeySet, FileKeySet, UnknownKeyError
from api_common.errors import ExternalServiceError

from libs.api_common.tests.issuer import Issuer, key


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

    async def test_blames_no_token_before_the_issuer_has_told_its_keys(self, issuer: Issuer, clock: Clock) -> None:
        keys = DiscoveredKeySet(f"{issuer.url}/nobody", now=clock)
        with pytest.raises(ExternalServiceError):
            await keys.find("k1")
        assert keys.generation == 0
        await keys.close()

    async def test_forgets_a_removed_key_at_the_next_refresh_whoever_asked_before(
        self, issuer: Issuer, clock: Clock
    ) -> None:
        keys = DiscoveredKeySet(issuer.url, now=clock)
        await keys.refresh()
        clock.now += 20
        with pytest.raises(UnknownKeyError):
            await keys.find("unknown")
        issuer.keys = [key("k2")]
        clock.now += 10
        await keys.refresh()
        with pytest.raises(UnknownKeyError):
            await keys.find("k1")
        await keys.close()

    async def test_refuses_the_document_of_another_issuer(self, issuer: Issuer, clock: Clock) -> None:
        issuer.named = "https://evil.example/"
        keys = DiscoveredKeySet(issuer.url, now=clock)
        with pytest.raises(ExternalServiceError):
            await keys.find("k1")
        assert issuer.fetches == 0
        await keys.close()

    @pytest.mark.parametrize("broken", [{"keys": []}, {"keys": "x"}, {"keys": [{"kty": "RSA", "n": 7}]}, {}, [], None])
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

    @pytest.mark.parametrize(
        "jwks_uri", ["http://a\0b/", "http://[", "http://a:999999/", "ftp://a/", "\ud800", "", 7, [], None]
    )
    async def test_keeps_its_keys_when_the_discovery_document_names_no_place(
        self, issuer: Issuer, clock: Clock, jwks_uri: object
    ) -> None:
        keys = DiscoveredKeySet(issuer.url, now=clock)
        await keys.find("k1")
        issuer.jwks_uri = jwks_uri
        clock.now += 31
        await keys.refresh()
        assert (await keys.find("k1")).key_id == "k1"
        with pytest.raises(UnknownKeyError):
            await keys.find("k2")
        await keys.close()

    @pytest.mark.parametrize(
        "body", [b"[" * 100_000, b'{"keys": [{"kty": "RSA", "kid": "k1", "n": 7, "e": {}}]}', b"\xff\xfe"]
    )
    async def test_keeps_its_keys_whatever_the_document_holds(self, issuer: Issuer, clock: Clock, body: bytes) -> None:
        keys = DiscoveredKeySet(issuer.url, now=clock)
        await keys.find("k1")
        issuer.body = body
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

    @pytest.mark.parametrize("broken", ["{", "[" * 100_000, "7"])
    async def test_keeps_its_keys_when_the_file_breaks(self, tmp_path: Path, broken: str) -> None:
        path = tmp_path / "jwks.json"
        path.write_text(json.dumps({"keys": [key("k1")]}))
        keys = FileKeySet(path)
        path.write_text(broken)
        await keys.refresh()
        assert (await keys.find("k1")).key_id == "k1"

    def test_stops_the_start_without_a_usable_file(self, tmp_path: Path) -> None:
        path = tmp_path / "jwks.json"
        path.write_text('{"keys": []}')
        with pytest.raises(ValueError, match="usable"):
            FileKeySet(path)
        with pytest.raises(OSError, match="No such file"):
            FileKeySet(tmp_path / "missing.json")
