"""What `claims.lua` refuses after jwt_authn; tests/security/test_verifiers_agree.py asks a real edge."""

import time
from typing import Any, Final

import pytest
from api_common.authn import INTERNAL_ISSUER

from tests.lua.filters import JWT_AUTHN, TOKEN, Filter, Passed, good_claims
from tools.topology import AUDIENCE

MAX_KNOWN: Final = 500
MAX_KNOWN_BYTES: Final = 8192
FAR: Final = 9_999_999_999
"""A time in the year 2286."""


@pytest.fixture
def claims() -> Filter:
    return Filter("admit")


def of_text(text: str) -> str:
    """Returns the bytes of UTF-8 as Lua's strings look in Python."""
    return text.encode().decode("latin-1")


def ask(
    claims: Filter, payload: dict[str, Any] | None, *, token: str = TOKEN, path: str = "/v1/me", **header: Any
) -> Passed:
    verified = {} if payload is None else {JWT_AUTHN: {"claims": payload, "header": {"kid": "one"} | header}}
    return claims.request({":method": "GET", ":path": path, "authorization": f"Bearer {token}"}, metadata=verified)


def identity(passed: Passed) -> Any:
    found = passed.metadata["ameide.identity"]
    return found and dict(found.items())


class TestToken:
    def test_that_is_good_says_whose_it_is(self, claims: Filter) -> None:
        handle = ask(claims, good_claims())
        assert (handle.status, identity(handle)) == (None, {"tenant": "acme", "principal": "ada"})

    @pytest.mark.parametrize(
        "changed",
        [
            {"aud": ["another", AUDIENCE]},
            {"sub": of_text("é" * 255)},
            {"tenant_id": "a" * 63},
            {"roles": []},
            {"roles": None},
            {"exp": time.time() + 60.5, "iat": time.time() - 0.5},
            {"email": "ada@example.com"},
        ],
        ids=", ".join,
    )
    def test_passes_with(self, claims: Filter, changed: dict[str, object]) -> None:
        assert ask(claims, good_claims(**changed)).status is None

    @pytest.mark.parametrize(
        "changed",
        [
            *({"aud": value} for value in ("another", None, [], ["another"], {"a": AUDIENCE}, [AUDIENCE, 1])),
            *({"sub": value} for value in ("", None, 7, "a\nb", of_text("é" * 256))),
            *({"tenant_id": value} for value in ("", None, 7, "a" * 64, "-a", "a b", of_text("é"))),
            *({"roles": value} for value in ("admin", False, [1], {"a": "admin"})),
            *({"exp": value} for value in (None, "soon", True, FAR)),
            *({"iat": value} for value in (None, "now", 1.5, True, FAR)),
            {"email": 7},
        ],
        ids=str,
    )
    def test_is_refused_with(self, claims: Filter, changed: dict[str, object]) -> None:
        handle = ask(claims, good_claims(**changed))
        assert (handle.status, identity(handle)) == ("401", None)

    @pytest.mark.parametrize("header", [{"kid": ""}, {"kid": 1}, {"crit": ["exp"]}], ids=str)
    def test_is_refused_with_the_header(self, claims: Filter, header: dict[str, Any]) -> None:
        assert ask(claims, good_claims(), **header).status == "401"

    @pytest.mark.parametrize("signature", ["A", "AB", "AAB", "AAAAA"])
    def test_is_refused_in_another_spelling(self, claims: Filter, signature: str) -> None:
        assert ask(claims, good_claims(), token=f"e30.e30.{signature}").status == "401"


class TestKnownToken:
    def test_is_not_looked_at_again(self, claims: Filter) -> None:
        ask(claims, good_claims())
        assert ask(claims, good_claims(sub=7)).status is None

    def test_is_not_believed_when_it_has_expired(self, claims: Filter) -> None:
        """A path that only `authentication.yaml` opens has no verified token."""
        for exp, status in ((time.time() + 60, None), (time.time() - 1, "401")):
            ask(claims, good_claims(exp=exp), token=f"{status}.e30.AAAA")
            assert ask(claims, None, token=f"{status}.e30.AAAA").status == status

    def test_that_has_expired_lets_nobody_else_be_forgotten(self, claims: Filter) -> None:
        """It is looked at again as long as jwt_authn takes it: the issuer's clock may be behind."""
        ask(claims, good_claims(), token="used.e30.AAAA")
        for _ in range(2 * MAX_KNOWN):
            ask(claims, good_claims(exp=time.time() - 1))
        assert ask(claims, good_claims(sub=7), token="used.e30.AAAA").status is None

    def test_that_was_refused_is(self, claims: Filter) -> None:
        ask(claims, good_claims(sub=7))
        assert ask(claims, good_claims()).status is None

    def test_for_an_api_key_is(self, claims: Filter) -> None:
        assert ask(claims, good_claims(iss=INTERNAL_ISSUER)).status is None
        assert ask(claims, good_claims(iss=INTERNAL_ISSUER, sub=7)).status == "401"

    def test_that_is_long_is_not_kept(self, claims: Filter) -> None:
        token = f"{'a' * MAX_KNOWN_BYTES}.e30.AAAA"
        assert ask(claims, good_claims(), token=token).status is None
        assert ask(claims, good_claims(sub=7), token=token).status == "401"

    def test_that_nobody_uses_is_forgotten(self, claims: Filter) -> None:
        ask(claims, good_claims(), token="used.e30.AAAA")
        ask(claims, good_claims(), token="unused.e30.AAAA")
        for number in range(2 * MAX_KNOWN):
            ask(claims, good_claims(), token=f"{number}.e30.AAAA")
            if number % 100 == 0:
                ask(claims, good_claims(), token="used.e30.AAAA")
        assert ask(claims, good_claims(sub=7), token="used.e30.AAAA").status is None
        assert ask(claims, good_claims(sub=7), token="unused.e30.AAAA").status == "401"


class TestWithoutAToken:
    @pytest.mark.parametrize("path", ["/healthz", "/docs", "/docs?x", "/openapi.json"])
    def test_open_paths_pass(self, claims: Filter, path: str) -> None:
        assert ask(claims, None, path=path).status is None

    @pytest.mark.parametrize("path", ["/v1/me", "//", "/docs/", "/docs/other", "/ameide.user.v1.UserService/GetMe"])
    def test_others_do_not(self, claims: Filter, path: str) -> None:
        assert ask(claims, None, path=path).status == "401"
