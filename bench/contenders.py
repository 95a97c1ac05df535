"""All contenders by name, and how each is started."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from bench.contender import (
    Contender,
    Program,
    await_all,
    started_edge,
    started_peer,
    started_proxy,
    started_service,
)
from bench.order import Transport
from bench.peers import go_gateway
from bench.stage import NEEDED, Stage
from bench.work import PLANS
from tools.edge.build import GENERATED

ECHO: Final = "echo"
ECHO_AGAIN: Final = "echo again"
DRIVER: Final = "driver"
OURS: Final = "ours"
OURS_AGAIN: Final = "ours again"
EDGE_GRPC: Final = "ours, edge, gRPC"
EDGE_H1: Final = "ours, edge, REST h1"
EDGE_H2: Final = "ours, edge, REST h2"
EDGE_CONNECT: Final = "ours, edge, Connect"
FLOOR_GRPC: Final = "ours, bare edge, gRPC"
FLOOR_H1: Final = "ours, bare edge, REST h1"
FASTAPI: Final = "FastAPI, ORM"
TUNED: Final = "FastAPI, tuned"
LITESTAR: Final = "Litestar, Granian"
GO: Final = "Go, grpc-gateway"
TUNED_INGRESS: Final = "FastAPI, tuned, Envoy"
LITESTAR_INGRESS: Final = "Litestar, Granian, Envoy"

_BARE: Final = {ECHO: "echo", ECHO_AGAIN: "echo", DRIVER: "driver"}
_BEHIND_EDGE: Final[Mapping[str, Transport]] = {
    EDGE_GRPC: "grpc",
    EDGE_CONNECT: "connect",
    EDGE_H1: "h1",
    EDGE_H2: "h2",
}
_BEHIND_FLOOR: Final[Mapping[str, Transport]] = {FLOOR_GRPC: "grpc", FLOOR_H1: "h1"}
"""Our services behind the least that serves them: the transcoder, the router and TLS."""
_PYTHON: Final = {FASTAPI: "fastapi_orm", TUNED: "fastapi_tuned", LITESTAR: "litestar_granian"}
_BEHIND_INGRESS: Final = {TUNED_INGRESS: "fastapi_tuned", LITESTAR_INGRESS: "litestar_granian"}
"""Peers behind the same Envoy, which does for them what an ingress does."""
REST: Final = (*_PYTHON, GO, *_BEHIND_INGRESS)
"""The peers that answer as the edge does."""
INGRESS: Final = Path(__file__).parent / "peers" / "ingress.yaml"
"""What an ingress does for a peer."""
BARE_EDGE: Final = INGRESS.with_name("bare_edge.yaml")
"""The least that serves our API."""
_REQUESTS_PER_SECOND: Final = 1_000_000
"""The rate limit of an ingress; nobody reaches it."""
_OF_USERS: Final = tuple(work for work, plan in PLANS.items() if plan.resource == "users")

TWINS: Final = {ECHO, ECHO_AGAIN, OURS, OURS_AGAIN}
"""Twins whose difference shows the noise of a run."""
NAMES: Final = (*_BARE, OURS, OURS_AGAIN, *_BEHIND_EDGE, *_BEHIND_FLOOR, *REST)


@contextmanager
def all_started(
    stage: Stage, names: Set[str], *, against: Path | None = None, python: str = sys.executable
) -> Iterator[Sequence[Contender]]:
    """Yields those of ``names`` that this machine can run, ready to serve.

    Args:
        against: another checkout, whose users service is `ours again` instead of this one's.
        python: what runs `ours again`.

    Raises:
        ContenderError: one does not start.
    """
    with ExitStack() as stack:
        contenders = [_started(name, stage, stack) for name in (*_BARE, *_PYTHON) if name in names]
        contenders += [_started_behind_ingress(name, stage, stack) for name in _BEHIND_INGRESS if name in names]
        if GO in names and (built := go_gateway.build()):
            go = stack.enter_context(started_peer(GO, (str(built),), stage))
            contenders.append(_contender(GO, "h1", dict.fromkeys(NEEDED, go)))
        if OURS_AGAIN in names:
            environment = _packages_of(against) if against else {}
            again = started_service("users", stage, label=OURS_AGAIN, environment=environment, python=python)
            contenders.append(_contender(OURS_AGAIN, "mtls", {"users": stack.enter_context(again)}))
        if not names.isdisjoint({OURS, *_BEHIND_EDGE, *_BEHIND_FLOOR}):
            services = {name: stack.enter_context(started_service(name, stage)) for name in NEEDED}
            contenders.append(_contender(OURS, "mtls", services))
            if not names.isdisjoint(_BEHIND_EDGE):
                edge = stack.enter_context(started_edge(stage))
                contenders += [_contender(name, how, services, edge) for name, how in _BEHIND_EDGE.items()]
            if not names.isdisjoint(_BEHIND_FLOOR):
                floor = stack.enter_context(started_bare_edge(stage))
                contenders += [_contender(name, how, services, floor) for name, how in _BEHIND_FLOOR.items()]
        programs = {id(program): program for one in contenders for program in (*one.programs.values(), one.edge)}
        running = [program for program in programs.values() if program]
        await_all(running)
        yield sorted((one for one in contenders if one.name in names), key=lambda one: NAMES.index(one.name))
        # All stop at the same time; the stack waits for each.
        for program in running:
            program.process.terminate()


def _started(name: str, stage: Stage, stack: ExitStack) -> Contender:
    module = f"bench.peers.{(_BARE | _PYTHON)[name]}"
    program = stack.enter_context(started_peer(name, (sys.executable, "-m", module), stage))
    if name in _PYTHON:
        return _contender(name, "h1", dict.fromkeys(NEEDED, program))
    works = _OF_USERS if name == DRIVER else ("GetUser",)
    return Contender(name=name, transport="mtls", programs={"users": program}, works=works, is_constant=name != DRIVER)


def _started_behind_ingress(name: str, stage: Stage, stack: ExitStack) -> Contender:
    words = (sys.executable, "-m", f"bench.peers.{_BEHIND_INGRESS[name]}")
    peer = stack.enter_context(started_peer(name, words, stage, tls=True))
    ingress = stack.enter_context(started_ingress(f"ingress of {name}", stage, peer))
    return _contender(name, "h1", dict.fromkeys(NEEDED, peer), ingress)


@contextmanager
def started_ingress(name: str, stage: Stage, peer: Program) -> Iterator[Program]:
    """Runs an ingress in front of a peer that speaks TLS."""
    given = stage.environments["users"]
    values = {
        "issuer": given["USERS_AUTH_ISSUER"],
        "audience": given["USERS_AUTH_AUDIENCE"],
        "key_set": given["USERS_AUTH_JWKS_PATH"],
        "certificates": stage.mesh.certificates,
        "upstream_port": peer.port,
        "requests_per_second": _REQUESTS_PER_SECOND,
    }
    with started_proxy(name, stage, INGRESS, values) as program:
        yield program


@contextmanager
def started_bare_edge(stage: Stage, *, under: Sequence[str] = ()) -> Iterator[Program]:
    """Runs the floor of our edge in front of our services.

    Args:
        under: a command that wraps Envoy's own.
    """
    ports = {f"{name}_port": stage.mesh.ports[f"{name} grpc"] for name in NEEDED}
    values = {"certificates": stage.mesh.certificates, "descriptors": GENERATED / "transcoder.pb", **ports}
    with started_proxy("bare edge", stage, BARE_EDGE, values, under=under) as program:
        yield program


def _contender(
    name: str, transport: Transport, programs: Mapping[str, Program], edge: Program | None = None
) -> Contender:
    return Contender(name=name, transport=transport, programs=programs, edge=edge)


def _packages_of(checkout: Path) -> Mapping[str, str]:
    root = checkout.resolve()
    packages = [root / "libs" / "api_common", root / "services" / "users", Path("libs/ameide_protos").resolve()]
    return {"PYTHONPATH": os.pathsep.join(map(str, packages))}
