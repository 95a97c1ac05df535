"""A server that does nothing: what grpc.aio costs by itself, and so the unit of the table."""

from typing import Any, Final

from ameide.user.v1 import user_pb2 as pb
from api_common.settings import Settings

from tests.load.bare import FOLDER, GetUser, serve
from tests.load.contender import Contender
from tests.load.stage import users_of

ECHO: Final = Contender(name="echo", module="tests.load.contenders.echo", is_constant=True)


async def _make(_: Settings) -> GetUser:
    user = users_of(FOLDER)[0]

    async def get_user(request: pb.GetUserRequest, context: Any) -> pb.User:
        return user

    return get_user


if __name__ == "__main__":
    serve(_make)
