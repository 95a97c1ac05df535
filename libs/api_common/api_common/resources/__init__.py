"""Package resources holds rows of one resource: read, written in batches, deleted and restored, made into messages."""

from api_common.resources.batch_repository import BatchRepository
from api_common.resources.batches import Change, batch_item, map_items
from api_common.resources.lifecycle import Lifecycle
from api_common.resources.message_builder import (
    Make,
    fill,
    fill_times,
    list_response,
    make_resource,
    row_etag,
    with_rows,
)
from api_common.resources.quotas import Quotas
from api_common.resources.repository import PartRepository, Repository
from api_common.resources.resource_fields import resource_fields

__all__ = [
    "BatchRepository",
    "Change",
    "Lifecycle",
    "Make",
    "PartRepository",
    "Quotas",
    "Repository",
    "batch_item",
    "fill",
    "fill_times",
    "list_response",
    "make_resource",
    "map_items",
    "resource_fields",
    "row_etag",
    "with_rows",
]
