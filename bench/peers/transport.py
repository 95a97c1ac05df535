"""Where a peer serves, as its environment says."""

import os
from pathlib import Path
from typing import Final

PORT: Final = int(os.environ["PORT"])

CERTIFICATE: Final = Path(os.environ["USERS_TLS_CERTIFICATE_PATH"]) if "TLS" in os.environ else None
"""None: it speaks plain text."""
KEY: Final = Path(os.environ["USERS_TLS_PRIVATE_KEY_PATH"]) if CERTIFICATE else None

IDLE_SECONDS: Final = 75
"""How long it keeps an idle connection; the ingress closes it first."""
