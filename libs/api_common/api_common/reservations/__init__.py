"""Package reservations holds what a deployment holds on to in another service, until it is released."""

from api_common.reservations.holds import Reservations, reservation_tables

__all__ = ["Reservations", "reservation_tables"]
