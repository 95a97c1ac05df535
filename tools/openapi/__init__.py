"""The OpenAPI document, from the descriptors (ADR 21): `python -m tools.openapi` writes `docs/openapi.json`."""
