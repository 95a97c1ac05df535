"""Builds the watches of a service's servicers."""

from collections.abc import Callable
from dataclasses import dataclass

from google.protobuf.message import Message
from sqlalchemy import Table

from api_common.changes.hub import ChangeHub
from api_common.changes.pages import ResponseT
from api_common.changes.watch import Watch
from api_common.database import Database
from api_common.fields import Fields
from api_common.pagination import PageTokens
from api_common.settings import WatchSettings
from api_common.telemetry import Metrics
from api_common.unit_of_work import Row


@dataclass(frozen=True, slots=True)
class Watches:
    """What all watches of a process share."""

    hub: ChangeHub
    database: Database
    page_tokens: PageTokens
    metrics: Metrics
    settings: WatchSettings

    def of(
        self, table: Table, *, fields: Fields, to_proto: Callable[[Row], Message], response: type[ResponseT]
    ) -> Watch[ResponseT]:
        """Returns the watch of one collection; see `Watch`."""
        return Watch(
            table,
            fields=fields,
            to_proto=to_proto,
            response=response,
            hub=self.hub,
            database=self.database,
            page_tokens=self.page_tokens,
            metrics=self.metrics,
            settings=self.settings,
        )
