"""How the export of traces ends, and what statements tell it; tests/e2e/test_telemetry.py is about spans."""

import asyncio
import socket
import threading

import grpc
import pytest
from api_common.db import compile_statement
from api_common.telemetry import SpanRecord, Trace, Tracer, tracing
from opentelemetry.trace import SpanKind
from sqlalchemy import column, select, table


async def test_a_collector_that_hangs_does_not_keep_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "FLUSH_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as server:
        await close_in_time(Tracer("users", endpoint=f"http://127.0.0.1:{server.getsockname()[1]}", sample_ratio=0))


async def close_in_time(tracer: Tracer) -> None:
    for _ in range(2000):
        trace = Trace("1" * 32, parent_id="2" * 16, sampled=True)
        tracer.end(trace, SpanRecord("GetUser", SpanKind.SERVER, 1, 2, {}, grpc.StatusCode.OK))
    before = set(threading.enumerate())
    # One export alone may take 5 s, and these are four.
    async with asyncio.timeout(4):
        await tracer.close()
    assert not [one for one in before if one.name.startswith("OtelBatch") and one.is_alive()]


def test_statements_know_what_traces_say_of_them() -> None:
    statement = compile_statement(select(column("id")).select_from(table("users")))
    assert statement.summary == "SELECT users"
    assert statement.facts == {"db.system.name": "postgresql", "db.query.text": statement.sql}
