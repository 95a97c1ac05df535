"""An AI agent calls tools of the real mesh; what the edge makes of its messages is in tests/e2e/edge/test_mcp.py."""

import json
from collections.abc import Callable
from typing import Any, Final
from uuid import uuid4

import httpx

Rest = Callable[..., httpx.Client]
DENIED: Final = "PERMISSION_DENIED"


def call(client: httpx.Client, name: str, **arguments: Any) -> Any:
    """Calls a tool; returns the JSON of its answer, or the reason why it was refused."""
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": name, "arguments": arguments}}
    result = client.post("/mcp", json=message).raise_for_status().json()["result"]
    said = json.loads(result["content"][0]["text"])
    return said["details"][0]["reason"] if result["isError"] else said


def test_may_do_what_its_caller_may_do_over_rest(open_client: Rest) -> None:
    tenant = f"agents-{uuid4().hex[:8]}"
    admin, viewer, stranger = open_client(tenant, "admin"), open_client(tenant, "viewer"), open_client("other", "admin")
    user = {"displayName": "Ada", "email": "ada@example.com"}
    created = call(admin, "create_user", user=user)
    assert call(admin, "create_user", user=user) == "EMAIL_TAKEN"

    assert call(viewer, "get_user", id=created["id"]) == viewer.get(f"/v1/users/{created['id']}").json()
    assert call(viewer, "create_user", user=user | {"email": "eve@example.com"}) == DENIED
    assert call(viewer, "delete_user", id=created["id"]) == DENIED
    assert call(stranger, "get_user", id=created["id"]) == "RESOURCE_NOT_FOUND"
    assert call(stranger, "delete_user", id=created["id"]) == "RESOURCE_NOT_FOUND"
    assert [one["id"] for one in call(viewer, "list_users", filter='state = "ACTIVE"')["users"]] == [created["id"]]


def test_has_one_effect_with_a_key_and_overwrites_nothing_with_an_etag(open_client: Rest) -> None:
    admin = open_client(f"agents-{uuid4().hex[:8]}", "admin")
    arguments = {"agent": {"displayName": "Reader", "model": "reader-1"}, "idempotencyKey": str(uuid4())}
    agent = call(admin, "create_agent", **arguments)
    assert call(admin, "create_agent", **arguments)["id"] == agent["id"]
    change = {"id": agent["id"], "agent": {"displayName": "New"}, "updateMask": "displayName", "ifMatch": agent["etag"]}
    assert call(admin, "update_agent", **change)["displayName"] == "New"
    assert call(admin, "update_agent", **change) == "ETAG_MISMATCH"


def test_with_an_api_key_is_its_service_account(open_client: Rest) -> None:
    tenant = f"agents-{uuid4().hex[:8]}"
    admin = open_client(tenant, "admin")
    account = call(admin, "create_service_account", serviceAccount={"displayName": "Bot", "roles": ["viewer"]})
    key = call(admin, "create_api_key", serviceAccountId=account["id"], apiKey={"displayName": "Key"})["secret"]
    bot = open_client(tenant, headers={"x-api-key": key})
    assert call(bot, "list_agents")["agents"] == []
    assert call(bot, "create_agent", agent={"displayName": "x", "model": "y"}) == DENIED
