"""Package testing holds real parts for tests; imported by tests only."""

from api_common.testing.database import Statements as Statements
from api_common.testing.database import TestDatabase as TestDatabase
from api_common.testing.database import create_database as create_database
from api_common.testing.database import postgres_server as postgres_server
from api_common.testing.database import provisioned as provisioned
from api_common.testing.error_assertions import NEVER as NEVER
from api_common.testing.error_assertions import refused as refused
from api_common.testing.identity import AUDIENCE as AUDIENCE
from api_common.testing.identity import ISSUER as ISSUER
from api_common.testing.identity import KEY_ID as KEY_ID
from api_common.testing.identity import PEPPER as PEPPER
from api_common.testing.identity import Caller as Caller
from api_common.testing.identity import Identity as Identity
from api_common.testing.service import NoStoredUsers as NoStoredUsers
from api_common.testing.service import TestService as TestService
from api_common.testing.service import guarded_service as guarded_service
from api_common.testing.service import running_service as running_service
from api_common.testing.service import settings_for as settings_for
from api_common.testing.service import tls_of as tls_of
