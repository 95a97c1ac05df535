"""Records an answer of every operation, and a refusal of every reason that a client can provoke at once.

A tenant calls each operation once, in an order in which it succeeds; then come the refusals.

What differs from one recording to the next gets a fixed value: ids, times, etags, secrets and tokens of pages.
"""

import json
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import httpx
from api_common.testing import NEVER

from tests.contract.test_openapi import OPERATIONS

Json = dict[str, Any]

FIRST_TIME: Final = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
STEP: Final = timedelta(minutes=5)
"""What comes later by less was made by the recording itself."""
UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z")
KEY: Final = re.compile(r"ameide_([0-9a-f]{12})(\w*)")
KEY_OF_EMPTY: Final = {"idempotency-key": "empty"}
KEY_OF_KEY: Final = {"idempotency-key": "key"}
NAMED: Final = {"displayName": "One"}
TOOL: Final = {"name": "read", "inputSchema": {"type": "object"}}
AGENT: Final = {"displayName": "Invoice reader", "model": "reader-1"}
IPA: Final = {"displayName": "Invoices", "workflowId": "{workflow}", "workflowRevision": 1}
REFUSED: Final[dict[str, tuple[str, str, Json]]] = {
    "INVALID_REQUEST": ("POST", "/v1/users", {"json": {}}),
    "UNAUTHENTICATED": ("GET", "/v1/users", {"headers": {"authorization": "Bearer no-token"}}),
    "RESOURCE_NOT_FOUND": ("GET", f"/v1/users/{NEVER}", {}),
    "METHOD_NOT_FOUND": ("PUT", "/v1/users", {}),
    "ETAG_MISMATCH": ("PATCH", "/v1/users/{user}", {"json": {"displayName": "Ada"}, "headers": {"if-match": '"0"'}}),
    "PAYLOAD_TOO_LARGE": (
        "POST",
        "/v1/users",
        {"content": b" " * (11 << 20), "headers": {"content-type": "application/json"}},
    ),
    "UNSUPPORTED_MEDIA_TYPE": ("POST", "/v1/users", {"content": b"{}", "headers": {"content-type": "text/plain"}}),
    "HEADERS_TOO_LARGE": ("GET", "/v1/users", {"headers": {"x-more": "x" * 20_000}}),
    "INVALID_FILTER": ("GET", "/v1/users", {"params": {"filter": 'color = "red"'}}),
    "INVALID_ORDER_BY": ("GET", "/v1/users", {"params": {"orderBy": "color"}}),
    "INVALID_PAGE_TOKEN": ("GET", "/v1/users", {"params": {"pageToken": "none"}}),
    "INVALID_RESUME_TOKEN": ("GET", "/v1/users:watch", {"params": {"resumeToken": "none"}}),
    "INVALID_UPDATE_MASK": ("PATCH", "/v1/users/{user}", {"params": {"updateMask": "color"}, "json": {}}),
    "EMAIL_TAKEN": ("POST", "/v1/users", {"json": {"displayName": "Grace", "email": "grace@navy.example"}}),
    "NOT_DELETED": ("POST", "/v1/users/{user}:undelete", {"json": {}}),
    "INVALID_STATE": ("POST", "/v1/ipas/{retired}:deploy", {"json": {}}),
    "INVALID_TOOLS": ("POST", "/v1/agents", {"json": AGENT | {"tools": [TOOL, TOOL]}}),
    "INVALID_GRAPH": ("POST", "/v1/workflows/{empty}:publish", {"json": {}}),
    "INCOMPLETE_IPA": ("POST", "/v1/ipas/{bare}:deploy", {"json": {}}),
    "WORKFLOW_NOT_FOUND": ("POST", "/v1/ipas", {"json": IPA | {"workflowId": NEVER}}),
    "WORKFLOW_REVISION_NOT_FOUND": ("POST", "/v1/ipas", {"json": IPA | {"workflowRevision": 9}}),
    "AGENT_NOT_FOUND": ("POST", "/v1/ipas", {"json": IPA | {"agentBindings": {"{node}": NEVER}}}),
    "INVALID_BINDINGS": ("POST", "/v1/ipas", {"json": IPA | {"agentBindings": {"none": NEVER}}}),
    "IDEMPOTENCY_KEY_REUSED": ("POST", "/v1/workflows", {"json": {"displayName": "Other"}, "headers": KEY_OF_EMPTY}),
    "SECRET_SHOWN_ONCE": ("POST", "/v1/serviceAccounts/{account}/keys", {"json": NAMED, "headers": KEY_OF_KEY}),
    "API_KEY_LIMIT_REACHED": ("POST", "/v1/serviceAccounts/{account}/keys", {"json": NAMED}),
    "STILL_REFERENCED": ("DELETE", "/v1/agents/{held}", {}),
    # The last: of somebody without a role.
    "PERMISSION_DENIED": ("GET", "/v1/users", {}),
}
"""The request that provokes each refusal: verb, path, and what else httpx is told; what is in braces is prepared."""
NOT_AT_ONCE: Final = {
    "ALREADY_EXISTS": "each operation has a reason of its own: EMAIL_TAKEN, NOT_DELETED, SECRET_SHOWN_ONCE",
    "CANCELLED": "it is for a client that has gone, and reads no answer",
    "CONCURRENT_UPDATE": "two changes have to meet between reading and writing",
    "DATA_LOSS": "a stored row has to be broken",
    "DEADLINE_EXCEEDED": "a call has to take longer than its deadline, or a body not to arrive for seconds",
    "IDEMPOTENCY_KEY_IN_USE": "the first call with the key has to take longer than the second one waits",
    "INTERNAL": "something of ours has to be wrong",
    "NOT_IMPLEMENTED": "a release has to declare a method that it does not serve yet",
    "QUOTA_EXCEEDED": "a tenant has to hold 100,000 resources, or another quota has to be configured",
    "RATE_LIMITED": "hundreds of calls a second have to arrive, on a machine that may be busy",
    "RESUME_TOKEN_EXPIRED": "the changes after the token have to be deleted, days later",
    "SLOW_READER": "a client has to leave megabytes unread; its watch ends with it, which is no body",
    "TOO_MANY_CALLS": "more calls have to be under way than a principal may have, at one moment",
    "TOO_MANY_WATCHES": "a principal has to hold 1,000 watches",
    "UNAVAILABLE": "a service has to be down",
}
"""Why no answer with these reasons is recorded."""
FIXED: Final = {"tenantId": "acme", "resumeToken": "gAAAAAB…"}


class Recorder:
    """Calls operations by their names, with the example of their body, and keeps the answers."""

    def __init__(self, client: httpx.Client, sign_in: Callable[..., None]) -> None:
        """``sign_in`` lets ``client`` call as a user of this id, with these roles, from then on."""
        self._client = client
        self._sign_in = sign_in
        self.answers: dict[str, Json] = {}

    def record(self) -> dict[str, Json]:
        """Calls every operation, and returns the answers by the operation's name, made stable."""
        self._sign_in("ada", "admin")
        self._users()
        self._service_accounts()
        workflow, agent = self._workflows(), self._agents()
        self._ipas(workflow, agent)
        for resource in sorted({name.removeprefix("Create") for name in OPERATIONS if name.startswith("Create")}):
            if f"Watch{resource}s" in OPERATIONS and f"Get{resource}" not in self.answers:
                self._standard(resource)
        self._refusals()
        stable = Stable()
        return dict(sorted({name: stable.of(answer) for name, answer in self.answers.items()}.items()))

    def call(self, name: str, body: Json | None = None, **variables: Any) -> Json:
        """Calls an operation. ``variables`` that are not in its path are its query."""
        verb, path, operation = OPERATIONS[name]
        example = operation.get("requestBody", {"content": {"application/json": {}}})["content"]["application/json"]
        sent = example.get("example") if body is None else body
        query = {key: value for key, value in variables.items() if f"{{{key}}}" not in path}
        if "text/event-stream" in operation["responses"]["200"]["content"]:
            answer = self._first_change(path.format(**variables), query | {"initialState": "true"})
        else:
            found = self._client.request(verb, path.format(**variables), params=query, json=sent)
            assert found.status_code == 200, f"{name}: {found.text}"
            answer = found.json()
        self.answers.setdefault(name, answer)
        return answer

    def _first_change(self, path: str, query: Json) -> Json:
        with self._client.stream("GET", path, params=query) as stream:
            assert stream.status_code == 200, path
            events = (json.loads(line.removeprefix("data: ")) for line in stream.iter_lines() if line[:5] == "data:")
            return next(event for event in events if "created" in event)

    def _standard(self, resource: str, body: Json | None = None) -> str:
        """Calls what every resource has, and returns the id of one that is live."""
        one, many = resource[0].lower() + resource[1:], f"{resource}s"
        if f"BatchCreate{many}" in OPERATIONS:
            batch = None if body is None else {"requests": [{one: body}]}
            (created,) = self.call(f"BatchCreate{many}", batch)[f"{one}s"]
            change = OPERATIONS[f"BatchUpdate{many}"][2]["requestBody"]["content"]["application/json"]["example"]
            self.call(f"BatchGet{many}", ids=created["id"])
            change = change["requests"][0][one] | {"id": created["id"]}
            self.call(f"BatchUpdate{many}", {"requests": [{one: change}]})
            self.call(f"BatchDelete{many}", {"requests": [{"id": created["id"]}]})
        id = str(self.call(f"Create{resource}", body)["id"])
        self.call(f"Get{resource}", id=id)
        self.call(f"List{many}")
        for name in (f"Watch{many}", f"Get{resource}Quotas"):
            if name in OPERATIONS:
                self.call(name)
        self.call(f"Update{resource}", id=id)
        self.call(f"Delete{resource}", id=id)
        self.call(f"Undelete{resource}", id=id)
        return id

    def _users(self) -> None:
        id = self._standard("User")
        self.call("SuspendUser", id=id)
        self.call("ActivateUser", id=id)
        admin = self.call("CreateUser", {"displayName": "Grace", "email": "grace@navy.example", "roles": ["admin"]})
        # She is stored, and the tenant's own admin from here on.
        self._sign_in(str(admin["id"]), "admin")
        self.call("GetMe")

    def _refusals(self) -> None:
        prepared = self._prepared()
        for reason, (verb, path, sent) in REFUSED.items():
            if reason == "PERMISSION_DENIED":
                self._sign_in("nobody")
            answer = self._client.request(verb, filled(path, prepared), **filled(sent, prepared)).json()
            assert answer["details"][0]["reason"] == reason, answer
            self.answers[reason] = answer

    def _prepared(self) -> dict[str, str]:
        """Makes what refusals need, and returns its ids."""
        workflow = self.answers["PublishWorkflow"]
        node = next(one["id"] for one in workflow["definition"]["nodes"] if one["type"] == "AGENT")
        agent, account = self.answers["ActivateAgent"]["id"], self.answers["CreateServiceAccount"]["id"]
        named = {"workflowId": workflow["id"], "workflowRevision": 1, "agentBindings": {node: agent}}
        held = self._post("/v1/ipas", {"displayName": "Deployed"} | named)
        deployment = self._post(f"/v1/ipas/{held}:deploy", {})
        while self._client.get(f"/v1/ipas/{held}/deployments/{deployment}").json()["state"] == "DEPLOYING":
            time.sleep(0.1)
        self._post(f"/v1/serviceAccounts/{account}/keys", NAMED, **KEY_OF_KEY)
        for _ in range(10):
            # As many as there may be; the rest are refused.
            self._client.post(f"/v1/serviceAccounts/{account}/keys", json=NAMED)
        return {
            "user": self.answers["GetMe"]["id"],
            "retired": self.answers["CreateIpa"]["id"],
            "workflow": workflow["id"],
            "node": node,
            "account": account,
            "held": agent,
            "empty": self._post("/v1/workflows", {"displayName": "Empty"}, **KEY_OF_EMPTY),
            "bare": self._post("/v1/ipas", {"displayName": "Bare"}),
        }

    def _post(self, path: str, body: Json, **headers: str) -> str:
        """Makes something that no example shows, and returns its id."""
        made = self._client.post(path, json=body, headers=headers).raise_for_status().json()
        return str(made.get("apiKey", made)["id"])

    def _service_accounts(self) -> None:
        id = self._standard("ServiceAccount")
        self.call("DisableServiceAccount", id=id)
        self.call("EnableServiceAccount", id=id)
        key = self.call("CreateApiKey", serviceAccountId=id)["apiKey"]["id"]
        self.call("ListApiKeys", serviceAccountId=id)
        successor = self.call("RotateApiKey", serviceAccountId=id, id=key)["apiKey"]["id"]
        self.call("RevokeApiKey", serviceAccountId=id, id=successor)

    def _workflows(self) -> Json:
        id = self._standard("Workflow")
        published = self.call("PublishWorkflow", id=id)
        self.call("GetWorkflowRevision", workflowId=id, revision=1)
        self.call("ListWorkflowRevisions", workflowId=id)
        other = self.call("CreateWorkflow")["id"]
        self.call("PublishWorkflow", id=other)
        self.call("ArchiveWorkflow", id=other)
        return published

    def _agents(self) -> str:
        id = self._standard("Agent")
        self.call("ActivateAgent", id=id)
        self.call("DisableAgent", id=id)
        self.call("ActivateAgent", id=id)
        return id

    def _ipas(self, workflow: Json, agent: str) -> None:
        asks = [node["id"] for node in workflow["definition"]["nodes"] if node["type"] == "AGENT"]
        body = OPERATIONS["CreateIpa"][2]["requestBody"]["content"]["application/json"]["example"]
        named = {"workflowId": workflow["id"], "agentBindings": dict.fromkeys(asks, agent)}
        id = self._standard("Ipa", body | named)
        deployment = self.call("DeployIpa", id=id)
        there = {"ipaId": id, "id": deployment["id"]}
        while self.call("GetDeployment", **there)["state"] == "DEPLOYING":
            # The answer that is kept is the last one.
            del self.answers["GetDeployment"]
            time.sleep(0.1)
        self.call("ListDeployments", ipaId=id)
        self.call("ResumeDeployment", **there)
        self.call("WatchDeployments", ipaId=id)
        self.call("RetireIpa", id=id)


def filled(value: Any, prepared: dict[str, str]) -> Any:
    """Returns ``value`` with prepared ids for what is in braces."""
    if isinstance(value, dict):
        return {filled(name, prepared): filled(one, prepared) for name, one in value.items()}
    if isinstance(value, list):
        return [filled(one, prepared) for one in value]
    return re.sub(r"{(\w+)}", lambda found: prepared[found[1]], value) if isinstance(value, str) else value


class Stable:
    """Gives what differs from one recording to the next a value that does not."""

    def __init__(self) -> None:
        self._ids: dict[str, str] = {}
        self._versions: dict[str, list[str]] = {}

    def of(self, answer: Json) -> Json:
        """Returns ``answer`` with stable values. A resource has the same id in every answer."""
        text = json.dumps(answer, ensure_ascii=False)
        times = sorted({datetime.fromisoformat(found) for found in TIME.findall(text)})
        text = TIME.sub(lambda found: self._time(datetime.fromisoformat(found[0]), times), text)
        text = UUID.sub(lambda found: self._id(found[0]), text)
        result: Json = json.loads(KEY.sub(self._key, text), object_hook=self._object)
        return result

    def _id(self, id: str) -> str:
        return self._ids.setdefault(id, f"019b7b{len(self._ids):02x}-52ce-7c1e-8a54-3f6d2b9e4c10")

    def _key(self, found: re.Match[str]) -> str:
        """A key begins with the id of its settings, which end the match of a prefix."""
        (id,) = (stable for id, stable in self._ids.items() if id.replace("-", "").startswith(found[1]))
        return f"ameide_{id.replace('-', '')[:12]}{'…' if found[2] else ''}"

    def _time(self, time: datetime, times: list[datetime]) -> str:
        """Times that the recording made are a second apart, later ones as late as they are."""
        late = time - times[0]
        if late > timedelta(days=365):
            stable = time.replace(microsecond=0)
        elif late > STEP:
            stable = FIRST_TIME + round(late / STEP) * STEP
        else:
            stable = FIRST_TIME + timedelta(seconds=times.index(time))
        return stable.isoformat().replace("+00:00", "Z")

    def _object(self, found: Json) -> Json:
        if "etag" in found:
            # How many versions a deployment has depends on how often it tries.
            versions = self._versions.setdefault(found["id"], [])
            versions += [found["etag"]] if found["etag"] not in versions else []
            found["etag"] = f'"{versions.index(found["etag"]) + 1}"'
        if "attempts" in found:
            found["attempts"] = min(found["attempts"], 1)
        return found | {name: value for name, value in FIXED.items() if name in found}
