"""Renders a DomainError as `google.rpc.Status` with details, the shape of every error (AIP-193)."""

import math
import re
from collections.abc import Iterator
from typing import Final

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from api_common.errors.domain import DomainError
from api_common.errors.registry import ERROR_DOMAIN, spec_of

MAX_DETAILS_BYTES: Final = 6 * 1024
"""The size of all details of one error. They travel in a header, and proxies drop headers beyond 8 KiB.

Message, metadata, resource and violations have their own limits, so that together they always fit.
"""

MAX_VIOLATIONS: Final = 32
"""The most field violations of one error."""
TRUNCATED: Final = "truncated"
"""Metadata key of an error whose details were cut; its value is `true`."""

# A key of a map or an index, which may hold anything; or the beginning of the next word of a name.
_KEY_OR_WORD: Final = re.compile(r"(\[.*?(?:\](?=[.\[]|$)|$))|_(.)", re.DOTALL)
_MAX_TEXT_BYTES: Final = 512
_MAX_NAME_BYTES: Final = 64
_MAX_METADATA_BYTES: Final = 1024
_MAX_VIOLATIONS_BYTES: Final = 1792

Trailers = tuple[tuple[str, str | bytes], ...]
"""Trailing metadata: pairs of key and value, bytes for keys in `-bin`."""


def render(error: DomainError, *, request_id: str, json_names: bool = False) -> tuple[grpc.StatusCode, str, Trailers]:
    """Returns the gRPC status, the message and the trailing metadata for ``error``.

    Args:
        json_names: whether violations name fields as JSON does, `user.displayName`; keys of maps stay as they are.
    """
    spec = spec_of(error)
    message = _cut(error.told(json_path if json_names else str))
    status = status_pb2.Status(code=spec.code.value[0], message=message)
    for detail in _details(error, request_id, json_names=json_names):
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)
    trailers: Trailers = (
        ("grpc-status-details-bin", status.SerializeToString()),
        ("error-type", error.reason),
        ("error-id", request_id),
    )
    if error.retry_after_seconds is not None:
        trailers += (("retry-after", str(math.ceil(error.retry_after_seconds))),)
    return spec.code, message, trailers


def json_path(path: str) -> str:
    """Returns a path of proto names in the names of JSON."""
    return _KEY_OR_WORD.sub(lambda found: found[1] or found[2].upper(), path)


def _details(error: DomainError, request_id: str, *, json_names: bool) -> Iterator[Message]:
    """Yields the details, most useful first."""
    metadata, bad_request, resource = _metadata(error), _bad_request(error), _resource(error)
    if metadata != error.metadata or _is_cut(error, bad_request, resource):
        metadata[TRUNCATED] = "true"
    yield error_details_pb2.ErrorInfo(reason=error.reason, domain=ERROR_DOMAIN, metadata=metadata)
    yield error_details_pb2.RequestInfo(request_id=request_id)
    if error.retry_after_seconds is not None:
        delay = Duration()
        delay.FromMilliseconds(int(error.retry_after_seconds * 1000))
        yield error_details_pb2.RetryInfo(retry_delay=delay)
    if error.resource is not None:
        yield resource
    if error.violations:
        for violation in bad_request.field_violations if json_names else ():
            violation.field = json_path(violation.field)
        yield bad_request


def _resource(error: DomainError) -> error_details_pb2.ResourceInfo:
    about = error.resource
    if about is None:
        return error_details_pb2.ResourceInfo()
    return error_details_pb2.ResourceInfo(
        resource_type=_cut(about.type, _MAX_NAME_BYTES), resource_name=_cut(about.id), description=_cut(error.message)
    )


def _is_cut(
    error: DomainError, bad_request: error_details_pb2.BadRequest, resource: error_details_pb2.ResourceInfo
) -> bool:
    """Tells whether message, violations or resource were cut."""
    said = [(one.field, one.description) for one in bad_request.field_violations]
    meant = [(one.field, one.description) for one in error.violations]
    about = error.resource
    named = about is None or (resource.resource_type, resource.resource_name) == (about.type, about.id)
    return said != meant or not named or _cut(error.message) != error.message


def _metadata(error: DomainError) -> dict[str, str]:
    """Returns as much of the metadata as fits."""
    result: dict[str, str] = {}
    room = _MAX_METADATA_BYTES
    for name, text in error.metadata.items():
        key, value = _cut(name, _MAX_NAME_BYTES), _cut(text)
        room -= len(key.encode()) + len(value.encode()) + 8
        if room < 0:
            break
        result[key] = value
    return result


def _bad_request(error: DomainError) -> error_details_pb2.BadRequest:
    """Lists as many violations as fit; the last one then says how many are missing."""
    result = error_details_pb2.BadRequest()
    room = _MAX_VIOLATIONS_BYTES
    for index, violation in enumerate(error.violations):
        entry = error_details_pb2.BadRequest.FieldViolation(
            field=_cut(violation.field), description=_cut(violation.description), reason=violation.reason
        )
        room -= entry.ByteSize() + 4
        if index == MAX_VIOLATIONS or room < 0:
            left = len(error.violations) - index
            result.field_violations.add(field="*", description=f"and {left} more", reason="MORE")
            break
        result.field_violations.append(entry)
    return result


def _cut(text: str, limit: int = _MAX_TEXT_BYTES) -> str:
    """Returns ``text``, or as much of its start as ``limit`` bytes hold."""
    raw = text.encode()
    return text if len(raw) <= limit else f"{raw[: limit - 3].decode(errors='ignore')}…"
