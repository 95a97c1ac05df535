"""Alembic's entry point: migrates on the connection that `api_common.migrations.upgrade` opened."""

from api_common.db import run_environment
from ipas_service.tables import METADATA

run_environment(METADATA)
