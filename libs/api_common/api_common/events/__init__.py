"""Package events holds audit events and business events, the records of what happened."""

from api_common.events.audit import Outcome, RoleChange, is_audited, record_audit_event, subjects
from api_common.events.business import event_name, record_business_event

__all__ = [
    "Outcome",
    "RoleChange",
    "event_name",
    "is_audited",
    "record_audit_event",
    "record_business_event",
    "subjects",
]
