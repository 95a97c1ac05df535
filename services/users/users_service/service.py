"""What the server needs to know of this service."""

from functools import partial
from pathlib import Path

from ameide.user.v1 import user_pb2
from api_common.server import Parts, Service

from users_service.errors import EmailTakenError
from users_service.repository import UserRepository
from users_service.servicer import UserServicer


def _servicer(parts: Parts) -> UserServicer:
    return UserServicer(UserRepository(parts.page_tokens))


SERVICE = Service(
    name="users",
    descriptors=(user_pb2.DESCRIPTOR.services_by_name["UserService"],),
    servicer=_servicer,
    constraints={
        "uq_users_tenant_id_email_folded": partial(
            EmailTakenError, "A live user of the tenant has this e-mail address."
        ),
    },
    migrations=Path(__file__).parent.parent / "migrations",
)
