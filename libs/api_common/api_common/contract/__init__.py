"""Package contract holds the rules that the proto declares for methods and messages, read once at start."""

from api_common.contract.field_behavior import FieldBehavior, has_behavior
from api_common.contract.field_mask import paths_to_write
from api_common.contract.json_size import MAX_STRUCT_BYTES, MAX_STRUCT_DEPTH, compact_size, size_violations
from api_common.contract.methods import ROLE_PERMISSIONS, MethodPolicy, PolicyError, is_granted, read_policies
from api_common.contract.preconditions import IF_MATCH, IF_NONE_MATCH, Precondition, entity_tag, is_known
from api_common.contract.resource_types import UUID_PATTERN, resource_of, resources_in, type_of
from api_common.contract.struct_json import struct_from_json, struct_to_json
from api_common.contract.wire_scan import MAX_FIELDS, WireScan

__all__ = [
    "IF_MATCH",
    "IF_NONE_MATCH",
    "MAX_FIELDS",
    "MAX_STRUCT_BYTES",
    "MAX_STRUCT_DEPTH",
    "ROLE_PERMISSIONS",
    "UUID_PATTERN",
    "FieldBehavior",
    "MethodPolicy",
    "PolicyError",
    "Precondition",
    "WireScan",
    "compact_size",
    "entity_tag",
    "has_behavior",
    "is_granted",
    "is_known",
    "paths_to_write",
    "read_policies",
    "resource_of",
    "resources_in",
    "size_violations",
    "struct_from_json",
    "struct_to_json",
    "type_of",
]
