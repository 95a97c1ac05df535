"""A server that does nothing. Its cost is that of grpc.aio itself, the unit of the table."""

from typing import Any

from ameide.user.v1 import user_pb2 as pb
from api_common.settings import Settings

from bench.peers.bare import FOLDER, Methods, serve
from bench.stage import users_of


async def _make(_: Settings) -> Methods:
    user = users_of(FOLDER)[0]

    async def get_user(request: pb.GetUserRequest, context: Any) -> pb.User:
        return user

    return {"GetUser": get_user}


if __name__ == "__main__":
    serve(_make)
