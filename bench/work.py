"""The calls that contenders get, over gRPC and over REST, and the answers that are right."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlencode

import orjson
import uuid_utils
from ameide.agent.v1 import agent_pb2
from ameide.user.v1 import user_pb2 as pb
from google.protobuf import json_format
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from bench.stage import TENANT, WRITTEN, agent_of, users_of

PAGE: Final = 50
BATCH: Final = 100


class WrongAnswerError(Exception):
    """A contender gave a wrong answer."""


@dataclass(frozen=True, slots=True)
class Rest:
    """The same call over HTTP."""

    verb: str
    path: str
    body: dict[str, Any] | None = None


@dataclass(frozen=True)
class Plan:
    """An RPC, and how often it is called."""

    resource: str
    """The collection, which names the service."""
    method: str
    """The full name of the RPC."""
    tenant: str
    calls: int
    """Calls in a round."""
    rate: int
    """Calls a second for the latency: about a fifth of the capacity of the slowest contender."""
    has_key: bool = False
    """Whether each call carries an idempotency key of its own."""
    max_age_seconds: int = 0
    """The age that each call accepts; only our services know it."""


_USERS: Final = "ameide.user.v1.UserService/"
PLANS: Final = {
    "GetUser": Plan("users", f"{_USERS}GetUser", TENANT, calls=300, rate=80),
    "GetUser max-age": Plan("users", f"{_USERS}GetUser", TENANT, calls=300, rate=80, max_age_seconds=30),
    "ListUsers 50": Plan("users", f"{_USERS}ListUsers", TENANT, calls=50, rate=15),
    "CreateUser": Plan("users", f"{_USERS}CreateUser", WRITTEN, calls=100, rate=40),
    "CreateUser key": Plan("users", f"{_USERS}CreateUser", WRITTEN, calls=100, rate=40, has_key=True),
    "UpdateUser etag": Plan("users", f"{_USERS}UpdateUser", WRITTEN, calls=100, rate=40),
    "BatchGet 100": Plan("users", f"{_USERS}BatchGetUsers", TENANT, calls=30, rate=10),
    "1 MB agent": Plan("agents", "ameide.agent.v1.AgentService/GetAgent", TENANT, calls=8, rate=4),
}


class Work(Protocol):
    """One kind of call; ``number`` distinguishes the calls."""

    @property
    def answer(self) -> type[Message]:
        """The type of its answers over gRPC."""

    def request(self, number: int) -> Message:
        """Returns the call over gRPC."""

    def rest(self, number: int) -> Rest:
        """Returns the same call over REST."""

    def check(self, number: int, answer: Message) -> None:
        """Raises WrongAnswerError if ``answer`` is not right."""

    def check_json(self, number: int, body: bytes) -> None:
        """Raises WrongAnswerError if ``body`` is not right."""


@dataclass(frozen=True)
class Read:
    """Calls whose answers are known."""

    requests: Sequence[Message]
    paths: Sequence[str]
    answers: Sequence[Message]

    @property
    def answer(self) -> type[Message]:
        return type(self.answers[0])

    @cached_property
    def _values(self) -> Sequence[Any]:
        return [json_format.MessageToDict(one, always_print_fields_with_no_presence=True) for one in self.answers]

    def request(self, number: int) -> Message:
        return self.requests[number % len(self.requests)]

    def rest(self, number: int) -> Rest:
        return Rest("GET", self.paths[number % len(self.paths)])

    def check(self, number: int, answer: Message) -> None:
        if isinstance(answer, pb.ListUsersResponse):
            # Each contender has its own form of token.
            answer.next_page_token = ""
        if answer != self.answers[number % len(self.answers)]:
            raise WrongAnswerError(str(answer)[:1000])

    def check_json(self, number: int, body: bytes) -> None:
        value = orjson.loads(body)
        if "nextPageToken" in value:
            value["nextPageToken"] = ""
        if value != self._values[number % len(self._values)]:
            raise WrongAnswerError(body[:1000].decode())


class Write:
    """Calls whose answers contain values that the server chose."""

    answer = pb.User

    def check_json(self, number: int, body: bytes) -> None:
        try:
            self.check(number, json_format.Parse(body, pb.User()))
        except json_format.ParseError as error:
            raise WrongAnswerError(body[:1000].decode()) from error

    def check(self, number: int, answer: Message) -> None:
        raise NotImplementedError


class Create(Write):
    """Creates a new user each time."""

    def request(self, number: int) -> Message:
        return pb.CreateUserRequest(user=self._user(number))

    def rest(self, number: int) -> Rest:
        user = self._user(number)
        body = {"displayName": user.display_name, "email": user.email, "labels": dict(user.labels)}
        return Rest("POST", "/v1/users", {**body, "roles": list(user.roles)})

    def check(self, number: int, answer: Message) -> None:
        assert isinstance(answer, pb.User)
        expected = pb.User(
            id=answer.id,
            tenant_id=WRITTEN,
            state=pb.User.ACTIVE,
            create_time=answer.create_time,
            update_time=answer.create_time,
            created_by="ada",
            etag='"1"',
            email=answer.email,
        )
        expected.MergeFrom(self._user(number, answer.email))
        if answer != expected or not (answer.id and answer.email and answer.HasField("create_time")):
            raise WrongAnswerError(str(answer))

    def _user(self, number: int, email: str = "") -> pb.User:
        email = email or f"{uuid_utils.uuid4()}@example.com"
        return pb.User(display_name=f"New {number}", email=email, labels={"team": "new"}, roles=["viewer", "editor"])


@dataclass(frozen=True)
class Update(Write):
    """Renames a user by the etag of the previous answer, whichever contender gave it."""

    users: Sequence[pb.User]
    etags: dict[int, str] = field(default_factory=dict)

    def request(self, number: int) -> Message:
        user, etag = self._known(number)
        changed = pb.User(id=user.id, display_name=f"Changed {number}", etag=etag)
        return pb.UpdateUserRequest(user=changed, update_mask=FieldMask(paths=["display_name"]))

    def rest(self, number: int) -> Rest:
        user, etag = self._known(number)
        body = {"displayName": f"Changed {number}", "etag": etag}
        return Rest("PATCH", f"/v1/users/{user.id}?updateMask=displayName", body)

    def check(self, number: int, answer: Message) -> None:
        assert isinstance(answer, pb.User)
        user, etag = self._known(number)
        expected = pb.User()
        expected.CopyFrom(user)
        following = f'"{int(etag.strip(chr(34))) + 1}"'
        expected.MergeFrom(pb.User(display_name=f"Changed {number}", etag=following))
        expected.update_time.CopyFrom(answer.update_time)
        if answer != expected or answer.update_time == user.update_time:
            raise WrongAnswerError(str(answer))
        self.etags[number % len(self.users)] = following

    def _known(self, number: int) -> tuple[pb.User, str]:
        index = number % len(self.users)
        return self.users[index], self.etags.get(index, self.users[index].etag)


def _gets(users: Sequence[pb.User]) -> Read:
    return Read([pb.GetUserRequest(id=one.id) for one in users], [f"/v1/users/{one.id}" for one in users], users)


def make_works(folder: Path) -> dict[str, Work]:
    """Returns the works that `PLANS` names, for the stage in ``folder``."""
    users, agent = users_of(folder), agent_of(folder)
    newest = sorted(users, key=lambda user: (user.create_time.ToNanoseconds(), user.id), reverse=True)[:PAGE]
    batches = [users[start : start + BATCH] for start in range(0, len(users), BATCH)]
    ids = [[user.id for user in batch] for batch in batches]
    create = Create()
    return {
        "GetUser": _gets(users),
        "GetUser max-age": _gets(users[:10]),
        "ListUsers 50": Read(
            [pb.ListUsersRequest(page_size=PAGE)], [f"/v1/users?pageSize={PAGE}"], [pb.ListUsersResponse(users=newest)]
        ),
        "CreateUser": create,
        "CreateUser key": create,
        "UpdateUser etag": Update(users_of(folder, WRITTEN)),
        "BatchGet 100": Read(
            [pb.BatchGetUsersRequest(ids=one) for one in ids],
            [f"/v1/users:batchGet?{urlencode({'ids': one}, doseq=True)}" for one in ids],
            [pb.BatchGetUsersResponse(users=one) for one in batches],
        ),
        "1 MB agent": Read([agent_pb2.GetAgentRequest(id=agent.id)], [f"/v1/agents/{agent.id}"], [agent]),
    }
