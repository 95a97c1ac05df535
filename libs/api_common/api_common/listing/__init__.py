"""Package listing holds lists: filters, orders, pages and their tokens, over the fields that a service declares."""

from api_common.listing.filterable_fields import EnumField as EnumField
from api_common.listing.filterable_fields import Field as Field
from api_common.listing.filterable_fields import Fields as Fields
from api_common.listing.filterable_fields import IdField as IdField
from api_common.listing.filterable_fields import IntegerField as IntegerField
from api_common.listing.filterable_fields import LabelsField as LabelsField
from api_common.listing.filterable_fields import TextField as TextField
from api_common.listing.filterable_fields import TextListField as TextListField
from api_common.listing.filterable_fields import TimestampField as TimestampField
from api_common.listing.filtering import Filter as Filter
from api_common.listing.filtering import Order as Order
from api_common.listing.filtering import OrderTerm as OrderTerm
from api_common.listing.filtering import parse_filter as parse_filter
from api_common.listing.pages import MAX_PAGE_BYTES as MAX_PAGE_BYTES
from api_common.listing.pages import Listing as Listing
from api_common.listing.pages import ListRequest as ListRequest
from api_common.listing.pages import Page as Page
from api_common.listing.pages import PageRequest as PageRequest
from api_common.listing.pages import Query as Query
from api_common.listing.pagination import MAX_PAGE_SIZE as MAX_PAGE_SIZE
from api_common.listing.pagination import InvalidPageTokenError as InvalidPageTokenError
from api_common.listing.pagination import PageTokens as PageTokens
from api_common.listing.pagination import binding as binding
