"""Orders: what they mean and what they refuse."""

import pytest
from api_common.listing.filtering import InvalidOrderByError, parse_order_by
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.api_common.tests.things import FIELDS


class TestOrder:
    @pytest.mark.parametrize(
        ("text", "shape"),
        [
            ("", "create_time desc, id desc"),
            ("  ", "create_time desc, id desc"),
            ("display_name", "display_name, id"),
            ("display_name asc", "display_name, id"),
            ("  display_name   desc ,create_time", "display_name desc, create_time, id"),
            ("email, create_time desc", "email, create_time desc, id desc"),
            ("id desc", "id desc"),
            ("id, email desc", "id, email desc"),
        ],
    )
    def test_ends_with_the_id(self, text: str, shape: str) -> None:
        assert parse_order_by(text, FIELDS).shape == shape

    def test_compares_without_case_what_filters_compare_so(self) -> None:
        columns = [term.column.name for term in parse_order_by("email, display_name", FIELDS).terms]
        assert columns == ["email_folded", "display_name", "id"]

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("nickname", "cannot name `nickname`; sortable are id, email, display_name, create_time"),
            ("revision", "cannot name `revision`"),
            ("email, email desc", "must not name `email` twice"),
            ("email,", "must look like"),
            (",", "must look like"),
            ("email DESC", "must look like"),
            ("email desc desc", "must look like"),
            ("email; DROP TABLE things", "must look like"),
            ("email\x00", "must look like"),
            ("x" * 10_000, "cannot name `" + "x" * 64 + "`"),
        ],
    )
    def test_says_what_is_wrong(self, text: str, says: str) -> None:
        with pytest.raises(InvalidOrderByError) as caught:
            parse_order_by(text, FIELDS)
        (violation,) = caught.value.violations
        assert violation.field == "order_by"
        assert says in violation.description

    @settings(deadline=None)
    @given(st.text(max_size=100) | st.text(alphabet="emaildsc, .", max_size=60))
    def test_no_text_raises_anything_else(self, text: str) -> None:
        try:
            order = parse_order_by(text, FIELDS)
        except InvalidOrderByError:
            return
        assert "id" in [term.name for term in order.terms]
