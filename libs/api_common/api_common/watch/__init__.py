"""Package watch holds the feed of changes, from the transaction that made them to the stream that tells them."""

from api_common.watch.change_notifier import ChangeNotifier as ChangeNotifier
from api_common.watch.change_notifier import Topic as Topic
from api_common.watch.statements import PAGE_SIZE as PAGE_SIZE
from api_common.watch.statements import REAP_CHANGES as REAP_CHANGES
from api_common.watch.tables import REAPER as REAPER
from api_common.watch.tables import change_tables as change_tables
from api_common.watch.watch import Watch as Watch
from api_common.watch.watch import WatchFactory as WatchFactory
