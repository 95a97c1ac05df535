"""Lists the files that a call passes, in the order of the first visit; writes two of the lists into the docs.

Only files of api_common and of the service itself count, and only what the call's own task runs. Caches are filled.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager, redirect_stdout
from itertools import count
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from agents_service.service import SERVICE as AGENTS
from ameide.ipa.v1 import ipa_pb2
from ameide.ipa.v1.ipa_pb2_grpc import IpaServiceStub
from ameide.user.v1 import user_pb2
from ameide.user.v1.user_pb2_grpc import UserServiceStub
from ameide.workflow.v1 import workflow_pb2
from ameide.workflow.v1.workflow_pb2_grpc import WorkflowServiceStub
from api_common.authz import Directory
from api_common.testing import (
    Identity,
    NoStoredUsers,
    create_database,
    guarded_service,
    postgres_server,
    running_service,
    settings_for,
    tls_of,
)
from ipas_service.service import SERVICE as IPAS
from users_service.service import SERVICE as USERS
from workflows_service.service import SERVICE as WORKFLOWS

from tools.secrets.certificates import ensure

if TYPE_CHECKING:
    from ameide.ipa.v1.ipa_pb2_grpc import IpaServiceAsyncStub
    from ameide.user.v1.user_pb2_grpc import UserServiceAsyncStub
    from ameide.workflow.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub
    from api_common.server import Service

    Metadata = tuple[tuple[str, str], ...]

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "docs" / "how-a-request-flows.md"
GET_USER: Final = "`GetUser`"
CREATE_USER: Final = "`CreateUser` with an idempotency key"
DOCUMENTED: Final = (GET_USER, CREATE_USER)

_OURS: Final = re.compile(r"/(?:libs/api_common/(api_common)|services/\w+/(\w+_service))/(.+\.py)$")
_BLOCK: Final = re.compile(r"(?<=<!-- flow: `make flow` writes this -->\n).*?(?=<!-- end of flow -->)", re.DOTALL)
_numbers: Final = count(1)


@contextmanager
def passed_files(service: str) -> Iterator[list[str]]:
    """Lists the files that the one call of ``service`` passes while the block runs."""
    names: dict[str, str] = {}
    visits: dict[asyncio.Task[Any], dict[str, None]] = {}
    result: list[str] = []

    def note(frame: FrameType, event: str, _: Any) -> None:
        path = frame.f_code.co_filename
        if event != "call" or not (name := names.setdefault(path, _name(path))):
            return
        try:
            task = asyncio.current_task()
        except RuntimeError:
            return
        if task is not None:
            visits.setdefault(task, {})[name] = None

    sys.setprofile(note)
    try:
        yield result
    finally:
        sys.setprofile(None)
        (files,) = (files for files in visits.values() if f"{service}_service/servicer.py" in files)
        result.extend(files)


def _name(path: str) -> str:
    """Returns the short name of one of our files, else nothing."""
    found = _OURS.search(path)
    return f"{found[2]}/{found[3]}" if found and found[2] else found[3] if found else ""


async def user_flows(users: UserServiceAsyncStub, metadata: Metadata) -> dict[str, list[str]]:
    """Returns the files that three calls of the users service pass."""
    user = await users.CreateUser(user_pb2.CreateUserRequest(user=_user()), metadata=metadata)

    async def get() -> None:
        await users.GetUser(user_pb2.GetUserRequest(id=user.id), metadata=metadata)

    async def create() -> None:
        key = ("idempotency-key", f"flow-{next(_numbers)}")
        await users.CreateUser(user_pb2.CreateUserRequest(user=_user()), metadata=(*metadata, key))

    async def watch() -> None:
        stream = users.WatchUsers(user_pb2.WatchUsersRequest(), metadata=metadata)
        async for message in stream:
            if message.HasField("bookmark"):
                break
        stream.cancel()

    calls = {GET_USER: get, CREATE_USER: create, "`WatchUsers` until it is current": watch}
    return {name: await _second(call, "users") for name, call in calls.items()}


async def ipa_flows(
    ipas: IpaServiceAsyncStub, workflows: WorkflowServiceAsyncStub, metadata: Metadata
) -> dict[str, list[str]]:
    """Returns the files that DeployIpa passes; the task that carries it out and the siblings are not counted."""
    node = workflow_pb2.Node
    nodes = [node(id="start", type=node.START), node(id="end", type=node.END)]
    definition = workflow_pb2.Definition(nodes=nodes, edges=[workflow_pb2.Edge(source="start", target="end")])
    drawn = workflow_pb2.Workflow(display_name="Flow", definition=definition)
    workflow = await workflows.CreateWorkflow(workflow_pb2.CreateWorkflowRequest(workflow=drawn), metadata=metadata)
    publish = workflow_pb2.PublishWorkflowRequest(id=workflow.id)
    published = await workflows.PublishWorkflow(publish, metadata=metadata)

    async def deploy() -> None:
        await ipas.DeployIpa(ipa_pb2.DeployIpaRequest(id=next(waiting)), metadata=metadata)

    made = []
    for number in range(2):
        ipa = ipa_pb2.Ipa(display_name=f"Flow {number}", workflow_id=published.id)
        created = await ipas.CreateIpa(ipa_pb2.CreateIpaRequest(ipa=ipa), metadata=metadata)
        made.append(created.id)
    waiting = iter(made)
    return {"`DeployIpa`": await _second(deploy, "ipas")}


def render(flows: Mapping[str, Sequence[str]]) -> str:
    """Returns the lists as Markdown."""
    parts = []
    for name, files in flows.items():
        lines = "".join(f"{number}. `{file}`\n" for number, file in enumerate(files, 1))
        parts.append(f"{name} passes {len(files)} files:\n\n{lines}")
    return "\n".join(parts)


def documented() -> str:
    """Returns the lists that the page shows."""
    found = _BLOCK.search(PAGE.read_text())
    assert found, f"{PAGE.name} has no block for `make flow`"
    return found[0]


async def _second(call: Callable[[], Awaitable[None]], service: str) -> list[str]:
    await call()
    with passed_files(service) as files:
        await call()
        # The last layers may run after the client has its answer.
        await asyncio.sleep(0)
    return files


def _user() -> user_pb2.User:
    return user_pb2.User(display_name="Ada", email=f"flow{next(_numbers)}@example.com", labels={"team": "a"})


async def _all(databases: Mapping[str, Any], folder: Path) -> dict[str, list[str]]:
    identity, certificates = Identity(folder), folder / "certificates"
    certificates.mkdir()
    ensure(certificates)
    caller = identity.caller("flow", "admin")

    def guarded(service: Service) -> Any:
        settings = settings_for(databases[service.name], identity, tls=tls_of(certificates, service.name))
        return guarded_service(service, settings, directory=Directory(NoStoredUsers()))

    async with AsyncExitStack() as stack:
        users = await stack.enter_async_context(running_service(USERS, settings_for(databases["users"], identity)))
        flows = await user_flows(UserServiceStub(users.channel), caller.metadata)
        siblings = {name: await stack.enter_async_context(guarded(one)) for name, one in _SIBLINGS.items()}
        workflows = await stack.enter_async_context(
            running_service(WORKFLOWS, settings_for(databases["workflows"], identity))
        )
        settings = settings_for(databases["ipas"], identity, siblings=siblings)
        ipas = await stack.enter_async_context(running_service(IPAS, settings, caller_tls=tls_of(certificates, "ipas")))
        flows |= await ipa_flows(IpaServiceStub(ipas.channel), WorkflowServiceStub(workflows.channel), caller.metadata)
    return flows


_SIBLINGS: Final[Mapping[str, Service]] = {"workflows": WORKFLOWS, "agents": AGENTS}


def main() -> None:
    """Prints all lists, and writes those of the page."""
    with postgres_server() as url, tempfile.TemporaryDirectory() as folder:
        databases = {
            one.name: create_database(url, one.name, one.migrations) for one in (USERS, AGENTS, WORKFLOWS, IPAS)
        }
        # The services log to the terminal, and nobody wants to read that here.
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            flows = asyncio.run(_all(databases, Path(folder)))
        print(render(flows))
        shown = render({name: flows[name] for name in DOCUMENTED})
        PAGE.write_text(_BLOCK.sub(lambda _: f"\n{shown}\n", PAGE.read_text()))


if __name__ == "__main__":
    main()
