"""The declaration of a service: its contracts, migrations, siblings and callers."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jwt
from google.protobuf.descriptor import ServiceDescriptor

from api_common.authz import UserSource
from api_common.db import ConstraintErrors, Database
from api_common.listing import PageTokens
from api_common.sagas import Plan, Sagas
from api_common.server.ext_authz import ApiKeyAuthority
from api_common.settings import Settings
from api_common.siblings import Siblings
from api_common.watch import WatchFactory


class StartError(Exception):
    """The process cannot serve; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class ServiceDependencies:
    """What servicers are built from."""

    page_tokens: PageTokens
    siblings: Siblings
    database: Database
    settings: Settings
    sagas: Sagas
    watch_factory: WatchFactory


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One service of the mesh."""

    name: str
    """`users`: the prefix of its settings and the name in logs and metrics."""
    servicers: Mapping[ServiceDescriptor, Callable[[ServiceDependencies], object]]
    """Builds the servicer of each contract; called once."""
    constraints: ConstraintErrors
    """The error that a broken constraint means to the caller."""
    migrations: Path
    """The folder that holds its migrations, in `versions/`."""
    siblings: Sequence[str] = ()
    """The services that it calls."""
    callers: Sequence[str] = ("edge",)
    """The processes that may call its public methods, by the names in their certificates."""
    stored_users: Callable[[ServiceDependencies], UserSource] | None = None
    """Builds what reads the stored users, in the one service that has them; all others name `users` in `siblings`."""
    api_keys: Callable[[ServiceDependencies], ApiKeyAuthority] | None = None
    """Builds what verifies API keys, in the one service that issues them; called once."""
    plans: Callable[[ServiceDependencies], Sequence[Plan]] | None = None
    """Builds the plans of its sagas, if it has any; called once."""

    @property
    def descriptors(self) -> Sequence[ServiceDescriptor]:
        """The contracts that it implements."""
        return tuple(self.servicers)

    @contextlib.contextmanager
    def using(self, setting: str) -> Iterator[None]:
        """Names the setting, without the service's prefix, that the block cannot use.

        Raises:
            StartError: the block failed because of a file, a key or an address.
        """
        try:
            yield
        except (OSError, ValueError, jwt.PyJWTError) as error:
            raise StartError(f"{self.name.upper()}_{setting} cannot be used: {error}.") from error
