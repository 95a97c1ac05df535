"""Package watch: the feed of changes, from the transaction that made them to the stream that tells them."""

from api_common.watch.change_notifier import ChangeNotifier
from api_common.watch.statements import CHANGES, HORIZONS, PAGE_SIZE
from api_common.watch.tables import REAPER, change_tables
from api_common.watch.watch import Watch, WatchFactory

__all__ = [
    "CHANGES",
    "HORIZONS",
    "PAGE_SIZE",
    "REAPER",
    "ChangeNotifier",
    "Watch",
    "WatchFactory",
    "change_tables",
]
