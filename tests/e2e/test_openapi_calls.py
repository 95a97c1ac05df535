"""Calls that the OpenAPI document allows, and such as it forbids: the mesh gives no answer that it does not tell of.

The calls are made up by schemathesis, always the same ones. Every operation gets both kinds, with ids of its own making
and with those of resources that exist.
"""

from collections.abc import Iterator
from typing import Any, Final

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode, checks
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.contract.test_openapi import OPERATIONS
from tests.e2e.started import token
from tools.openapi.document import PATH
from tools.topology import Mesh

# The start of the mesh is the first test's, and making up calls takes long where much else runs.
pytestmark = pytest.mark.timeout(180)
CALLS: Final = 3
"""For each operation and kind; each is made twice. For a batch one: making it up takes long, and its items are those of
the single calls."""
CHECKS: Final = [
    checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
SETTINGS: Final = settings(
    derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck), max_examples=CALLS
)
# A stream does not end: tests/e2e/test_watch.py reads them.
ENDING: Final = [
    name for name, (*_, one) in OPERATIONS.items() if "text/event-stream" not in one["responses"]["200"]["content"]
]
# What deletes comes last: the others shall find something.
ORDER: Final[list[str]] = sorted(ENDING, key=lambda name: (str(name).startswith("Delete"), name))
TENANT: Final = "made-up-calls"


@pytest.fixture(scope="module")
def api() -> Any:
    return schemathesis.openapi.from_path(PATH)


@pytest.fixture(scope="module")
def session(mesh: Mesh) -> Iterator[requests.Session]:
    with requests.Session() as result:
        result.headers["authorization"] = f"Bearer {token(mesh, TENANT, 'admin')}"
        yield result


@pytest.fixture(scope="module")
def known(mesh: Mesh) -> dict[str, dict[str, str]]:
    """Path parameters that lead to something, by collection; made of the document's own examples."""
    headers = {"authorization": f"Bearer {token(mesh, TENANT, 'admin')}"}
    with httpx.Client(base_url=mesh.url, headers=headers, timeout=20) as client:

        def create(name: str, **variables: str) -> dict[str, str]:
            _, path, operation = OPERATIONS[name]
            example = operation["requestBody"]["content"]["application/json"]["example"]
            answer = client.post(path.format(**variables), json=example)
            assert answer.status_code == 200, answer.text
            resource = answer.json().get("apiKey") or answer.json()
            return {"id": str(resource["id"])}

        account, workflow = create("CreateServiceAccount"), create("CreateWorkflow")
        assert client.post(f"/v1/workflows/{workflow['id']}:publish").status_code == 200
        owner = {"serviceAccountId": account["id"]}
        return {
            "users": create("CreateUser"),
            "serviceAccounts": account,
            "keys": create("CreateApiKey", **owner) | owner,
            "workflows": workflow,
            "revisions": {"workflowId": workflow["id"], "revision": "1"},
            "agents": create("CreateAgent"),
            "ipas": create("CreateIpa"),
        }


def collection_of(path: str) -> str:
    """`/v1/serviceAccounts/{serviceAccountId}/keys/{id}:rotate` is about `keys`."""
    names = [part.partition(":")[0] for part in path.split("/")[2:] if not part.startswith("{")]
    return names[-1]


@pytest.mark.parametrize("name", ORDER)
def test_an_operation_answers_as_the_document_says(
    name: str, api: Any, mesh: Mesh, session: requests.Session, known: dict[str, dict[str, str]]
) -> None:
    operation = api.find_operation_by_id(name)
    there = known.get(collection_of(operation.path), {})
    found: list[bool] = []

    def call(case: Any) -> None:
        case.call_and_validate(base_url=mesh.url, session=session, checks=CHECKS, timeout=20)
        if case.path_parameters:
            case.path_parameters = {**case.path_parameters, **there}
            answer = case.call_and_validate(base_url=mesh.url, session=session, checks=CHECKS, timeout=20)
            found.append(answer.status_code != 404)

    made_up = settings(SETTINGS, max_examples=1) if name.startswith("Batch") else SETTINGS
    for mode in GenerationMode:
        made_up(given(case=operation.as_strategy(generation_mode=mode))(call))()
    assert any(found) == ("{" in operation.path)
