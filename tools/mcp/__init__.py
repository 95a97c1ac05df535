"""The API as tools for AI agents (Model Context Protocol), from the contract (ADR 41)."""
