"""Rules that every RPC, message and enum of the contract follows. The descriptors are walked, so none is forgotten."""

import ast
import re
from collections.abc import Sequence
from functools import cache
from typing import Any, Final, cast

import grpc
import pytest
from ameide.common.v1 import policy_pb2
from buf.validate import validate_pb2
from google.api import annotations_pb2, field_behavior_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, MethodOptions

from tests import protos
from tests.architecture import sources
from tests.services import Built, owner_of
from tools.contract.descriptors import comments
from tools.topology import NAMED

CODES: Final = {code.name for code in grpc.StatusCode}
LIMITS: Final = ("max_len", "max_bytes", "len", "const", "uuid", "pattern", "in")
"""Rules that leave a text no room to grow; a pattern has to say how often."""
READS: Final = ("Get", "List", "BatchGet", "Watch", "Resolve")
STANDARD_FIELDS: Final = (
    *("id", "tenant_id", "display_name", "labels", "state"),
    *("create_time", "update_time", "delete_time", "created_by", "etag"),
)
"""The fields 1 to 10 of every resource, in this order."""

every_method = pytest.mark.parametrize("method", protos.methods(), ids=lambda method: method.full_name)
every_public_method = pytest.mark.parametrize("method", protos.public_methods(), ids=lambda method: method.full_name)
every_internal_method = pytest.mark.parametrize(
    "method", protos.internal_methods(), ids=lambda method: method.full_name
)
every_resource = pytest.mark.parametrize("resource", protos.resources(), ids=lambda resource: resource.full_name)
every_request = pytest.mark.parametrize("message", protos.request_messages(), ids=lambda message: message.full_name)
every_enum = pytest.mark.parametrize("enum", protos.enums(), ids=lambda enum: enum.full_name)


def policy_of(method: MethodDescriptor) -> policy_pb2.Policy:
    found: policy_pb2.Policy = protos.option(method, policy_pb2.policy)
    return found


def route_of(method: MethodDescriptor) -> tuple[str, str]:
    """Returns path and body of the method's REST form."""
    rule = protos.option(method, annotations_pb2.http)
    return getattr(rule, rule.WhichOneof("pattern")), rule.body


def behavior_of(field: FieldDescriptor) -> set[str]:
    return {
        field_behavior_pb2.FieldBehavior.Name(one) for one in protos.option(field, field_behavior_pb2.field_behavior)
    }


@every_public_method
def test_an_rpc_declares_who_may_call_it_and_how_it_is_counted(method: MethodDescriptor) -> None:
    routes = [route_of(one)[0] for one in method.containing_service.methods if one.name.startswith("List")]
    (collection,) = (path.rpartition("/")[2] for path in routes if path.count("/") == 2)
    policy = policy_of(method)
    assert re.fullmatch(rf"{collection}\.[a-z]+", policy.permission), f"the permission must be `{collection}.<action>`"
    assert policy.rate_class != policy_pb2.RATE_CLASS_UNSPECIFIED, "the policy must name a rate_class"


@every_method
def test_the_standard_reads_by_id_may_be_kept_and_nothing_else(method: MethodDescriptor) -> None:
    """What may be kept depends on the tenant and the request alone: no `GetMe`, and no list with its page tokens."""
    batches = [one.name for one in method.containing_service.methods if one.name.startswith("BatchGet")]
    singles = [name.removeprefix("Batch")[:-1] for name in batches]
    expected = method.name in {*batches, *singles, *(f"{name}Revision" for name in singles)}
    policy = policy_of(method)
    assert policy.cacheable == expected, "BatchGet, its Get and revisions say `cacheable: true`, and nothing else does"
    if expected:
        assert method.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS
        owner = owner_of(method.containing_service)
        collection = policy.permission.partition(".")[0]
        assert owner and collection in owner.metadata.tables, "the feed of changes names collections as the tables do"


@every_internal_method
def test_an_internal_rpc_is_only_for_services(method: MethodDescriptor) -> None:
    service = method.containing_service
    assert all(map(protos.is_internal, protos.methods_of(service))), f"{service.name}: give public RPCs another service"
    assert not method.GetOptions().HasExtension(cast(Any, annotations_pb2.http)), "an internal RPC has no REST form"
    name = service.name.removesuffix("Service").lower()
    assert policy_of(method).permission == f"{name}.internal"
    owner = owner_of(service)
    assert owner, f"no services/*/*_service/service.py serves {service.full_name}"
    assert NAMED[owner.service.name].callers, f"services.yaml has no service with {owner} among its `siblings`"


@every_method
def test_the_comment_of_an_rpc_names_its_errors(method: MethodDescriptor) -> None:
    does, _, fails = comments()[method.full_name].partition("\n Errors: ")
    assert len(does) > 10, "begin the comment with what the method does"
    assert CODES & set(re.findall(r"[A-Z_]+", fails)), "end the comment with its errors: `Errors: NOT_FOUND if …`"
    reasons = {value.name for enum in protos.enums() if enum.name == "Reason" for value in enum.values}
    for named in re.findall(r"\(([A-Z_, ]+)\)", fails):
        assert reasons.issuperset(named.split(", ")), f"({named}) must be values of an enum Reason"


@every_method
def test_only_reads_declare_that_they_have_no_side_effects(method: MethodDescriptor) -> None:
    declared = method.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS
    assert declared == method.name.startswith(READS), (
        f"{READS}, and nothing else, have `option idempotency_level = NO_SIDE_EFFECTS` and a read-only transaction"
    )


@every_public_method
def test_variables_in_paths_cannot_be_given_twice(method: MethodDescriptor) -> None:
    path, body = route_of(method)
    for variable in re.findall(r"{([^}]*)}", path):
        assert re.fullmatch(r"[a-z_]+(\.[a-z]+)?", variable), f"`{variable}` must be a field's name, one path segment"
        # A body that is one field of the request cannot hold another one.
        apart = body != "*" and not variable.startswith(f"{body}.")
        assert apart or "_" not in variable.rpartition(".")[2], (
            f"`{variable}` must be a single word: the edge looks for it in a body by one of its two names only"
        )


@every_method
def test_an_rpc_has_a_test_class(method: MethodDescriptor) -> None:
    owner = owner_of(method.containing_service)
    assert owner, f"no services/*/*_service/service.py serves {method.containing_service.full_name}"
    found = [name for name in classes_of_tests(owner) if name == f"Test{method.name}"]
    assert len(found) == 1, f"write `class Test{method.name}` in services/{owner}/tests/test_servicer.py"


@cache
def classes_of_tests(owner: Built) -> tuple[str, ...]:
    nodes = sources.nodes(sources.read(f"services/{owner}/tests/test_*.py"))
    return tuple(node.name for _, node in nodes if isinstance(node, ast.ClassDef))


@every_resource
def test_resources_share_their_first_ten_fields(resource: Descriptor) -> None:
    found = {field.number: field.name for field in resource.fields if field.number <= 10}
    assert found == dict(enumerate(STANDARD_FIELDS, start=1))
    model = protos.resources()[0]
    for field in resource.fields:
        if field.number <= 10 and field.name != "state":
            other = model.fields_by_number[field.number]
            assert _shape(field) == _shape(other), f"{field.full_name} must look like {other.full_name}"


@every_resource
def test_only_the_server_sets_what_clients_may_not(resource: Descriptor) -> None:
    server_only = {"id", "tenant_id", "state", "create_time", "update_time", "delete_time", "created_by"}
    open_to_clients = {name for name in server_only if "OUTPUT_ONLY" not in behavior_of(resource.fields_by_name[name])}
    assert not open_to_clients, "declare them OUTPUT_ONLY"
    assert "REQUIRED" in behavior_of(resource.fields_by_name["display_name"])


@every_request
def test_every_field_that_a_client_may_send_declares_its_behavior(message: Descriptor) -> None:
    silent = [field.name for field in message.fields if not behavior_of(field)]
    assert not silent, "declare (google.api.field_behavior): REQUIRED, OPTIONAL, OUTPUT_ONLY or IMMUTABLE"


@every_request
def test_everything_that_a_client_may_send_has_a_limit(message: Descriptor) -> None:
    boundless = [
        field.name
        for field in message.fields
        if "OUTPUT_ONLY" not in behavior_of(field)
        if not _is_bounded(field, protos.option(field, validate_pb2.field))
    ]
    assert not boundless, "declare a limit with (buf.validate.field): max_items, max_pairs, defined_only, " + ", ".join(
        LIMITS
    )


@every_enum
def test_the_zero_value_of_an_enum_means_nothing(enum: EnumDescriptor) -> None:
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", enum.name).upper()
    assert enum.values_by_number[0].name == f"{name}_UNSPECIFIED"


def _shape(field: FieldDescriptor) -> tuple[Any, ...]:
    message = field.message_type
    inner: Sequence[FieldDescriptor] = message.fields if message and protos.is_map_entry(message) else ()
    kind = "" if message is None or inner else message.full_name
    options = field.GetOptions().SerializeToString(deterministic=True)
    return field.name, field.type, field.is_repeated, kind, options, [(one.name, one.type) for one in inner]


def _is_bounded(field: FieldDescriptor, rules: validate_pb2.FieldRules) -> bool:
    if field.message_type is not None and protos.is_map_entry(field.message_type):
        key, value = field.message_type.fields
        return bool(rules.map.max_pairs) and _is_bounded(key, rules.map.keys) and _is_bounded(value, rules.map.values)
    if field.is_repeated:
        return bool(rules.repeated.max_items) and _is_bounded_once(field, rules.repeated.items)
    return _is_bounded_once(field, rules)


def _is_bounded_once(field: FieldDescriptor, rules: validate_pb2.FieldRules) -> bool:
    if field.type == FieldDescriptorProto.TYPE_ENUM:
        return rules.enum.defined_only
    if field.type == FieldDescriptorProto.TYPE_BYTES:
        return rules.bytes.HasField("max_len") or rules.bytes.HasField("len")
    if field.type != FieldDescriptorProto.TYPE_STRING:
        return True
    return any(declared.name in LIMITS for declared, _ in rules.string.ListFields())
