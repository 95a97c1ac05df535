"""Package contract holds the rules that the proto declares for methods and messages, read once at start."""

from api_common.contract.field_behavior import FieldBehavior as FieldBehavior
from api_common.contract.field_behavior import has_behavior as has_behavior
from api_common.contract.field_mask import paths_to_write as paths_to_write
from api_common.contract.json_size import MAX_STRUCT_BYTES as MAX_STRUCT_BYTES
from api_common.contract.json_size import MAX_STRUCT_DEPTH as MAX_STRUCT_DEPTH
from api_common.contract.json_size import check_size as check_size
from api_common.contract.json_size import size_violations as size_violations
from api_common.contract.methods import ROLE_PERMISSIONS as ROLE_PERMISSIONS
from api_common.contract.methods import MethodPolicy as MethodPolicy
from api_common.contract.methods import PolicyError as PolicyError
from api_common.contract.methods import is_granted as is_granted
from api_common.contract.methods import read_policies as read_policies
from api_common.contract.preconditions import IF_MATCH as IF_MATCH
from api_common.contract.preconditions import IF_NONE_MATCH as IF_NONE_MATCH
from api_common.contract.preconditions import Precondition as Precondition
from api_common.contract.preconditions import entity_tag as entity_tag
from api_common.contract.preconditions import is_known as is_known
from api_common.contract.resource_types import UUID_PATTERN as UUID_PATTERN
from api_common.contract.resource_types import resource_of as resource_of
from api_common.contract.resource_types import resources_in as resources_in
from api_common.contract.resource_types import type_of as type_of
from api_common.contract.struct_json import struct_from_json as struct_from_json
from api_common.contract.struct_json import struct_to_json as struct_to_json
from api_common.contract.wire_scan import MAX_FIELDS as MAX_FIELDS
from api_common.contract.wire_scan import WireScan as WireScan
