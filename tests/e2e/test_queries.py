"""The same questions over REST and over gRPC, through the real mesh: the same answers, the same refusals."""

import http.client
import json
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlsplit

import grpc
import httpx
import pytest
from ameide.user.v1 import user_pb2 as pb
from ameide.user.v1.user_pb2_grpc import UserServiceStub
from api_common.errors import json_path
from api_common.testing import refused

from tests.e2e.started import token
from tests.e2e.test_stories import grpc_channel
from tools.topology import Mesh

Rest = Callable[..., httpx.Client]

PEOPLE = {
    "Ada Lovelace": {"labels": {"team": "a", "site.eu": "berlin"}, "roles": ["admin"]},
    "Grace Hopper": {"labels": {"team": "b"}, "roles": ["editor", "viewer"]},
    "Ålan 100%": {"labels": {}, "roles": ["viewer"]},
    "zoë": {"labels": {"team": "a"}, "roles": []},
}
QUESTIONS = [
    ("", "displayName", ["Ada Lovelace", "Grace Hopper", "zoë", "Ålan 100%"]),
    ('labels.team = "a"', "display_name desc", ["zoë", "Ada Lovelace"]),
    ("labels.site.eu:*", "", ["Ada Lovelace"]),
    ('display_name:"LOVE" OR display_name:ÅL AND state = ACTIVE', "display_name", ["Ada Lovelace", "Ålan 100%"]),
    ('displayName = "*0%"', "", ["Ålan 100%"]),
    ("-roles:viewer", "create_time", ["Ada Lovelace", "zoë"]),
    ("NOT (roles:viewer OR roles:admin)", "", ["zoë"]),
    ('email = "ADA*"', "", ["Ada Lovelace"]),
    (
        "email:x AND create_time > 2020-01-01T00:00:00+01:00",
        "email desc",
        ["Grace Hopper", "Ada Lovelace", "zoë", "Ålan 100%"],
    ),
    ("create_time > 2999-01-01T00:00:00Z", "", []),
]
"""A filter, an order, and who is found."""
REFUSED = [
    ({"filter": "nickname = 1"}, "INVALID_FILTER"),
    ({"filter": "state = GONE"}, "INVALID_FILTER"),
    ({"filter": 'display_name ~ "a.*b"'}, "INVALID_FILTER"),
    ({"filter": " AND ".join(["id=1"] * 200)}, "INVALID_FILTER"),
    ({"filter": "(" * 1000}, "INVALID_FILTER"),
    ({"filter": " AND ".join(["id=1"] * 1000)}, "INVALID_REQUEST"),
    ({"order_by": "roles"}, "INVALID_ORDER_BY"),
    ({"page_size": -1}, "INVALID_REQUEST"),
    ({"page_token": "x"}, "INVALID_PAGE_TOKEN"),
]


@pytest.fixture
def tenant() -> str:
    return f"t-{secrets.token_hex(8)}"


@pytest.fixture
async def users(mesh: Mesh, tenant: str) -> AsyncIterator[Any]:
    async with grpc_channel(mesh, tenant) as channel:
        yield UserServiceStub(channel)


def create_people(ada: httpx.Client) -> None:
    for number, (name, own) in enumerate(PEOPLE.items()):
        email = f"{name.split()[0].lower() if name.isascii() else number}@x.example"
        answer = ada.post("/v1/users", json={"displayName": name, "email": email, **own})
        assert answer.status_code == 200, answer.text


class TestQueries:
    async def test_find_the_same_over_both(self, open_client: Rest, users: Any, tenant: str) -> None:
        ada = open_client(tenant, "admin")
        create_people(ada)
        for text, order, names in QUESTIONS:
            answer = ada.get("/v1/users", params={"filter": text, "orderBy": order})
            page = await users.ListUsers(pb.ListUsersRequest(filter=text, order_by=order))
            shown = [user["displayName"] for user in answer.json()["users"]]
            assert shown == [user.display_name for user in page.users]
            assert (sorted(shown), shown if order else []) == (sorted(names), names if order else []), text

    async def test_pages_of_one_protocol_go_on_in_the_other(self, open_client: Rest, users: Any, tenant: str) -> None:
        ada = open_client(tenant, "admin")
        create_people(ada)
        first = ada.get("/v1/users", params={"pageSize": 3, "orderBy": "displayName"}).json()
        request = pb.ListUsersRequest(page_size=3, order_by="displayName", page_token=first["nextPageToken"])
        last = await users.ListUsers(request)
        names = [user["displayName"] for user in first["users"]] + [user.display_name for user in last.users]
        assert names == sorted(PEOPLE)
        assert last.next_page_token == ""

    @pytest.mark.parametrize(("parameters", "reason"), REFUSED, ids=lambda value: str(value)[:30])
    async def test_are_refused_alike(
        self, open_client: Rest, users: Any, tenant: str, parameters: dict[str, Any], reason: str
    ) -> None:
        answer = open_client(tenant, "viewer").get("/v1/users", params=parameters)
        assert answer.status_code == 400, answer.text
        with refused(grpc.StatusCode.INVALID_ARGUMENT, reason) as refusal:
            await users.ListUsers(pb.ListUsersRequest(**parameters))
        details = {detail["@type"].rpartition(".")[2]: detail for detail in answer.json()["details"]}
        assert details["ErrorInfo"]["reason"] == reason
        violations = {each["field"]: each["description"] for each in details["BadRequest"]["fieldViolations"]}
        assert violations == {json_path(field): said for field, said in refusal.violations.items()}
        assert list(violations) == [json_path(name) for name in parameters]

    def test_of_a_hundred_kilobytes_are_refused_by_the_edge(self, mesh: Mesh, tenant: str) -> None:
        connection = http.client.HTTPConnection(
            urlsplit(mesh.url).netloc, timeout=20
        )  # httpx refuses such a URL itself
        credentials = {"authorization": f"Bearer {token(mesh, tenant, 'viewer')}"}
        connection.request("GET", f"/v1/users?filter={'x' * 100_000}", headers=credentials)
        answer = connection.getresponse()
        assert answer.status == 431
        assert json.loads(answer.read())["details"][0]["reason"] == "HEADERS_TOO_LARGE"
        connection.close()

    def test_tokens_of_a_list_open_no_other_list(self, open_client: Rest, tenant: str) -> None:
        """Every service seals with the same key here."""
        ada = open_client(tenant, "admin")
        create_people(ada)
        minted = ada.get("/v1/users", params={"pageSize": 1}).json()["nextPageToken"]
        for path in ("serviceAccounts", "workflows", "agents", "ipas"):
            answer = ada.get(f"/v1/{path}", params={"pageSize": 1, "pageToken": minted})
            assert answer.status_code == 400
            assert answer.json()["details"][0]["reason"] == "INVALID_PAGE_TOKEN"

    async def test_see_what_was_written_before(self, open_client: Rest, users: Any, tenant: str) -> None:
        """Written over REST, read at once over gRPC, and the other way round: other connections, the same rows."""
        ada = open_client(tenant, "admin")
        for number in range(10):
            made = ada.post("/v1/users", json={"displayName": "New", "email": f"{number}@x.example"}).json()
            page = await users.ListUsers(pb.ListUsersRequest(page_size=1, filter='display_name = "New"'))
            assert [user.id for user in page.users] == [made["id"]]
            changed = await users.UpdateUser(pb.UpdateUserRequest(user=pb.User(id=made["id"], display_name="Old")))
            assert ada.get(f"/v1/users/{made['id']}").json()["etag"] == changed.etag
            assert ada.get("/v1/users", params={"filter": 'display_name = "New"'}).json()["users"] == []
