"""Package authz holds the directory of stored users, whose roles override those of tokens."""

from api_common.authz.directory import LOOK_UP_SECONDS as LOOK_UP_SECONDS
from api_common.authz.directory import MAX_AGE_SECONDS as MAX_AGE_SECONDS
from api_common.authz.directory import MAX_STALE_SECONDS as MAX_STALE_SECONDS
from api_common.authz.directory import Directory as Directory
from api_common.authz.directory import StoredUser as StoredUser
from api_common.authz.directory import UserSource as UserSource
from api_common.authz.directory import UsersService as UsersService
from api_common.authz.directory import is_user_id as is_user_id
