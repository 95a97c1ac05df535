"""Package reservations keeps resources in use from being deleted: a deployment reserves them until it is retired."""

from api_common.reservations.holds import Reservations as Reservations
from api_common.reservations.holds import reservation_tables as reservation_tables
