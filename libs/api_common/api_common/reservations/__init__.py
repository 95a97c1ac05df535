"""Package reservations holds what keeps resources in use from being deleted until a deployment is retired."""

from api_common.reservations.holds import Reservations as Reservations
from api_common.reservations.holds import reservation_tables as reservation_tables
