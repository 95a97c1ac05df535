"""Page tokens of the peers written in Python; not sealed, unlike ours."""

import base64
import json
from datetime import datetime


def to_token(create_time: datetime, id: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([create_time.isoformat(), id]).encode()).decode()


def from_token(token: str) -> tuple[datetime, str]:
    create_time, id = json.loads(base64.urlsafe_b64decode(token))
    return datetime.fromisoformat(create_time), id
