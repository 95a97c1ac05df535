"""A broken constraint becomes a conflict that the caller understands."""

from dataclasses import replace

import grpc
from ameide.user.v1.user_pb2_grpc import UserServiceStub
from api_common.testing import Caller, Identity, TestDatabase, refused, running_service, settings_for

from libs.api_common.tests.example.service import SERVICE, create_user


async def test_a_constraint_without_a_reason_of_its_own_has_the_common_one(
    users_database: TestDatabase, identity: Identity, admin: Caller
) -> None:
    async with running_service(replace(SERVICE, constraints={}), settings_for(users_database, identity)) as service:
        users = UserServiceStub(service.channel)
        await create_user(users, admin, email="same@example.com")
        with refused(grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS"):
            await create_user(users, admin, email="same@example.com")
