"""Package authz holds the directory of stored users, whose roles override those of tokens."""

from api_common.authz.directory import (
    LOOK_UP_SECONDS,
    MAX_AGE_SECONDS,
    MAX_STALE_SECONDS,
    Directory,
    StoredUser,
    UserSource,
    UsersService,
    is_user_id,
)

__all__ = [
    "LOOK_UP_SECONDS",
    "MAX_AGE_SECONDS",
    "MAX_STALE_SECONDS",
    "Directory",
    "StoredUser",
    "UserSource",
    "UsersService",
    "is_user_id",
]
