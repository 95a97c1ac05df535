"""Field behavior: what a request must carry, and what the server takes out of it."""

import pytest
from ameide.user.v1 import user_pb2 as pb
from ameide.workflow.v1 import workflow_pb2
from api_common.contract.field_behavior import MAX_VIOLATIONS, FieldBehavior
from google.api import field_behavior_pb2
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

CREATE = FieldBehavior(pb.CreateUserRequest.DESCRIPTOR)
UPDATE = FieldBehavior(pb.UpdateUserRequest.DESCRIPTOR)
GET = FieldBehavior(pb.GetUserRequest.DESCRIPTOR)


def missing(behavior: FieldBehavior, request: Message) -> list[str]:
    violations = behavior.check(request)
    assert {violation.description for violation in violations} <= {"is required"}
    return [violation.field for violation in violations]


def update(user: pb.User, *paths: str) -> pb.UpdateUserRequest:
    return pb.UpdateUserRequest(user=user, update_mask=FieldMask(paths=paths) if paths else None)


class TestCheck:
    def test_top_level_fields(self) -> None:
        assert missing(GET, pb.GetUserRequest()) == ["id"]
        assert missing(GET, pb.GetUserRequest(id="x")) == []

    def test_a_request_without_required_fields(self) -> None:
        assert missing(FieldBehavior(pb.ListUsersRequest.DESCRIPTOR), pb.ListUsersRequest()) == []

    def test_a_new_resource_needs_all_of_them(self) -> None:
        assert missing(CREATE, pb.CreateUserRequest()) == ["user"]
        assert missing(CREATE, pb.CreateUserRequest(user=pb.User())) == ["user.display_name", "user.email"]
        assert missing(CREATE, pb.CreateUserRequest(user=pb.User(display_name="Ada", email="a@b"))) == []

    def test_an_update_needs_the_resource_and_its_id(self) -> None:
        assert missing(UPDATE, pb.UpdateUserRequest()) == ["user"]
        assert missing(UPDATE, update(pb.User(display_name="Ada"))) == ["user.id"]
        assert missing(UPDATE, update(pb.User(), "*")) == ["user.id", "user.display_name", "user.email"]

    def test_an_update_without_a_mask_needs_nothing_else(self) -> None:
        assert missing(UPDATE, update(pb.User(id="x"))) == []

    def test_an_update_needs_what_its_mask_names(self) -> None:
        user = pb.User(id="x")
        assert missing(UPDATE, update(user, "labels")) == []
        assert missing(UPDATE, update(user, "labels", "email")) == ["user.email"]
        assert missing(UPDATE, update(user, "labels.email", "user.email")) == []
        assert missing(UPDATE, update(pb.User(id="x", email="a@b"), "email", "display_name")) == ["user.display_name"]

    def test_an_update_with_a_star_needs_all_of_them(self) -> None:
        assert missing(UPDATE, update(pb.User(id="x"), "roles", "*")) == ["user.display_name", "user.email"]

    def test_items_of_lists_are_named_by_number(self) -> None:
        definition = workflow_pb2.Definition(
            nodes=[workflow_pb2.Node(id="a", type=workflow_pb2.Node.START), workflow_pb2.Node()],
            edges=[workflow_pb2.Edge(source="a")],
        )
        nested = ["nodes[1].id", "nodes[1].type", "edges[0].target"]
        workflow = workflow_pb2.Workflow(id="x", display_name="W", definition=definition)
        create = FieldBehavior(workflow_pb2.CreateWorkflowRequest.DESCRIPTOR)
        request = workflow_pb2.CreateWorkflowRequest(workflow=workflow)
        assert missing(create, request) == [f"workflow.definition.{path}" for path in nested]

    @pytest.mark.parametrize(
        ("paths", "looks"), [((), True), (("*",), True), (("definition",), True), (("labels",), False)]
    )
    def test_an_update_looks_into_what_it_writes(self, paths: tuple[str, ...], looks: bool) -> None:
        definition = workflow_pb2.Definition(nodes=[workflow_pb2.Node(type=workflow_pb2.Node.START)])
        request = workflow_pb2.UpdateWorkflowRequest(
            workflow=workflow_pb2.Workflow(id="x", display_name="W", definition=definition),
            update_mask=FieldMask(paths=paths),
        )
        behavior = FieldBehavior(workflow_pb2.UpdateWorkflowRequest.DESCRIPTOR)
        assert missing(behavior, request) == (["workflow.definition.nodes[0].id"] if looks else [])

    def test_a_flood_of_empty_items_is_not_answered_one_by_one(self) -> None:
        definition = workflow_pb2.Definition(nodes=[workflow_pb2.Node()] * 500)
        assert len(missing(FieldBehavior(workflow_pb2.Definition.DESCRIPTOR), definition)) == MAX_VIOLATIONS


class TestStripOutputOnly:
    def test_takes_out_what_the_server_sets(self) -> None:
        user = pb.User(id="x", tenant_id="other", state=pb.User.SUSPENDED, created_by="eve", etag='"1"', email="a@b")
        user.create_time.CopyFrom(Timestamp(seconds=1))
        request = pb.UpdateUserRequest(user=user)
        UPDATE.strip_output_only(request)
        assert request == pb.UpdateUserRequest(user=pb.User(id="x", etag='"1"', email="a@b"))

    def test_does_not_make_an_absent_resource(self) -> None:
        request = pb.CreateUserRequest()
        CREATE.strip_output_only(request)
        assert not request.HasField("user")


def _field(name: str, number: int, kind: str = "", *behaviors: int, repeated: bool = False) -> FieldDescriptorProto:
    field = FieldDescriptorProto(name=name, number=number, json_name=name)
    field.label = FieldDescriptorProto.LABEL_REPEATED if repeated else FieldDescriptorProto.LABEL_OPTIONAL
    field.type = FieldDescriptorProto.TYPE_MESSAGE if kind else FieldDescriptorProto.TYPE_STRING
    if kind:
        field.type_name = f".trees.{kind}"
    field.options.Extensions[field_behavior_pb2.field_behavior].extend(behaviors)  # type: ignore[index]
    return field


@pytest.fixture(scope="module")
def tree_class() -> type[Message]:
    """A message that holds itself: once, in a list, and in a map."""
    required, output_only = field_behavior_pb2.REQUIRED, field_behavior_pb2.OUTPUT_ONLY
    tree = DescriptorProto(
        name="Tree",
        field=[
            _field("name", 1, "", required),
            _field("secret", 2, "", output_only),
            _field("left", 3, "Tree"),
            _field("children", 4, "Tree", repeated=True),
            _field("by_key", 5, "Tree.ByKeyEntry", repeated=True),
            _field("plain", 6, "Tree.PlainEntry", repeated=True),
        ],
        nested_type=[
            DescriptorProto(name="ByKeyEntry", field=[_field("key", 1), _field("value", 2, "Tree")]),
            DescriptorProto(name="PlainEntry", field=[_field("key", 1), _field("value", 2)]),
        ],
    )
    for entry in tree.nested_type:
        entry.options.map_entry = True
    pool = DescriptorPool()
    pool.Add(FileDescriptorProto(name="trees.proto", package="trees", syntax="proto3", message_type=[tree]))
    return GetMessageClass(pool.FindMessageTypeByName("trees.Tree"))


class TestNesting:
    def test_reaches_every_message(self, tree_class: type[Message]) -> None:
        tree = tree_class(name="root", left={"left": {"name": "a"}}, children=[{"name": "b"}, {}])
        tree.by_key["k"].secret = "s"  # type: ignore[attr-defined]
        tree.plain["k"] = "v"  # type: ignore[attr-defined]
        behavior = FieldBehavior(tree_class.DESCRIPTOR)
        assert missing(behavior, tree) == ["left.name", "children[1].name", "by_key['k'].name"]
        tree.left.left.secret = tree.children[0].secret = tree.secret = "s"  # type: ignore[attr-defined]
        behavior.strip_output_only(tree)
        assert b"s" not in tree.SerializeToString()

    def test_leaves_structs_alone(self) -> None:
        config = Struct()
        config.update({"id": {"nested": [1, {"deep": None}]}})
        node = workflow_pb2.Node(id="a", type=workflow_pb2.Node.TASK, config=config)
        behavior = FieldBehavior(workflow_pb2.Node.DESCRIPTOR)
        before = node.SerializeToString(deterministic=True)
        behavior.strip_output_only(node)
        assert missing(behavior, node) == []
        assert node.SerializeToString(deterministic=True) == before

    def test_leaves_alone_what_is_refused_for_its_length(self) -> None:
        """A few bytes make an item: five million took seconds."""
        behavior = FieldBehavior(pb.BatchCreateUsersRequest.DESCRIPTOR)
        items = [pb.CreateUserRequest(user=pb.User(tenant_id="other"))] * 101
        for count, looked_at in ((100, True), (101, False)):
            request = pb.BatchCreateUsersRequest(requests=items[:count])
            behavior.strip_output_only(request)
            assert bool(missing(behavior, request)) is looked_at
            assert (request.requests[0].user.tenant_id == "") is looked_at
