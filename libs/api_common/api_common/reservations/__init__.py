"""Package reservations keeps resources in use from being deleted: a deployment reserves them until it is retired."""

from api_common.reservations.holds import Reservations, reservation_tables

__all__ = ["Reservations", "reservation_tables"]
