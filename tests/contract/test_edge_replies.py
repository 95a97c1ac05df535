"""What Envoy itself answers against the registry of errors."""

import json
import re
from typing import Any, Final

import yaml
from api_common.errors import EDGE_REPLIES, ERROR_DOMAIN, CredentialFault

from tests.contract.built_edge import MAPPERS

REPLIES: Final = {reply.http_status: reply for reply in EDGE_REPLIES}
# What is said where Envoy's own status is not what we mean; see the comments there.
BY_DETAILS: Final = {
    "Jwks_remote_fetch": 503,
    "malformed_header": 400,
    "jwt_authn_access_denied": 401,
    "wrong_method": 405,
    "unknown_codec": 415,
    "headers_too_large": 431,
    "unknown_encoding": 501,
    "filter: strict": 400,
}
MORE: Final = f"( %.*%| ({'|'.join(map(re.escape, CredentialFault))}))?"


class TestLocalReplies:
    @staticmethod
    def statuses(mapper: dict[str, Any]) -> set[int]:
        """The HTTP statuses that a mapper is for; what no mapper knows is a 400 or a 500."""
        text = yaml.safe_dump(mapper["filter"])
        if named := [status for word, status in BY_DETAILS.items() if word in text]:
            return set(named)
        values = {int(value) for value in re.findall(r"default_value: (\d+)", text)}
        return {400} if values == {400, 499} else values

    def test_of_rest_are_the_registry(self) -> None:
        texts = [mapper.get("body_format_override", {}).get("text_format_source") for mapper in MAPPERS]
        rows = [row for row, text in zip(MAPPERS, texts, strict=True) if text and '"details"' in text["inline_string"]]
        for row in rows:
            (status,) = self.statuses(row)
            reply = REPLIES[status]
            said = json.loads(row["body_format_override"]["text_format_source"]["inline_string"])
            # Services write them in this order.
            assert list(said) == ["code", "message", "details"]
            assert (row["status_code"], said["code"]) == (status, reply.rest_code.value[0])
            # What was malformed follows, or what is wrong with the credential.
            assert re.fullmatch(re.escape(reply.message) + MORE, said["message"])
            assert said["details"][0] == {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": reply.reason,
                "domain": ERROR_DOMAIN,
                "metadata": {},
            }
            assert said["details"][1]["@type"] == "type.googleapis.com/google.rpc.RequestInfo"
            assert self.headers(row)["error-type"] == reply.reason
        assert {status for row in rows for status in self.statuses(row)} == set(REPLIES)

    def test_of_grpc_are_the_registry(self) -> None:
        rows = [mapper for mapper in MAPPERS if "body" in mapper]
        for row in rows:
            (status,) = self.statuses(row)
            reply = REPLIES[status]
            headers = self.headers(row)
            assert (row["status_code"], row["body"]) == (200, {"inline_string": ""})
            assert headers["grpc-status"] == str(reply.code.value[0])
            assert re.fullmatch(re.escape(reply.message) + MORE, headers["grpc-message"])
            assert headers["error-type"] == reply.reason
        assert {status for row in rows for status in self.statuses(row)} == set(REPLIES)

    def test_leave_no_status_to_envoy(self) -> None:
        for rows in ("body", "body_format_override"):
            *_, client_errors, server_errors = (mapper["filter"] for mapper in MAPPERS if rows in mapper)
            assert "op: GE" in yaml.safe_dump(client_errors)
            assert "op: LE" in yaml.safe_dump(client_errors)
            assert "op: GE" in yaml.safe_dump(server_errors)

    @staticmethod
    def headers(mapper: dict[str, Any]) -> dict[str, str]:
        return {one["header"]["key"]: one["header"]["value"] for one in mapper["headers_to_add"]}
