"""The contract as clients see it: their names of services, methods and errors."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ameide.common.v1 import policy_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions
from jinja2 import Environment, StrictUndefined

from tools.contract.descriptors import ending_of, farewell, methods_of, public_services, reasons, snake, text_of


@dataclass(frozen=True, slots=True)
class Method:
    """An RPC with one request."""

    rpc: MethodDescriptor

    @property
    def path(self) -> str:
        return f"/{self.rpc.containing_service.full_name}/{self.rpc.name}"

    @property
    def name(self) -> str:
        """The name without that of the service: `create`, `batch_get`, `list_revisions`, but `create_api_key`."""
        resource = snake(self.rpc.containing_service.name.removesuffix("Service"))
        return re.sub(f"_{resource}s?(?=_|$)", "", snake(self.rpc.name), count=1)

    @property
    def comment(self) -> str:
        ending = ending_of(self.rpc)
        return text_of(self.rpc.full_name) + (f"\n\n{farewell(ending)}" if ending else "")

    @property
    def writes(self) -> bool:
        return self.rpc.GetOptions().idempotency_level != MethodOptions.NO_SIDE_EFFECTS

    @property
    def cacheable(self) -> bool:
        """Whether callers may accept an age."""
        return cast(Any, self.rpc.GetOptions()).Extensions[policy_pb2.policy].cacheable is True

    @property
    def fields(self) -> Iterable[FieldDescriptor]:
        return cast(Iterable[FieldDescriptor], self.rpc.input_type.fields)

    @property
    def items(self) -> FieldDescriptor | None:
        """The repeated field of the response, if this is a list."""
        response = self.rpc.output_type
        if "next_page_token" not in response.fields_by_name:
            return None
        (found,) = (one for one in response.fields if one.is_repeated)
        return found

    @property
    def change(self) -> FieldDescriptor | None:
        """A field of the response that contains the watched resource, if this is a watch."""
        return self.rpc.output_type.fields_by_name["created"] if self.rpc.server_streaming else None


@dataclass(frozen=True, slots=True)
class Service:
    """A service and its name in the clients."""

    descriptor: ServiceDescriptor

    @property
    def noun(self) -> str:
        """`ServiceAccounts`."""
        return f"{self.descriptor.name.removesuffix('Service')}s"

    @property
    def comment(self) -> str:
        return text_of(self.descriptor.full_name)

    @property
    def methods(self) -> list[Method]:
        return [Method(rpc) for rpc in methods_of(self.descriptor)]


def services() -> list[Service]:
    return [Service(one) for one in public_services()]


def error_name(reason: str) -> str:
    """Returns the name of a reason's error class; it ends with an underscore if a builtin has the same name."""
    name = "".join(word.capitalize() for word in reason.split("_")) + "Error"
    return f"{name}_" if name == "NotImplementedError" else name


def messages() -> list[Descriptor]:
    """Returns the messages of requests and responses by name; nested messages are inside their parents.

    Raises:
        ValueError: two have the same name.
    """
    found: dict[str, Descriptor] = {}
    rpcs = [method.rpc for one in services() for method in one.methods]
    waiting = [kind for rpc in rpcs for kind in (rpc.input_type, rpc.output_type)]
    while waiting:
        message = waiting.pop()
        name = message.full_name.removeprefix(f"{message.file.package}.")
        if not message.full_name.startswith("ameide.") or found.get(name) is message:
            continue
        if name in found:
            raise ValueError(f"two messages are called {name}: clients could not tell them apart")
        found[name] = message
        held = [message.containing_type, *(field.message_type for field in message.fields)]
        waiting += [kind for kind in held if kind is not None]
    return [message for _, message in sorted(found.items()) if message.containing_type is None]


def render(suffix: str, **names: object) -> Iterator[tuple[str, str]]:
    """Yields name and text of each generated file of a client, `py` or `ts`; ``names`` are for its templates."""
    # No HTML, so nothing is escaped.
    environment = Environment(trim_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined)  # noqa: S701
    known = {"services": services(), "messages": messages(), "reasons": reasons(), "error_name": error_name}
    for path in Path(__file__).parent.glob(f"*.{suffix}.jinja"):
        yield path.stem, environment.from_string(path.read_text()).render(known, **names)
