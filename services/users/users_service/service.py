"""The declaration of this service for the server."""

from functools import partial
from pathlib import Path

from ameide.user.v1 import directory_pb2, service_account_pb2, user_pb2
from api_common.authn import InternalTokenSigner
from api_common.errors import FailedPreconditionError
from api_common.resources import Quotas
from api_common.server import Service, ServiceDependencies
from api_common.settings import ApiKeySettings

from users_service.api_keys import ApiKeys
from users_service.directory_servicer import DirectoryServicer
from users_service.errors import EmailTakenError
from users_service.failed_attempts import FailedAttempts
from users_service.key_exchange import KeyExchange
from users_service.mapping import user_to_proto
from users_service.operations import KeyIssuer
from users_service.repository import FIELDS, ApiKeyRepository, ServiceAccountRepository, UserRepository
from users_service.service_account_servicer import ServiceAccountServicer
from users_service.servicer import UserServicer
from users_service.stored_users import StoredUsers
from users_service.tables import users


def _user_servicer(dependencies: ServiceDependencies) -> UserServicer:
    watch = dependencies.watch_factory.of(
        users, fields=FIELDS, to_proto=user_to_proto, response=user_pb2.WatchUsersResponse
    )
    quotas = Quotas(("users", "service_accounts", "api_keys"), dependencies.settings.quota)
    return UserServicer(UserRepository(dependencies.page_tokens), watch, quotas)


def _service_account_servicer(dependencies: ServiceDependencies) -> ServiceAccountServicer:
    keys = ApiKeyRepository(dependencies.page_tokens)
    issuer = KeyIssuer(_api_keys(_settings(dependencies)), keys)
    return ServiceAccountServicer(ServiceAccountRepository(dependencies.page_tokens), keys, issuer)


def _directory_servicer(dependencies: ServiceDependencies) -> DirectoryServicer:
    return DirectoryServicer(UserRepository(dependencies.page_tokens))


def _key_exchange(dependencies: ServiceDependencies) -> KeyExchange:
    settings = _settings(dependencies)
    signer = InternalTokenSigner(settings.signing_key_path.read_bytes(), audience=dependencies.settings.auth.audience)
    keys = ApiKeyRepository(dependencies.page_tokens)
    return KeyExchange(_api_keys(settings), keys, dependencies.database, signer, attempts=FailedAttempts())


def _settings(dependencies: ServiceDependencies) -> ApiKeySettings:
    assert dependencies.settings.api_keys is not None  # SERVICE has `api_keys`
    return dependencies.settings.api_keys


def _api_keys(settings: ApiKeySettings) -> ApiKeys:
    return ApiKeys([pepper.get_secret_value().encode() for pepper in settings.pepper])


SERVICE = Service(
    name="users",
    servicers={
        user_pb2.DESCRIPTOR.services_by_name["UserService"]: _user_servicer,
        service_account_pb2.DESCRIPTOR.services_by_name["ServiceAccountService"]: _service_account_servicer,
        directory_pb2.DESCRIPTOR.services_by_name["DirectoryService"]: _directory_servicer,
    },
    stored_users=lambda dependencies: StoredUsers(UserRepository(dependencies.page_tokens), dependencies.database),
    api_keys=_key_exchange,
    constraints={
        "uq_users_tenant_id_email_folded": partial(
            EmailTakenError, "A live user of the tenant has this e-mail address."
        ),
        "last_admin": partial(
            FailedPreconditionError, "This is the tenant's last admin; make another user an admin first."
        ),
    },
    migrations=Path(__file__).parent.parent / "migrations",
)
