"""Package listing holds lists: filters, orders, pages and their tokens, over the fields that a service declares."""

from api_common.listing.filterable_fields import (
    EnumField,
    Field,
    Fields,
    IdField,
    IntegerField,
    LabelsField,
    TextField,
    TextListField,
    TimestampField,
)
from api_common.listing.filtering import Filter, Order, parse_filter
from api_common.listing.pages import MAX_PAGE_BYTES, Listing, ListRequest, Page, PageRequest, Query
from api_common.listing.pagination import PageTokens, binding

__all__ = [
    "MAX_PAGE_BYTES",
    "EnumField",
    "Field",
    "Fields",
    "Filter",
    "IdField",
    "IntegerField",
    "LabelsField",
    "ListRequest",
    "Listing",
    "Order",
    "Page",
    "PageRequest",
    "PageTokens",
    "Query",
    "TextField",
    "TextListField",
    "TimestampField",
    "binding",
    "parse_filter",
]
