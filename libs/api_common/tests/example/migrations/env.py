"""Alembic's entry point: migrates on the connection that the library opened."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
