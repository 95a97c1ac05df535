"""Package events holds audit events and business events, the records of what happened."""

from api_common.events.audit import Outcome as Outcome
from api_common.events.audit import RoleChange as RoleChange
from api_common.events.audit import is_audited as is_audited
from api_common.events.audit import record_audit_event as record_audit_event
from api_common.events.audit import subjects as subjects
from api_common.events.business import event_name as event_name
from api_common.events.business import record_business_event as record_business_event
