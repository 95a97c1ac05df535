"""`If-Match` and the etag field are one condition, in every RPC that has one; where there is none it is refused."""

from typing import Any, Final

import grpc
import pytest
from api_common.contract import entity_tag
from api_common.rpc import NOT_MODIFIED
from api_common.testing import refused

from tests.security.world import Ground, Rpc, World, rpc, rpcs

S: Final = grpc.StatusCode

RPCS: Final = rpcs()
ANSWERED: Final = [
    one for one in RPCS if not one.policy.returns_secret and not one.policy.is_stream and one.method.name != "GetMe"
]
"""Those that answer twice, and once each time; the callers of these tests are in no list of users."""


def carries_etag(one: Rpc) -> bool:
    """Tells whether the contract gives the request of an RPC an etag to expect."""
    fields = one.method.input_type.fields_by_name
    updated = fields[one.subject].message_type if "update_mask" in fields else None
    return "etag" in fields or (updated is not None and "etag" in updated.fields_by_name)


every_conditional = pytest.mark.parametrize("rpc_", [one for one in RPCS if carries_etag(one)], ids=str)
every_other = pytest.mark.parametrize("rpc_", [one for one in RPCS if not carries_etag(one)], ids=str)


def holder(one: Rpc, request: Any) -> Any:
    """Returns what carries the etag in a request."""
    return request if "etag" in one.method.input_type.fields_by_name else getattr(request, one.subject)


async def current(world: World, one: Rpc) -> str:
    """Returns the etag of what an RPC is about."""
    get = next(other for other in RPCS if other.method.name.startswith("Get") and other.subject == one.subject)
    etag: str = (await world.call(get, get.policy.request_class(id=world.ids[one.subject]))).etag
    return etag


async def send(world: World, one: Rpc, request: Any, *if_match: str) -> Any:
    headers = tuple(("if-match", value) for value in if_match)
    return await world.send(one, request, world.caller.metadata + headers)


class TestIfMatch:
    @every_conditional
    async def test_is_the_etag_that_the_rpc_expects(self, ground: Ground, rpc_: Rpc) -> None:
        world = await ground(rpc_)
        request, etag = world.request(rpc_), await current(world, rpc_)
        with refused(S.ABORTED, "ETAG_MISMATCH"):
            await send(world, rpc_, request, '"999"')
        holder(rpc_, request).etag = '"999"'
        with refused(S.INVALID_ARGUMENT, "INVALID_REQUEST") as refusal:
            await send(world, rpc_, request, etag)
        assert refusal.violations == {"if-match": "must not differ from the etag of the request"}
        with refused(S.ABORTED, "ETAG_MISMATCH"):
            await send(world, rpc_, request, "*")
        holder(rpc_, request).etag = etag
        await send(world, rpc_, request, etag)
        assert await current(world, rpc_) != etag

    async def test_star_expects_no_version(self, world: World) -> None:
        update = rpc("UpdateUser")
        assert (await send(world, update, world.request(update), "*")).etag

    @every_other
    async def test_is_refused_where_nothing_checks_it(self, world: World, rpc_: Rpc) -> None:
        for value in ("*", '"1"', ""):
            with refused(S.INVALID_ARGUMENT, "INVALID_REQUEST") as refusal:
                await send(world, rpc_, world.request(rpc_), value)
            assert refusal.violations["if-match"] == "must not be sent: this method takes no condition"

    @pytest.mark.parametrize(
        "values",
        [('W/"1"',), ("1",), ("",), ('"1", "2"',), ('"1"', '"1"'), ("*", "*"), ('"a"b"',), ('"1',), (f'"{"1" * 63}"',)],
        ids=["weak", "bare", "empty", "list", "twice", "two stars", "quote within", "open", "too long"],
    )
    async def test_that_is_malformed_is_refused(self, world: World, values: tuple[str, ...]) -> None:
        update = rpc("UpdateUser")
        before = await current(world, update)
        with refused(S.INVALID_ARGUMENT, "INVALID_REQUEST") as refusal:
            await send(world, update, world.request(update), *values)
        assert refusal.violations == {"if-match": "must be `*` or one strong entity tag of at most 64 characters"}
        assert await current(world, update) == before

    async def test_makes_nothing_that_is_required(self, world: World) -> None:
        update = rpc("UpdateUser")
        with refused(S.INVALID_ARGUMENT, "INVALID_REQUEST") as refusal:
            await send(world, update, update.policy.request_class(), '"1"')
        assert set(refusal.violations) == {"user"}

    async def test_is_part_of_the_request_that_an_idempotency_key_is_for(self, world: World) -> None:
        update = rpc("UpdateUser")
        request, key = world.request(update), (("idempotency-key", "with-if-match"),)
        metadata = world.caller.metadata + key
        await world.send(update, request, (*metadata, ("if-match", await current(world, update))))
        with refused(S.INVALID_ARGUMENT, "IDEMPOTENCY_KEY_REUSED"):
            await world.send(update, request, (*metadata, ("if-match", '"999"')))


class TestEtagHeader:
    @pytest.mark.parametrize("rpc_", ANSWERED, ids=str)
    async def test_is_that_of_the_resource_and_for_rest(self, ground: Ground, rpc_: Rpc) -> None:
        world = await ground(rpc_)
        request = world.request(rpc_)
        # The second answer of a mutation is a replay.
        for header in ((), (("x-envoy-original-path", "/v1/x"),)):
            call = world.start(rpc_, request, (*world.caller.metadata, ("idempotency-key", "k"), *header))
            response = await call
            tags = [value for name, value in await call.initial_metadata() if name == "etag"]
            has_tag = "etag" in response.DESCRIPTOR.fields_by_name or rpc_.method.name.startswith("Get")
            assert tags == ([entity_tag(response)] if header and has_tag else [])


class TestIfNoneMatch:
    @pytest.mark.parametrize("rpc_", [one for one in ANSWERED if one.method.name.startswith("Get")], ids=str)
    async def test_spares_those_who_have_the_resource_its_bytes(self, ground: Ground, rpc_: Rpc) -> None:
        world = await ground(rpc_)
        request = world.request(rpc_)
        tag = entity_tag(await world.send(rpc_, request, world.caller.metadata))
        known = (tag, f"W/{tag.removeprefix('W/')}", f'"x" , {tag}', "*")
        for rest, values, is_known in (
            *((True, (value,), True) for value in known),
            (True, ('"x"', tag), True),
            (True, ('"x", W/"y"',), False),
            (True, (tag.strip('W/"'),), False),
            (False, (tag,), False),
        ):
            headers = tuple(("if-none-match", value) for value in values)
            origin = (("x-envoy-original-path", "/v1/x"),) if rest else ()
            call = world.start(rpc_, request, (*world.caller.metadata, *headers, *origin))
            response = await call
            told = dict(tuple(await call.initial_metadata()))
            assert (NOT_MODIFIED in told, response.ByteSize() == 0) == (is_known, is_known), values
            assert told.get("etag") == (tag if rest else None)

    async def test_changes_nothing_for_what_writes(self, world: World) -> None:
        update = rpc("UpdateUser")
        headers = (("if-none-match", "*"), ("x-envoy-original-path", "/v1/x"))
        assert (await world.send(update, world.request(update), world.caller.metadata + headers)).etag
