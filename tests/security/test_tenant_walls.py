"""One tenant cannot reach, change or even notice another: every RPC, every id, every caller, from the descriptors."""

import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
import grpc
import pytest
from api_common.authn import INTERNAL_ISSUER, InternalTokenSigner
from api_common.listing import IdField as IdFilter
from api_common.testing import AUDIENCE, NEVER, Caller, Identity, refused
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.rpc import status_pb2

from tests import protos
from tests.security.world import (
    MADE_BY,
    Founding,
    Ground,
    Program,
    Rpc,
    Running,
    World,
    internal_rpcs,
    make_program,
    rpcs,
)
from tests.services import built_services, owner_of
from tests.watching import watching

S: Final = grpc.StatusCode

every_rpc = pytest.mark.parametrize("rpc", rpcs(), ids=str)
every_internal_rpc = pytest.mark.parametrize("rpc", internal_rpcs(), ids=str)
every_list = pytest.mark.parametrize("rpc", [one for one in rpcs() if one.method.name.startswith("List")], ids=str)
every_write = pytest.mark.parametrize("rpc", [one for one in rpcs() if not one.policy.read_only], ids=str)
every_watch = pytest.mark.parametrize("rpc", [one for one in rpcs() if one.policy.is_stream], ids=str)
every_batch = pytest.mark.parametrize(
    "rpc", [one for one in rpcs() if re.match("Batch(Get|Update|Delete)", one.method.name)], ids=str
)

Checksum = Callable[[World], Awaitable[dict[str, str]]]


@pytest.fixture(scope="session")
async def checksum(mesh: Mapping[str, Running]) -> AsyncIterator[Checksum]:
    """Reads all rows of a tenant in all databases, as a superuser, down to one text for each table."""
    async with AsyncExitStack() as stack:
        connections: dict[str, asyncpg.Connection[asyncpg.Record]] = {}
        for name, running in mesh.items():
            connections[name] = await asyncpg.connect(running.database.admin_url)
            stack.push_async_callback(connections[name].close)

        async def read(world: World) -> dict[str, str]:
            rows = "SELECT count(*) || md5(string_agg(t::text, ';' ORDER BY t::text)) FROM {} t WHERE tenant_id = $1"
            return {
                table: await connections[built.service.name].fetchval(rows.format(table), world.caller.tenant_id)
                for built in built_services()
                for table in built.metadata.tables
            }

        yield read


@pytest.fixture(scope="session")
async def attacker(found: Founding) -> World:
    """A tenant that gets at nothing, so that it serves for every try."""
    return await found()


@pytest.fixture(scope="session")
async def mighty_program(attacker: World) -> Program:
    return await make_program(attacker, "admin")


@pytest.fixture
async def accomplice(mighty_program: Program) -> Caller:
    """A program of the attacker's with an API key that may do everything there."""
    return await mighty_program.caller()


@pytest.fixture(scope="session")
async def plain_program(world: World) -> Program:
    return await make_program(world)


@pytest.fixture
async def powerless(plain_program: Program) -> Caller:
    """A program with an API key and no role."""
    return await plain_program.caller()


@dataclass(frozen=True, slots=True)
class Answer:
    """All that a caller learns from a call, without the ids that it sent itself and without the request's own id."""

    code: grpc.StatusCode
    status: bytes
    trailers: frozenset[tuple[str, str | bytes]]
    message: Message | None = None


async def answer(call: Awaitable[Any], *, without: str) -> Answer:
    """Awaits ``call``."""
    try:
        return Answer(S.OK, b"", frozenset(), await call)
    except grpc.aio.AioRpcError as error:
        trailers = dict(tuple(error.trailing_metadata() or ()))
        status = status_pb2.Status.FromString(bytes(trailers.pop("grpc-status-details-bin")))
        own = str(trailers.pop("error-id"))
        text = status.SerializeToString().replace(own.encode(), b"").replace(without.encode(), b"")
        rest = frozenset((key, value) for key, value in trailers.items() if value != own)
        return Answer(error.code(), text, rest)


class TestEveryRpc:
    @every_rpc
    async def test_serves_its_own_tenant(self, rpc: Rpc, ground: Ground, identity: Identity) -> None:
        world = await ground(rpc)
        # Only a user has a profile; and what is stored of a user counts, not the token's roles.
        subject = world.ids["user"] if rpc.policy.users_only else "ada"
        caller = identity.caller(world.caller.tenant_id, "admin", subject=subject)
        response = await world.call(rpc, world.request(rpc), caller=caller)
        assert isinstance(response, rpc.policy.response_class)

    @every_rpc
    async def test_serves_an_api_key_of_its_tenant_or_users_only(self, rpc: Rpc, ground: Ground) -> None:
        world = await ground(rpc)
        program = await (await make_program(world, "admin")).caller()
        got = await answer(world.call(rpc, world.request(rpc), caller=program), without=NEVER)
        assert got.code is (S.PERMISSION_DENIED if rpc.policy.users_only else S.OK)

    @every_rpc
    async def test_refuses_whoever_is_not_known_in_the_same_way(
        self, rpc: Rpc, world: World, identity: Identity, checksum: Checksum
    ) -> None:
        def of_api_key(issued_at: int) -> str:
            signer = InternalTokenSigner(
                identity.signing_key_path.read_bytes(), audience=AUDIENCE, now=lambda: issued_at
            )
            account = world.ids["service_account"]
            return signer.token(subject=account, tenant_id=world.caller.tenant_id, roles=["admin"])

        before = await checksum(world)
        good = identity.caller(world.caller.tenant_id, "admin").token
        head, payload, signature = good.split(".")
        claims = identity.claims(world.caller.tenant_id, "admin")
        tokens = {
            "expired": identity.sign(claims | {"exp": claims["iat"] - 60, "iat": claims["iat"] - 120}),
            "forged": f"{head}.{payload}.{signature[::-1]}",
            "unsigned": f"{head}.{payload}.",
            "other audience": identity.sign(claims | {"aud": "elsewhere"}),
            "without tenant": identity.sign({key: value for key, value in claims.items() if key != "tenant_id"}),
            "expired, of an API key": of_api_key(int(time.time()) - 2 * InternalTokenSigner.LIFETIME_SECONDS),
            "unknown key, of an API key": identity.sign(claims | {"iss": INTERNAL_ISSUER}),
        }
        answers: dict[str, set[Answer]] = {"": set()}
        for name, token in tokens.items():
            metadata = (("authorization", f"Bearer {token}"),)
            found = await answer(world.send(rpc, world.request(rpc), metadata), without=NEVER)
            # Who has a token sees these, too.
            visible = next((fault for fault in ("expired", "unknown key") if name.startswith(fault)), "")
            answers.setdefault(visible, set()).add(found)
        assert [len(same) for same in answers.values()] == [1, 1, 1]
        (one,) = answers[""]
        assert one.code is S.UNAUTHENTICATED
        with refused(S.UNAUTHENTICATED, "UNAUTHENTICATED"):
            await world.send(rpc, world.request(rpc), ())
        assert await checksum(world) == before

    @every_internal_rpc
    async def test_of_the_mesh_refuses_anonymous_callers_and_users(self, rpc: Rpc, world: World) -> None:
        with refused(S.UNAUTHENTICATED, "UNAUTHENTICATED"):
            await world.send(rpc, rpc.policy.request_class(), ())
        with refused(S.PERMISSION_DENIED, "PERMISSION_DENIED"):
            await world.send(rpc, rpc.policy.request_class(), world.caller.metadata)

    @every_rpc
    async def test_refuses_who_has_no_role_for_it_before_it_looks(
        self, rpc: Rpc, world: World, identity: Identity, powerless: Caller, checksum: Checksum
    ) -> None:
        before = await checksum(world)
        never = world.request(rpc)
        for field in rpc.ids():
            field.put(never, NEVER)
        for nobody in (identity.caller(world.caller.tenant_id, "no-such-role"), powerless):
            existing = await answer(world.call(rpc, world.request(rpc), caller=nobody), without=NEVER)
            assert existing.code is S.PERMISSION_DENIED
            assert await answer(world.call(rpc, never, caller=nobody), without=NEVER) == existing
        assert await checksum(world) == before


class TestIds:
    @every_rpc
    async def test_of_another_tenant_are_as_if_they_never_existed(
        self, rpc: Rpc, ground: Ground, attacker: World, accomplice: Caller, checksum: Checksum
    ) -> None:
        """The victim's resources are where the RPC would work on them, were there no wall."""
        victim = await ground(rpc)
        etags = ("", '"1"', '"2"') if list(_with_etag(attacker.request(rpc))) else ("",)
        before = await checksum(victim)
        for field in rpc.ids():
            stolen = victim.ids[field.names]
            for caller, etag in [*((attacker.caller, etag) for etag in etags), (accomplice, "")]:
                answers = []
                for id in (stolen, NEVER):
                    request = attacker.request(rpc)
                    field.put(request, id)
                    for holder in _with_etag(request):
                        holder.etag = etag
                    answers.append(await answer(attacker.call(rpc, request, caller=caller), without=id))
                there, never = answers
                assert there.code is never.code, field
                if there.message is None:
                    assert there == never, field
                    assert etag or there.code is S.NOT_FOUND, f"{field}: {there}"
                else:
                    # An id that is the server's to choose: what the client sends does not count.
                    assert rpc.creates or field.path[-1] != "id", f"{field} was accepted"
                    assert field.output_only
                    assert stolen not in str(there.message)
            assert await checksum(victim) == before, field

    @every_batch
    async def test_behind_an_own_one_are_as_if_they_never_existed(
        self, rpc: Rpc, world: World, attacker: World, checksum: Checksum
    ) -> None:
        """Nothing happens to the attacker's own resource either: all or nothing."""
        victim = world
        before, own = await checksum(victim), await checksum(attacker)
        answers = []
        for id in (victim.ids[rpc.subject], NEVER):
            request = attacker.request(rpc)
            if rpc.method.name.startswith("BatchGet"):
                request.ids.append(id)
            else:
                _put_id(request.requests.add(), request.requests[0], id)
            answers.append(await answer(attacker.call(rpc, request), without=id))
        assert answers[0] == answers[1]
        assert answers[0].code is S.NOT_FOUND
        assert await checksum(victim) == before
        assert await checksum(attacker) == own

    @every_list
    async def test_in_filters_find_nothing(self, rpc: Rpc, world: World, neighbour: World) -> None:
        victim, attacker = world, neighbour
        owner = owner_of(rpc.method.containing_service)
        assert owner is not None
        filters = owner.module("repository").FIELDS.by_name if "filter" in rpc.method.input_type.fields_by_name else {}
        names = [name for name, field in filters.items() if isinstance(field, IdFilter)]
        for name in names:
            resource = rpc.subject if name == "id" else name.removesuffix("_id")
            for text in ('{} = "{}"', '{} = "{}" OR id = "{}"'):
                answers = []
                for id in (victim.ids[resource], NEVER):
                    request = attacker.request(rpc)
                    request.filter = text.format(name, id, id)
                    answers.append(await answer(attacker.call(rpc, request), without=id))
                assert answers[0] == answers[1]
                assert answers[0].message == rpc.policy.response_class()

    @every_list
    async def test_in_page_tokens_are_refused(self, rpc: Rpc, world: World, neighbour: World) -> None:
        victim, attacker = world, neighbour
        for _ in range(2):
            await _make_another(victim, rpc)
        request = victim.request(rpc)
        request.page_size = 1
        minted = (await victim.call(rpc, request)).next_page_token
        assert minted, f"{rpc}: there must be a second page"
        asked = attacker.request(rpc)
        asked.page_size, asked.page_token = 1, minted
        stolen = await answer(attacker.call(rpc, asked), without=NEVER)
        asked.page_token = "garbage"
        assert stolen.code is S.INVALID_ARGUMENT
        assert stolen == await answer(attacker.call(rpc, asked), without=NEVER)

    @every_list
    async def test_are_in_no_list(self, rpc: Rpc, world: World, neighbour: World) -> None:
        victim, attacker = world, neighbour
        request = attacker.request(rpc)
        if "show_deleted" in rpc.method.input_type.fields_by_name:
            request.show_deleted = True
        page = str(await attacker.call(rpc, request))
        assert victim.caller.tenant_id not in page
        assert not [id for id in victim.ids.values() if id in page]

    @every_watch
    async def test_are_in_no_watch(self, rpc: Rpc, world: World, neighbour: World) -> None:
        """Neither in its initial state nor among its changes; and a resume token is its tenant's."""
        victim, attacker = world, neighbour
        await _make_another(victim, rpc)
        request = attacker.request(rpc)
        request.initial_state = True
        async with watching(attacker.stream(rpc), request, attacker.caller) as watch:
            initial = await watch.until("bookmark")
            assert victim.caller.tenant_id not in str(initial)
            await _make_another(victim, rpc)
            await _make_another(attacker, rpc)
            _, changed = await watch.change()
            assert changed.tenant_id == attacker.caller.tenant_id
        stolen = victim.request(rpc)
        async with watching(victim.stream(rpc), stolen, victim.caller) as watch:
            asked = attacker.request(rpc)
            asked.resume_token = (await watch.until("bookmark"))[-1].resume_token
        got = await answer(attacker.call(rpc, asked), without=NEVER)
        assert got.code is S.INVALID_ARGUMENT
        asked.resume_token = "garbage"
        assert got == await answer(attacker.call(rpc, asked), without=NEVER)


class TestIdempotencyKeys:
    @every_write
    async def test_of_another_tenant_replay_nothing(
        self, rpc: Rpc, ground: Ground, attacker: World, checksum: Checksum
    ) -> None:
        """The same key, subject, method and request."""
        victim = await ground(rpc)
        request = victim.request(rpc)
        await victim.call(rpc, request, key="the-same")
        before = await checksum(victim)
        got = await answer(attacker.call(rpc, request, key="the-same"), without=NEVER)
        if got.message is None:
            assert got.code is S.NOT_FOUND
        else:
            assert rpc.creates
            assert victim.caller.tenant_id not in str(got.message)
            assert attacker.caller.tenant_id in str(got.message)
        assert await checksum(victim) == before


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and protos.is_map_entry(field.message_type)


def _with_etag(request: Any) -> Iterator[Any]:
    """Yields the parts of a request that have room for an etag."""
    if "etag" in request.DESCRIPTOR.fields_by_name:
        yield request
    for field, value in request.ListFields():
        if field.message_type is not None and field.message_type.full_name.startswith("ameide.") and not _is_map(field):
            for inner in value if field.is_repeated else (value,):
                yield from _with_etag(inner)


def _put_id(item: Any, like: Any, id: str) -> None:
    """Makes of ``item`` the same as ``like``, about another resource."""
    item.CopyFrom(like)
    holder = item if "id" in item.DESCRIPTOR.fields_by_name else next(value for _, value in item.ListFields())
    holder.id = id


async def _make_another(world: World, rpc: Rpc) -> None:
    """Makes one more of what ``rpc`` is about."""
    made_by = MADE_BY.get(rpc.subject)
    again = next(
        one
        for one in rpcs()
        if one.method.name == made_by
        or (made_by is None and one.method.name.startswith("Create") and one.subject == rpc.subject)
    )
    await world.call(again, world.request(again))
