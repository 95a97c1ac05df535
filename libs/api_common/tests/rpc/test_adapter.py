"""A servicer that does not fit its contract stops the server."""

import pytest
from ameide.user.v1 import user_pb2 as pb
from api_common.call import RequestContext
from api_common.contract import MethodPolicy, PolicyError
from api_common.rpc.adapter import Handler, service_handler
from api_common.rpc.call import Layer
from google.protobuf.descriptor import ServiceDescriptor

USERS: ServiceDescriptor = pb.DESCRIPTOR.services_by_name["UserService"]


def no_layers(_: MethodPolicy, __: Handler) -> Layer:
    raise AssertionError("no method is complete")


class TestServicers:
    def test_must_have_every_method(self) -> None:
        with pytest.raises(PolicyError, match="object lacks CreateUser"):
            service_handler(USERS, object(), layers=no_layers)

    def test_must_be_annotated_as_the_contract_says(self) -> None:
        class Servicer:
            async def CreateUser(self, request: pb.GetUserRequest, ctx: RequestContext) -> pb.User:
                raise AssertionError("never called")

        with pytest.raises(PolicyError, match="`request` must be annotated as"):
            service_handler(USERS, Servicer(), layers=no_layers)
