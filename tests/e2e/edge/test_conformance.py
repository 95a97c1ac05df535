"""Both clients do the same: the scenarios of clients/conformance, through the real edge, to a service that fails.

`CLIENT_PYTHON` names another interpreter, and `CLIENT_TYPESCRIPT` another folder with the compiled package, to try
other versions of what the clients need (`make check-clients`).
"""

import asyncio
import json
import os
import socket
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import jwt
import pytest
import yaml
from ameide.edge.v1 import ext_authz_pb2 as edge_pb
from ameide.user.v1 import user_pb2 as pb
from api_common.authn import INTERNAL_ISSUER
from api_common.errors import (
    AbortedError,
    AuthorizationError,
    DomainError,
    EtagMismatchError,
    ExternalServiceError,
    FieldViolation,
    InternalError,
    NotFoundError,
    QuotaExceededError,
    RateLimitError,
    ValidationError,
    render,
)
from users_service.errors import EmailTakenError

from tests.e2e.edge.backend import Backend
from tests.e2e.edge.histories import watch_users
from tests.e2e.edge.plugin import Edge, Issuer
from tools.clients import typescript
from tools.topology import ROOT

SCENARIOS: Final = yaml.safe_load((ROOT / "clients" / "conformance" / "scenarios.yaml").read_text())
PYTHON: Final = (os.environ.get("CLIENT_PYTHON", sys.executable), str(ROOT / "clients/python/tests/conformance.py"))
DRIVERS: Final = {
    "threads": (*PYTHON, "threads"),
    "asyncio": (*PYTHON, "asyncio"),
    "typescript": ("node", "dist/test/conformance.js"),
}
PAGES: Final = (("a", "b"), (), ("c", "d", "e"))


class NewerError(AuthorizationError):
    reason = "NEWER"


class KeyInUseError(AbortedError):
    reason = "IDEMPOTENCY_KEY_IN_USE"


FAILURES: Final[Mapping[str, DomainError]] = {
    "busy": ExternalServiceError("away"),
    "later": RateLimitError("later", retry_after_seconds=0.05),
    "much_later": RateLimitError("later", retry_after_seconds=60),
    "race": AbortedError("lost"),
    "key_in_use": KeyInUseError("wait"),
    "taken": EmailTakenError("taken"),
    "etag": EtagMismatchError("old"),
    "defect": InternalError("defect"),
    "denied": AuthorizationError("no"),
    "missing": NotFoundError("There is no such user."),
    "newer": NewerError("no"),
    "quota": QuotaExceededError("full", metadata={"quota": "users", "limit": "5"}),
    "malformed": ValidationError(
        violations=[
            FieldViolation("user.email", "must be an address", "INVALID_FORMAT"),
            FieldViolation("user.labels", "is too long", "TOO_LONG"),
        ]
    ),
}


class Service:
    """Answers each caller as its scenario says: the subject of the token names driver and scenario."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer
        self._answered = Counter[str]()
        self._watches: dict[str, Any] = {}

    def script(self) -> dict[str, Any]:
        answers = {
            "GetUser": lambda request: pb.User(id=request.id),
            "CreateUser": lambda request: request.user,
            "UpdateUser": _updated,
            "DeleteUser": lambda request: pb.User(id=request.id, etag=request.etag),
            "BatchGetUsers": lambda request: pb.BatchGetUsersResponse(users=[pb.User(id=id) for id in request.ids]),
            "BatchCreateUsers": lambda request: pb.BatchCreateUsersResponse(
                users=[one.user for one in request.requests]
            ),
            "ListUsers": _page,
        }
        return {name: self._script(answer) for name, answer in answers.items()} | {
            "WatchUsers": self._watch,
            "Check": self._check,
        }

    def _script(self, answer: Any) -> Any:
        async def behave(request: Any, context: Any) -> Any:
            name = caller(dict(tuple(context.invocation_metadata() or ())))
            said = SCENARIOS[int(name.split()[1])].get("service", [])
            number = self._answered[name]
            self._answered[name] += 1
            how = said[number] if number < len(said) else "good"
            if how == "sleep":
                await asyncio.sleep(20)
            elif how != "good":
                await context.abort(*render(FAILURES[how], request_id="the-id"))
            return answer(request)

        return behave

    async def _watch(self, request: Any, context: Any) -> None:
        name = caller(dict(tuple(context.invocation_metadata() or ())))
        await self._watches.setdefault(name, watch_users())(request, context)

    async def _check(self, request: Any, context: Any) -> edge_pb.CheckResponse:
        subject = request.attributes.request.http.headers["x-api-key"]
        token = self._issuer.token(iss=INTERNAL_ISSUER, exp=self._issuer.now() + 60, sub=subject)
        value = edge_pb.HeaderValue(key="authorization", value=f"Bearer {token}")
        option = edge_pb.HeaderValueOption(header=value, append_action=2)
        return edge_pb.CheckResponse(ok_response=edge_pb.OkHttpResponse(headers=[option]))


def _updated(request: pb.UpdateUserRequest) -> pb.User:
    named = ",".join(request.update_mask.paths) if request.HasField("update_mask") else "none"
    request.user.labels["mask"] = named
    return request.user


def _page(request: pb.ListUsersRequest) -> pb.ListUsersResponse:
    number = int(request.page_token or 0)
    following = str(number + 1) if number + 1 < len(PAGES) else ""
    return pb.ListUsersResponse(users=[pb.User(id=id) for id in PAGES[number]], next_page_token=following)


def caller(metadata: Mapping[str, str | bytes]) -> str:
    """Returns the subject of the token: driver and number of the scenario."""
    token = str(metadata["authorization"]).removeprefix("Bearer ")
    return str(jwt.decode(token, options={"verify_signature": False})["sub"])


def for_driver(driver: str, edge: Edge, issuer: Issuer, folder: Path, nowhere: int) -> list[dict[str, Any]]:
    """Returns the scenarios with the options that only this run knows."""
    urls = {
        "secure": edge.secure_url,
        "plain": "http://api.example.com",
        "nowhere": f"http://127.0.0.1:{nowhere}",
        "unknown": "https://no-such-host.invalid",
    }
    found = []
    for number, scenario in enumerate(SCENARIOS):
        subject = f"{driver} {number}"
        path = folder / f"{driver}-{number}"
        own = {"url": "edge", "token": issuer.token(sub=subject), "key": subject, "file": str(path)}
        path.write_text(f"{own['token']}\n")
        client = own | scenario.get("client", {})
        client["url"] = urls.get(client["url"], edge.url)
        found.append({**scenario, "client": client})
    return found


async def run(driver: str, scenarios: list[dict[str, Any]]) -> list[dict[str, Any]]:
    environment = {name: value for name, value in os.environ.items() if name != "NODE_EXTRA_CA_CERTS"}
    process = await asyncio.create_subprocess_exec(
        *DRIVERS[driver],
        cwd=os.environ.get("CLIENT_TYPESCRIPT", typescript.PACKAGE),
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate(json.dumps(scenarios).encode())
    assert process.returncode == 0, errors.decode()
    found: list[dict[str, Any]] = json.loads(output)
    return [comparable(one) for one in found]


def comparable(outcome: dict[str, Any]) -> dict[str, Any]:
    """Returns an outcome without what chance or the words of a library decide."""
    if error := outcome.get("error"):
        if not error["requestId"]:
            error["message"] = error["message"].partition(": ")[0]
        elif error["requestId"] != "the-id":
            error["requestId"] = "an id of the edge"
        if error["code"] == "DEADLINE_EXCEEDED":
            # The client's own error, the edge's or the service's, whichever is first.
            error["message"] = error["requestId"] = ""
    return outcome


def is_in(expected: Any, found: Any) -> bool:
    """Tells whether everything that is expected was found."""
    if isinstance(expected, dict):
        return isinstance(found, dict) and all(is_in(value, found.get(name)) for name, value in expected.items())
    return bool(expected == found)


@pytest.mark.timeout(180)
async def test_both_clients_do_the_same(edge: Edge, backend: Backend, issuer: Issuer, tmp_path: Path) -> None:
    assert len(SCENARIOS) >= 40
    assert len({scenario["name"] for scenario in SCENARIOS}) == len(SCENARIOS)
    if "CLIENT_TYPESCRIPT" not in os.environ:
        await asyncio.to_thread(typescript.build)
    backend.script |= Service(issuer).script()
    with socket.socket() as silent:
        # Nobody else gets the port, and nothing listens there.
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        asked = {driver: for_driver(driver, edge, issuer, tmp_path, port) for driver in DRIVERS}
        ran = await asyncio.gather(*(run(driver, scenarios) for driver, scenarios in asked.items()))
    seen: dict[str, list[Any]] = {}
    for call in backend.calls:
        if call.method != "Check":
            seen.setdefault(caller(call.metadata), []).append(call)

    wrong = []
    for number, scenario in enumerate(SCENARIOS):
        outcomes = dict(zip(DRIVERS, (one[number] for one in ran), strict=True))
        for driver, outcome in outcomes.items():
            calls = seen.get(f"{driver} {number}", [])
            keys = {key for call in calls if (key := call.metadata.get("idempotency-key"))}
            facts = {
                "calls": len(calls),
                "keys": len(keys),
                "key": next(iter(keys), None),
                "age": calls[0].metadata.get("cache-control") if calls else None,
            }
            known = {name: facts[name] for name in facts if name in scenario}
            if not is_in(scenario["expect"], outcome) or any(scenario[name] != known[name] for name in known):
                wrong.append(f"{driver}: {scenario['name']}: {outcome} {known}")
        if len({json.dumps(outcome, sort_keys=True) for outcome in outcomes.values()}) > 1:
            wrong.append(f"differ: {scenario['name']}: {outcomes}")
    assert not wrong, "\n".join(wrong)
