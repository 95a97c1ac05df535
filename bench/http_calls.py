"""Calls over HTTP/1.1 and HTTP/2, by libcurl: a Python client would be slower than what it measures."""

import time
from collections.abc import Sequence
from io import BytesIO
from typing import Any, Final

import orjson
import pycurl
import uuid_utils

from bench.order import CONNECTIONS, IN_FLIGHT, Order, Result
from bench.work import Plan, Work, WrongAnswerError

_OK: Final = 200
_TIMEOUT_SECONDS: Final = 30
_VERSIONS: Final = {
    "h1": pycurl.CURL_HTTP_VERSION_1_1,
    "h2": pycurl.CURL_HTTP_VERSION_2_PRIOR_KNOWLEDGE,
    "connect": pycurl.CURL_HTTP_VERSION_1_1,
}


def run(order: Order, plan: Plan, work: Work, numbers: Sequence[int], authorization: str) -> Result:
    """Makes the calls of ``order``, on connections of its own.

    It keeps no connection between two orders: the edge closes those whose pings time out, uvicorn closes idle ones.

    Raises:
        WrongAnswerError: an answer is wrong or missing.
    """
    pool = _Pool(order)
    latencies: list[float] = []
    begun = 0
    started = time.perf_counter()
    while len(latencies) < len(numbers):
        while begun < len(numbers) and pool.idle:
            due = started + begun / order.rate if order.rate else time.perf_counter()
            if due > time.perf_counter():
                break
            pool.begin(plan, work, numbers[begun], authorization, due)
            begun += 1
        latencies += pool.turn(work)
    pool.close()
    return Result(time.perf_counter() - started, latencies)


class _Pool:
    """The calls in flight to one address."""

    def __init__(self, order: Order) -> None:
        self._url = f"http://{order.address}"
        self._is_connect = order.transport == "connect"
        self._multi = pycurl.CurlMulti()
        if order.transport == "h2":
            self._multi.setopt(pycurl.M_PIPELINING, pycurl.PIPE_MULTIPLEX)
            self._multi.setopt(pycurl.M_MAX_HOST_CONNECTIONS, CONNECTIONS)
            self._multi.setopt(pycurl.M_MAX_CONCURRENT_STREAMS, IN_FLIGHT)
        self.idle = [pycurl.Curl() for _ in range(CONNECTIONS * IN_FLIGHT)]
        for handle in self.idle:
            handle.setopt(pycurl.HTTP_VERSION, _VERSIONS[order.transport])
            handle.setopt(pycurl.TIMEOUT, _TIMEOUT_SECONDS)
        self._flying: dict[Any, tuple[int, float, BytesIO]] = {}

    def begin(self, plan: Plan, work: Work, number: int, authorization: str, due: float) -> None:
        handle, body, headers = self.idle.pop(), BytesIO(), [f"authorization: {authorization}"]
        content: bytes | None
        if self._is_connect:
            verb, path, content = "POST", f"/{plan.method}", work.request(number).SerializeToString()
            headers += ["content-type: application/proto", "connect-protocol-version: 1"]
        else:
            call = work.rest(number)
            verb, path, content = call.verb, call.path, None if call.body is None else orjson.dumps(call.body)
            headers.append("content-type: application/json")
        if plan.has_key:
            headers.append(f"idempotency-key: {uuid_utils.uuid4()}")
        if plan.max_age_seconds:
            headers.append(f"cache-control: max-age={plan.max_age_seconds}")
        handle.setopt(pycurl.URL, self._url + path)
        handle.setopt(pycurl.CUSTOMREQUEST, verb)
        handle.setopt(pycurl.HTTPHEADER, headers)
        if content is not None:
            handle.setopt(pycurl.POSTFIELDS, content)
        else:
            handle.setopt(pycurl.HTTPGET, True)
        handle.setopt(pycurl.WRITEDATA, body)
        self._flying[handle] = (number, due, body)
        self._multi.add_handle(handle)

    def close(self) -> None:
        for handle in self.idle:
            handle.close()
        self._multi.close()

    def turn(self, work: Work) -> list[float]:
        """Sends and receives what is ready, and returns the latencies of the calls that have ended."""
        latencies = []
        self._multi.select(0.001)
        self._multi.perform()
        waiting = True
        while waiting:
            waiting, done, failed = self._multi.info_read()
            for handle, _, reason in failed:
                raise WrongAnswerError(f"{handle.getinfo(pycurl.EFFECTIVE_URL)}: {reason}")
            for handle in done:
                self._multi.remove_handle(handle)
                number, due, body = self._flying.pop(handle)
                latencies.append((time.perf_counter() - due) * 1000)
                if handle.getinfo(pycurl.RESPONSE_CODE) != _OK:
                    raise WrongAnswerError(body.getvalue()[:1000].decode())
                if self._is_connect:
                    work.check(number, work.answer.FromString(body.getvalue()))
                else:
                    work.check_json(number, body.getvalue())
                self.idle.append(handle)
        return latencies
