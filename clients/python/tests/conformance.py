"""The Python client's driver of clients/conformance: reads scenarios from stdin, prints the outcome of each as JSON.

python conformance.py threads|asyncio
"""

import asyncio
import json
import logging
import re
import sys
from pathlib import Path
from typing import Any, cast

from ameide_client import ApiError, AsyncClient, Client, RetryPolicy, types
from google.protobuf import json_format


def open_client(kind: type[Client | AsyncClient], said: Any) -> Client | AsyncClient:
    token = said.get("token")
    match said.get("from"):
        case "function":
            credential: dict[str, Any] = {"token": lambda: token}
        case "file":
            credential = {"token": Path(said["file"])}
        case "key":
            credential = {"api_key": said["key"]}
        case "both":
            credential = {"token": token, "api_key": said["key"]}
        case _:
            credential = {"token": token}
    return kind(said["url"], retry=policy(said.get("retry", {})), **credential)


def policy(said: Any) -> RetryPolicy:
    return RetryPolicy(said.get("maxAttempts", 4), said.get("firstPauseMs", 10) / 1000)


def arguments(rpc: str, said: Any, call: Any) -> dict[str, Any]:
    """Returns the arguments of the method: the fields of the request, and the options of the call."""
    request = json_format.ParseDict(said, getattr(types, f"{rpc}Request")())
    given: dict[str, Any] = {one.name: value for one, value in request.ListFields()}
    if "update_mask" in given:
        given["update_mask"] = list(given["update_mask"].paths)
    if "timeoutMs" in call:
        given["timeout"] = call["timeoutMs"] / 1000
    if "retry" in call:
        given["retry"] = policy(call["retry"])
    names = {"idempotencyKey": "idempotency_key", "maxAge": "max_age"}
    return given | {names[name]: value for name, value in call.items() if name in names}


class Attempts(logging.Handler):
    """The attempts of a watch: the number of each, and its reason or `ok`."""

    def __init__(self, found: list[list[Any]]) -> None:
        super().__init__()
        self._found = found

    def emit(self, record: logging.LogRecord) -> None:
        _, number, *error = cast(tuple[Any, ...], record.args)
        self._found.append([number, *(one.reason for one in error)] if error else [number, "ok"])


async def outcome(client: Client | AsyncClient, scenario: Any) -> dict[str, Any]:
    rpc, is_async = scenario["rpc"], isinstance(client, AsyncClient)
    verb = re.sub("_users?$", "", re.sub("(?<!^)(?=[A-Z])", "_", rpc).lower())
    method: Any = getattr(client.users, verb)
    given = arguments(rpc, scenario["request"], scenario.get("call", {}))
    found: dict[str, Any] = {}
    try:
        if verb == "watch":
            watch, found["changes"], found["attempts"] = method(**given), [], []
            logging.getLogger("ameide_client").addHandler(attempts := Attempts(found["attempts"]))
            try:
                for _ in range(scenario["take"]):
                    change = await (anext(watch) if is_async else asyncio.to_thread(next, watch))
                    found["changes"].append([change.kind, change.resource.id])
            finally:
                logging.getLogger("ameide_client").removeHandler(attempts)
                found["resumeToken"] = watch.resume_token
                await (watch.close() if is_async else asyncio.to_thread(watch.close))
        elif verb == "list":
            found["items"] = []
            if is_async:
                async for one in method(**given):
                    found["items"].append(one.id)
            else:
                await asyncio.to_thread(gather, method(**given), found["items"])
        else:
            answer = await (method(**given) if is_async else asyncio.to_thread(method, **given))
            found["answer"] = json_format.MessageToDict(answer)
    except ApiError as error:
        found["error"] = told(error)
    return found


def gather(pager: Any, items: list[str]) -> None:
    """Goes through a list; what was found before a failure is kept."""
    items.extend(one.id for one in pager)


def told(error: ApiError) -> dict[str, Any]:
    delay = error.retry_after_seconds
    return {
        "type": type(error).__name__,
        "code": error.code.name,
        "reason": error.reason,
        "message": error.message,
        "requestId": error.request_id,
        "retryAfterMs": None if delay is None else round(delay * 1000),
        "violations": [
            {"field": one.field, "description": one.description, "reason": one.reason} for one in error.violations
        ],
        "values": dict(error.metadata),
    }


async def run(kind: type[Client | AsyncClient], scenario: Any) -> dict[str, Any]:
    try:
        client = open_client(kind, scenario["client"])
    except ValueError:
        return {"refused": True}
    try:
        return await outcome(client, scenario)
    finally:
        await (client.close() if isinstance(client, AsyncClient) else asyncio.to_thread(client.close))


async def main() -> None:
    logging.getLogger("ameide_client").setLevel(logging.DEBUG)
    kind = AsyncClient if sys.argv[1] == "asyncio" else Client
    print(json.dumps([await run(kind, scenario) for scenario in json.load(sys.stdin)]))


if __name__ == "__main__":
    asyncio.run(main())
