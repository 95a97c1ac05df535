"""The way of a request is as short as its page says."""

import pytest
from ameide.user.v1.user_pb2_grpc import UserServiceStub
from api_common.testing import Caller, Identity, TestDatabase, running_service, settings_for
from users_service.service import SERVICE

from bench.flow import DOCUMENTED, PAGE, documented, render, user_flows

MOST_FILES = {"`GetUser`": 16, "`CreateUser` with an idempotency key": 22}


@pytest.fixture(scope="module")
async def flows(users_database: TestDatabase, identity: Identity) -> dict[str, list[str]]:
    caller: Caller = identity.caller("flow", "admin")
    async with running_service(SERVICE, settings_for(users_database, identity)) as service:
        return await user_flows(UserServiceStub(service.channel), caller.metadata)


def test_the_page_shows_the_files_that_a_call_passes(flows: dict[str, list[str]]) -> None:
    shown = render({name: flows[name] for name in DOCUMENTED})
    assert documented().strip() == shown.strip(), f"`make flow` rewrites {PAGE.name}"


@pytest.mark.parametrize("name", DOCUMENTED)
def test_a_call_passes_few_files(flows: dict[str, list[str]], name: str) -> None:
    assert len(flows[name]) <= MOST_FILES[name], f"{name} takes a longer way: {', '.join(flows[name])}"
