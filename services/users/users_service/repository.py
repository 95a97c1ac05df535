"""Queries of users beyond the standard ones."""

from api_common.context import Principal
from api_common.database import compile_statement
from api_common.errors import NotFoundError
from api_common.fields import EnumField, Fields, IdField, LabelsField, TextField, TextListField, TimestampField
from api_common.pagination import PageTokens
from api_common.repository import Repository
from api_common.unit_of_work import Row, Transaction
from sqlalchemy import String, bindparam, cast, func, or_, select

from users_service.domain import LIFECYCLE, State
from users_service.tables import users

FIELDS = Fields(
    {
        "id": IdField(column=users.c.id),
        "display_name": TextField(column=users.c.display_name, sortable=True),
        "email": TextField(column=users.c.email, folded=users.c.email_folded, sortable=True),
        "state": EnumField(column=users.c.state, states=State),
        "roles": TextListField(column=users.c.roles),
        "labels": LabelsField(column=users.c.labels),
        "create_time": TimestampField(column=users.c.create_time, sortable=True),
        "update_time": TimestampField(column=users.c.update_time, sortable=True),
        "created_by": TextField(column=users.c.created_by),
    }
)

_FIND_PRINCIPAL = compile_statement(
    select(users)
    .where(
        users.c.tenant_id == bindparam("tenant_id"),
        users.c.delete_time.is_(None),
        or_(
            cast(users.c.id, String) == bindparam("subject"),
            users.c.email_folded == func.lower(bindparam("email")),
        ),
    )
    # A subject that is an id says more than an address.
    .order_by((cast(users.c.id, String) == bindparam("subject")).desc())
    .limit(1)
)


class UserRepository(Repository):
    """The users of a tenant."""

    def __init__(self, page_tokens: PageTokens) -> None:
        super().__init__(users, resource="user", fields=FIELDS, lifecycle=LIFECYCLE, page_tokens=page_tokens)

    async def find_principal(self, transaction: Transaction, principal: Principal) -> Row:
        """Returns the live user that the caller is: by id if the subject is one, else by verified e-mail address.

        Raises:
            NotFoundError: the caller is no user of the tenant, e.g. a service account.
        """
        values = {"tenant_id": principal.tenant_id, "subject": principal.subject, "email": principal.email}
        row = await transaction.fetch_one(_FIND_PRINCIPAL, values)
        if row is None:
            raise NotFoundError("The caller is not a user of this tenant.")
        return row
