"""Alembic's entry point: migrates on the connection that `api_common.migrations.upgrade` opened."""

from agents_service.tables import METADATA
from api_common.db import run_environment

run_environment(METADATA)
