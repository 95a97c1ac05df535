"""Changes as they happen: recorded by the database, followed by watches (ADR 24, ADR 25)."""
