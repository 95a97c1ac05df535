"""Update masks: what they write, leave alone and refuse."""

import pytest
from ameide.user.v1 import user_pb2 as pb
from ameide.workflow.v1 import workflow_pb2
from api_common.contract.field_mask import InvalidUpdateMaskError, paths_to_write
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

MUTABLE = frozenset({"display_name", "labels", "email", "roles"})


def written(user: pb.User, *paths: str, mutable: frozenset[str] = MUTABLE) -> tuple[str, ...]:
    return paths_to_write(user, FieldMask(paths=paths), mutable=mutable)


def complaint(*paths: str, mutable: frozenset[str] = MUTABLE) -> str:
    with pytest.raises(InvalidUpdateMaskError) as caught:
        written(pb.User(), *paths, mutable=mutable)
    (violation,) = caught.value.violations
    assert violation.field == "update_mask"
    return violation.description


class TestPathsToWrite:
    def test_no_mask_means_what_is_populated(self) -> None:
        user = pb.User(
            id="x", state=pb.User.ACTIVE, etag='"1"', email="ada@example.org", create_time=Timestamp(seconds=1)
        )
        user.labels["team"] = "a"
        assert written(user) == ("email", "labels")
        assert written(pb.User(id="x")) == ()

    def test_a_star_means_everything_that_can_change(self) -> None:
        assert written(pb.User(), "*") == ("display_name", "email", "labels", "roles")

    def test_a_named_field_is_written_though_absent(self) -> None:
        assert written(pb.User(), "labels", "email") == ("email", "labels")

    def test_the_order_and_number_of_names_do_not_matter(self) -> None:
        assert written(pb.User(), "roles", "email", "roles") == written(pb.User(), "email", "roles")

    @pytest.mark.parametrize("path", ["id", "tenant_id", "state", "create_time", "delete_time", "created_by", "etag"])
    def test_what_the_server_sets_is_left_alone(self, path: str) -> None:
        assert written(pb.User(), path) == ()
        assert written(pb.User(), path, "email") == ("email",)

    @pytest.mark.parametrize("path", ["password", "", "displayName", "user.email", "0", "email ", "State", "*.email"])
    def test_an_unknown_field_is_named(self, path: str) -> None:
        assert complaint("email", path) == f"names no field: `{path}`"

    def test_an_unknown_field_is_named_beside_a_star_too(self) -> None:
        assert complaint("*", "password") == "names no field: `password`"
        assert complaint("password", "*") == "names no field: `password`"
        assert written(pb.User(), "*", "email") == written(pb.User(), "*")

    @pytest.mark.parametrize("path", ["labels.team", "create_time.seconds", "roles.0"])
    def test_only_whole_fields_can_be_named(self, path: str) -> None:
        assert complaint(path) == f"names a part of the field `{path.partition('.')[0]}`: `{path}`"

    def test_a_part_of_a_message_cannot_be_named(self) -> None:
        with pytest.raises(InvalidUpdateMaskError):
            paths_to_write(
                workflow_pb2.Workflow(), FieldMask(paths=["definition.nodes"]), mutable=frozenset({"definition"})
            )

    def test_a_field_that_never_changes_cannot_be_named(self) -> None:
        assert complaint("email", mutable=MUTABLE - {"email"}) == "names a field that cannot be changed: `email`"

    def test_a_long_path_is_not_echoed_in_full(self) -> None:
        assert len(complaint("x" * 100_000)) < 100
