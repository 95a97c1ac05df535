"""What docs/scaling.md tells to set at PgBouncer and at logins is what our sessions set where there is no PgBouncer."""

import re
import sys
from typing import Final

from api_common.db import Database

from tools.topology import ROOT

SESSION: Final = vars(sys.modules[Database.__module__])["_SESSION"]
PAGE: Final = (ROOT / "docs" / "scaling.md").read_text()


def test_logins_have_the_settings_of_a_session() -> None:
    told = dict(re.findall(r"^ +ALTER ROLE users_login SET (\w+) = '(\w+)';$", PAGE, re.MULTILINE))
    assert told == SESSION


def test_the_pooler_ignores_what_a_session_sets() -> None:
    (ignored,) = re.findall(r"^    ignore_startup_parameters = (\S+)$", PAGE, re.MULTILINE)
    assert ignored.split(",") == list(SESSION)
