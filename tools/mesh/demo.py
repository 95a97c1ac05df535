"""Tells a story through REST about users, workflows, agents and IPAs; fails when an answer is not the expected one."""

import secrets
import time
from typing import Any

import httpx

from tools.mesh.commands import running_mesh
from tools.secrets import identity
from tools.topology import Mesh, MeshError

Json = dict[str, Any]


class Caller:
    """Calls the API with a token and prints each call."""

    def __init__(self, mesh: Mesh, tenant: str, sub: str, *roles: str) -> None:
        token = identity.mint(mesh.issuer, sub=sub, tenant=tenant, roles=roles)
        self._http = httpx.Client(base_url=mesh.url, headers={"authorization": f"Bearer {token}"}, timeout=10)

    def call(self, method: str, path: str, body: Json | None = None, *, expect: int = 200, params: Any = None) -> Json:
        """Calls, prints one line and returns the answer."""
        answer = self._http.request(method, path, json=body, params=params)
        shown = path if len(path) < 40 else f"{path[:12]}…{path[-22:]}"
        is_json = answer.headers.get("content-type") == "application/json"
        reply: Json = answer.json() if is_json else {}
        print(f"  {method:<7}{shown:<38}{answer.status_code}  {_gist(reply)}")
        if answer.status_code != expect or not is_json:
            raise MeshError(f"expected {expect} and JSON, got {answer.status_code}: {answer.text}")
        return reply

    def settle(self, deployment: Json) -> Json:
        """Polls a deployment until its saga has ended and returns it."""
        for _ in range(100):
            if deployment["state"] not in {"DEPLOYING", "COMPENSATING", "RETIRING"}:
                break
            time.sleep(0.1)
            deployment = self.call("GET", f"/v1/ipas/{deployment['ipaId']}/deployments/{deployment['id']}")
        return deployment


def _gist(reply: Json) -> str:
    if "code" in reply:
        return f"{reply['details'][0]['reason']}: {reply['message']}" if reply.get("details") else str(reply)
    listed = next((value for value in reply.values() if isinstance(value, list)), None)
    if "id" not in reply:
        return f"{len(listed or [])} found"
    return f"{reply.get('displayName', 'The deployment')} is {'DELETED' if 'deleteTime' in reply else reply['state']}"


def tell(mesh: Mesh) -> None:
    """Tells the story, in a tenant of its own."""
    tenant = f"demo-{secrets.token_hex(4)}"
    ada = Caller(mesh, tenant, "ada", "admin")
    print(f"Ada, admin of the new tenant {tenant}, invites Grace.")
    invitation = {"displayName": "Grace Hopper", "email": "grace@navy.example", "roles": ["editor"]}
    grace = ada.call("POST", "/v1/users", invitation)
    ada.call("POST", "/v1/users", {"displayName": "Impostor", "email": "GRACE@navy.example"}, expect=409)
    promotion = {"displayName": "Admiral Hopper"}
    ada.call("PATCH", f"/v1/users/{grace['id']}", promotion, params={"updateMask": "displayName"})

    print("\nShe draws how an invoice is paid, and publishes it.")
    workflow = ada.call("POST", "/v1/workflows", {"displayName": "Pay an invoice", "definition": _DEFINITION})
    workflow = ada.call("POST", f"/v1/workflows/{workflow['id']}:publish", {})
    ada.call("GET", f"/v1/workflows/{workflow['id']}/revisions")

    print("\nAn agent will read the invoices.")
    agent = ada.call("POST", "/v1/agents", _AGENT)
    ada.call("POST", f"/v1/agents/{agent['id']}:activate", {})

    print("\nWorkflow and agent become one automation.")
    binding = {"workflowId": workflow["id"], "workflowRevision": workflow["revision"]}
    ipa = ada.call("POST", "/v1/ipas", {"displayName": "Invoices", **binding, "agentBindings": {"read": agent["id"]}})
    print("\nIt is deployed, and what it is made of cannot go away.")
    deployment = ada.settle(ada.call("POST", f"/v1/ipas/{ipa['id']}:deploy", {}))
    ada.call("GET", f"/v1/ipas/{ipa['id']}")
    ada.call("POST", f"/v1/workflows/{workflow['id']}:archive", {}, expect=400)
    if deployment["state"] != "DEPLOYED":
        raise MeshError(f"expected a deployment, got {deployment}")

    print("\nRetired, it lets them go.")
    ada.settle(ada.call("POST", f"/v1/ipas/{ipa['id']}:retire", {}))
    ada.call("POST", f"/v1/agents/{agent['id']}:disable", {})

    print("\nWhat is deleted can be restored.")
    ada.call("DELETE", f"/v1/users/{grace['id']}")
    ada.call("GET", "/v1/users")
    ada.call("POST", f"/v1/users/{grace['id']}:undelete", {})

    print("\nA viewer may look and not touch; for another tenant none of it exists.")
    viewer, eve = Caller(mesh, tenant, "vic", "viewer"), Caller(mesh, f"{tenant}-other", "eve", "admin")
    viewer.call("GET", f"/v1/workflows/{workflow['id']}")
    viewer.call("DELETE", f"/v1/workflows/{workflow['id']}", expect=403)
    eve.call("GET", f"/v1/workflows/{workflow['id']}", expect=404)


_DEFINITION: Json = {
    "nodes": [
        {"id": "start", "type": "START"},
        {"id": "read", "type": "AGENT", "displayName": "Read the invoice"},
        {"id": "approve", "type": "HUMAN", "displayName": "Approve it"},
        {"id": "end", "type": "END"},
    ],
    "edges": [
        {"source": "start", "target": "read"},
        {"source": "read", "target": "approve"},
        {"source": "approve", "target": "end"},
    ],
}
_AGENT: Json = {
    "displayName": "Invoice reader",
    "model": "reader-1",
    "instructions": "Find the amount, the currency and the payee.",
    "tools": [
        {
            "name": "lookup_payee",
            "description": "Finds a payee by name.",
            "inputSchema": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
        }
    ],
}


def main() -> None:
    try:
        mesh = running_mesh(Mesh.from_environment())
        if mesh is None:
            raise MeshError("No mesh is running; `make up` starts one.")
        tell(mesh)
    except (MeshError, httpx.HTTPError, KeyError) as error:
        raise SystemExit(f"\nNot as expected: {error}") from None
    print("\nAll as expected.")


if __name__ == "__main__":
    main()
