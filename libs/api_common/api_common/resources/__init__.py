"""Package resources holds rows of one resource: read, written in batches, deleted and restored, made into messages."""

from api_common.resources.batch_repository import BatchRepository as BatchRepository
from api_common.resources.batches import Change as Change
from api_common.resources.batches import batch_item as batch_item
from api_common.resources.batches import map_items as map_items
from api_common.resources.lifecycle import Lifecycle as Lifecycle
from api_common.resources.message_builder import Make as Make
from api_common.resources.message_builder import fill as fill
from api_common.resources.message_builder import fill_times as fill_times
from api_common.resources.message_builder import list_response as list_response
from api_common.resources.message_builder import make_resource as make_resource
from api_common.resources.message_builder import row_etag as row_etag
from api_common.resources.message_builder import with_rows as with_rows
from api_common.resources.quotas import Quotas as Quotas
from api_common.resources.repository import PartRepository as PartRepository
from api_common.resources.repository import Repository as Repository
from api_common.resources.resource_fields import resource_fields as resource_fields
