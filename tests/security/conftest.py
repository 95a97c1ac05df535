"""The edge of tests/e2e/edge, for the tests that attack it."""

from tests.e2e.edge.conftest import anonymous, backend, certs, edge, issuer, layout, offset, published, rest, service

__all__ = ["anonymous", "backend", "certs", "edge", "issuer", "layout", "offset", "published", "rest", "service"]
