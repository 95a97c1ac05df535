"""A server that does nothing: what grpc.aio costs by itself, and so the unit of the table."""

from typing import Any, Final

from ameide.user.v1 import user_pb2 as pb
from ameide.user.v1.user_pb2_grpc import UserServiceServicer
from api_common.settings import Settings

from tests.load.bare import FOLDER, serve
from tests.load.contender import Contender
from tests.load.stage import users_of

ECHO: Final = Contender(name="echo", module="tests.load.contenders.echo", is_constant=True)


class Echo(UserServiceServicer):
    def __init__(self, user: pb.User) -> None:
        self._user = user

    async def GetUser(self, request: pb.GetUserRequest, context: Any) -> pb.User:
        return self._user


async def _make(_: Settings) -> Echo:
    return Echo(users_of(FOLDER)[0])


if __name__ == "__main__":
    serve(_make)
