"""How an error of a batch says which item it is about."""

import pytest
from api_common.errors import EtagMismatchError, FieldViolation, ResourceInfo, ValidationError
from api_common.resources.batches import map_items, refuse_twice


class TestEach:
    def test_makes_all_in_order(self) -> None:
        assert map_items([3, 1, 2], str) == ["3", "1", "2"]
        assert map_items([], str) == []

    def test_puts_the_item_in_front_of_every_field(self) -> None:
        def make(number: int) -> None:
            if number:
                fields = [
                    FieldViolation("user.email", "is bad", "TOO_LONG"),
                    FieldViolation("user.roles[0]", "is worse", "UNKNOWN"),
                ]
                raise ValidationError("The request is malformed.", metadata={"a": "b"}, violations=fields)

        with pytest.raises(ValidationError) as caught:
            map_items([0, 0, 1, 1], make)
        assert [one.field for one in caught.value.violations] == ["requests[2].user.email", "requests[2].user.roles[0]"]
        assert list(caught.value.metadata.items()) == [("item", "requests[2]"), ("a", "b")]

    def test_names_the_item_of_an_error_without_fields(self) -> None:
        def make(_: int) -> None:
            raise EtagMismatchError("The user has changed.", resource=ResourceInfo("user", "1"))

        with pytest.raises(EtagMismatchError) as caught:
            map_items([0], make)
        assert caught.value.violations == (FieldViolation("requests[0]", "The user has changed.", "REFUSED"),)
        assert caught.value.resource == ResourceInfo("user", "1")


class TestTwice:
    def test_is_refused_whatever_the_case(self) -> None:
        refuse_twice(["a", "b"], "ids[{}]")
        with pytest.raises(ValidationError) as caught:
            refuse_twice(["a", "b", "A", "a"], "ids[{}]")
        found = [(one.field, one.description) for one in caught.value.violations]
        assert found == [("ids[2]", "names the same as ids[0]"), ("ids[3]", "names the same as ids[0]")]
