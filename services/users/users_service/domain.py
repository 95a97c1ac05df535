"""The rules of a user."""

from enum import StrEnum

from api_common.lifecycle import Lifecycle


class State(StrEnum):
    """What a user can be."""

    ACTIVE = "ACTIVE"
    SUSPENDED = "SUSPENDED"


LIFECYCLE = Lifecycle(
    resource="user",
    transitions={
        "suspend": ({State.ACTIVE}, State.SUSPENDED),
        "activate": ({State.SUSPENDED}, State.ACTIVE),
    },
)
