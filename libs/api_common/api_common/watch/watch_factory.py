"""Builds the watches of a service."""

from collections.abc import Callable
from dataclasses import dataclass

from google.protobuf.message import Message
from sqlalchemy import Table

from api_common.db import Database, Row
from api_common.listing import Fields, PageTokens
from api_common.settings import WatchSettings
from api_common.telemetry import Metrics
from api_common.watch.change_notifier import ChangeNotifier
from api_common.watch.pages import ResponseT
from api_common.watch.watch import Watch


@dataclass(frozen=True, slots=True)
class WatchFactory:
    """Builds watches from what all watches of a process share."""

    notifier: ChangeNotifier
    database: Database
    page_tokens: PageTokens
    metrics: Metrics
    settings: WatchSettings

    def of(
        self, table: Table, *, fields: Fields, to_proto: Callable[[Row], Message], response: type[ResponseT]
    ) -> Watch[ResponseT]:
        """Returns a watch of one collection; see `Watch`."""
        return Watch(
            table,
            fields=fields,
            to_proto=to_proto,
            response=response,
            notifier=self.notifier,
            database=self.database,
            page_tokens=self.page_tokens,
            metrics=self.metrics,
            settings=self.settings,
        )
