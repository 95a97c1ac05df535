"""The fields that lists of a resource may be filtered and ordered by."""

import enum

from sqlalchemy import Table

from api_common.listing import EnumField, Field, Fields, IdField, LabelsField, TextField, TimestampField


def resource_fields(table: Table, states: type[enum.Enum], **own: Field) -> Fields:
    """Declares the fields of a resource: the columns that every `resource_table` has, and its ``own``."""
    columns = table.c
    return Fields(
        {
            "id": IdField(columns.id),
            "display_name": TextField(columns.display_name, sortable=True),
            "state": EnumField(columns.state, states=states),
            "labels": LabelsField(columns.labels),
            "create_time": TimestampField(columns.create_time, sortable=True),
            "update_time": TimestampField(columns.update_time, sortable=True),
            "created_by": TextField(columns.created_by),
            **own,
        }
    )
