"""Real parts for tests: a Postgres, a service in this process, callers. Imported by tests only."""
