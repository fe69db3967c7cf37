"""How a client learns how a type is cut: once for all who ask, and never for ever."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure import (
    ClusterError,
    MalformedMessage,
    RpcClientError,
    RunnerUnavailable,
    SendTimeout,
)
from perdure.streams.asks import TypeInfo, encode_info
from perdure.streams.codec import Undecodable
from perdure.streams.port import Forbidden, Message, Unreachable
from perdure.streams.routes import (
    AGAIN_TIMEOUT_S,
    DOUBT_S,
    INFO_TIMEOUT_S,
    REFRESH_S,
    NobodyThere,
    Route,
    Routes,
)
from perdure.streams.subjects import Sharding
from tests.bank import Account, Balance, Deposit
from tests.unit.streams.owner import SHARDING, Asked, World, error, reply, script
from tests.unit.streams.virtual import VirtualClock, run


def now() -> float:
    return asyncio.get_running_loop().time()


async def silent(world: World) -> list[Message]:
    """A runner that is frozen: it hears `info` and says nothing."""
    heard: list[Message] = []
    await world.owner.session.asks.subscribe("perdure.info.account", heard.append)
    return heard


def test_one_question_serves_all_who_ask_at_once() -> None:
    async def main() -> None:
        world = await World.hosted()
        routes = Routes(world.session)
        found = await asyncio.gather(*(routes.ask("account", timeout_s=1) for _ in range(9)))
        assert set(found) == {Route(SHARDING, 0)}
        assert world.owner.infos == 1
        assert routes.known("account") == found[0]
        assert routes.known("order") is None
        await routes.ask("account", timeout_s=1)
        assert world.owner.infos == 2
        assert repr(routes) == "Routes(account)"

    run(main())


@pytest.mark.parametrize("wrong_ms", [-86_400_000, -7, 0, 7, 86_400_000])
def test_it_learns_how_wrong_its_own_clock_is(wrong_ms: int) -> None:
    async def main() -> None:
        world = World(wrong_ms=wrong_ms)
        await world.owner.start()
        route = await Routes(world.session).ask("account", timeout_s=1)
        assert route.offset_ms == -wrong_ms

    run(main())


def test_the_offset_is_taken_in_the_middle_of_the_round_trip() -> None:
    async def main() -> None:
        world = World()
        heard = await silent(world)
        asking = asyncio.create_task(Routes(world.session).ask("account", timeout_s=1))
        await asyncio.sleep(0.4)  # the way there takes as long as the way back
        answered_ms = world.owner.session.clock.now_ns() // 1_000_000
        await asyncio.sleep(0.4)
        info = TypeInfo("account", 3, 4, "r1", answered_ms)
        world.owner.session.asks.send(heard[0].reply, encode_info(info))
        assert (await asking).offset_ms == 0

    run(main())


def test_silence_ends_at_the_callers_time_and_then_at_its_own() -> None:
    async def main() -> None:
        world = World()
        await silent(world)
        routes = Routes(world.session)
        with pytest.raises(Unreachable):
            await routes.ask("account", timeout_s=0.5)
        assert now() == 0.5
        with pytest.raises(Unreachable):
            await routes.ask("account", timeout_s=60)
        assert now() == INFO_TIMEOUT_S

    run(main())


def test_nobody_wrong_answers_and_no_connection_are_told_apart() -> None:
    async def main() -> None:
        world = World()
        routes = Routes(world.session)
        with pytest.raises(NobodyThere):
            await routes.ask("account", timeout_s=1)
        await world.owner.start()
        for entity, sharding in (("order", SHARDING), ("account", Sharding(3, 0))):
            world.owner.info_entity, world.owner.sharding = entity, sharding
            with pytest.raises(Undecodable):
                await routes.ask("account", timeout_s=1)
        assert routes.known("account") is None
        world.broker.disconnect(world.session, reconnect=False)
        with pytest.raises(Unreachable):
            await routes.ask("account", timeout_s=1)

    run(main())


def test_what_nobody_waits_for_any_more_does_not_complain() -> None:
    """pytest turns asyncio's "exception was never retrieved" into a failure."""

    async def main() -> None:
        world = World()
        await silent(world)
        routes = Routes(world.session)
        with pytest.raises(Unreachable):
            await routes.ask("account", timeout_s=0.1)
        await asyncio.sleep(INFO_TIMEOUT_S)
        with pytest.raises(Unreachable):
            await routes.ask("account", timeout_s=0.1)

    run(main())


def test_closing_ends_the_question() -> None:
    async def main() -> None:
        world = World()
        await silent(world)
        routes = Routes(world.session)
        asking = asyncio.create_task(routes.ask("account", timeout_s=60))
        await asyncio.sleep(0.1)
        routes.close()
        with pytest.raises(Unreachable):
            await asking
        assert now() == 0.1

    run(main())


def step(world: World, milliseconds: int) -> None:
    """Somebody sets the caller's clock."""
    clock = world.session.clock
    assert isinstance(clock, VirtualClock)
    clock.offset_ms += milliseconds


def test_what_is_known_long_is_asked_again_beside_a_call() -> None:
    async def main() -> None:
        world = await World.hosted(reply(Balance(5)))
        a1 = world.cluster.at(Account, "a-1")
        await a1.ask(Deposit(5))
        await asyncio.sleep(REFRESH_S - 1)
        await a1.ask(Deposit(5))
        assert world.owner.infos == 1
        step(world, 60_000)
        await asyncio.sleep(1)
        for _ in range(9):
            await asyncio.gather(*(a1.ask(Deposit(5)) for _ in range(9)))
        assert world.owner.infos == 2
        births = [asked.envelope.birth or 0 for asked in world.owner.asked]
        first, last = births[2], births[-1]
        assert first - last == 60_000  # the call that learns it doesn't wait for it

    run(main())


def test_asking_again_delays_no_call_and_is_not_tried_at_each() -> None:
    async def main() -> None:
        world = await World.hosted(reply(Balance(5)))
        a1 = world.cluster.at(Account, "a-1")
        await a1.ask(Deposit(5))
        await world.owner.stop()
        await world.owner.start_asks()
        heard = await silent(world)
        await asyncio.sleep(REFRESH_S)
        began = now()
        await a1.ask(Deposit(5))
        assert now() == began
        await asyncio.sleep(INFO_TIMEOUT_S + 1)
        await a1.ask(Deposit(5))
        assert len(heard) == 1
        await asyncio.sleep(REFRESH_S)
        await a1.ask(Deposit(5))
        await asyncio.sleep(1)
        assert len(heard) == 2

    run(main())


REFUSALS: list[ClusterError] = [
    MalformedMessage(cause="the key's birth isn't a time that can be"),
    SendTimeout(cause="a copy too old to tell whether it took effect"),
]


@pytest.mark.parametrize("refusal", REFUSALS, ids=["malformed", "too old"])
@pytest.mark.parametrize("seq", [None, 3])
@pytest.mark.parametrize("stepped_ms", [3_600_000, -3_600_000])
def test_a_clock_that_was_set_is_found_out_by_the_first_refusal(
    refusal: ClusterError, seq: int | None, stepped_ms: int
) -> None:
    async def main() -> None:
        world = await World.hosted()

        def says(n: int, asked: Asked) -> bytes:
            now_ms = world.owner.session.clock.now_ns() // 1_000_000
            right = abs((asked.envelope.birth or 0) - now_ms) < 1000
            return reply(Balance(5)) if right else error(refusal, seq)

        world.owner.says = says
        a1 = world.cluster.at(Account, "a-1")
        await a1.ask(Deposit(5))
        step(world, stepped_ms)
        assert type(await ask_fails(world, 5)) is type(refusal)
        assert await a1.ask(Deposit(5)) == Balance(5)
        assert world.owner.infos == 2

    run(main())


def test_a_caller_of_bad_messages_asks_no_question_with_each() -> None:
    async def main() -> None:
        world = await World.hosted(error(REFUSALS[0]))
        for _ in range(50):
            await ask_fails(world, 5)
        assert world.owner.infos == 2
        await asyncio.sleep(DOUBT_S)
        for _ in range(50):
            await ask_fails(world, 5)
        assert world.owner.infos == 3

    run(main())


def test_doubt_delays_a_call_by_little_and_then_what_is_known_is_used() -> None:
    async def main() -> None:
        world = await World.hosted(
            script(reply(Balance(5)), error(REFUSALS[1]), reply(Balance(5)))
        )
        a1 = world.cluster.at(Account, "a-1")
        await a1.ask(Deposit(5))
        await world.owner.stop()
        await world.owner.start_asks()
        await silent(world)
        await ask_fails(world, 5)
        began = now()
        await a1.ask(Deposit(5))
        assert now() - began == AGAIN_TIMEOUT_S
        await asyncio.sleep(INFO_TIMEOUT_S)
        began = now()
        await a1.ask(Deposit(5))
        assert now() == began

    run(main())


def test_there_is_no_doubt_of_what_was_never_known() -> None:
    async def main() -> None:
        world = await World.hosted()
        routes = Routes(world.session)
        routes.doubt("account")
        assert routes.current("account", now() + 2 * REFRESH_S) is None
        await asyncio.sleep(1)
        assert world.owner.infos == 0

    run(main())


# -- as calls see it --------------------------------------------------------------------------
async def ask_fails(world: World, timeout: float) -> ClusterError:  # noqa: ASYNC109
    with pytest.raises(ClusterError) as caught:
        await world.cluster.at(Account, "a-1").ask(Deposit(5), timeout=timeout)
    return caught.value


def test_a_call_to_a_frozen_runner_ends_in_its_time() -> None:
    async def main() -> None:
        world = World()
        heard = await silent(world)
        told = await ask_fails(world, 5)
        assert isinstance(told, RunnerUnavailable)
        assert told.cause
        assert not told.may_have_taken_effect
        assert now() == pytest.approx(5, abs=0.001)
        assert len(heard) == 3  # one after another

    run(main())


def test_a_call_that_may_not_ask_for_the_route_says_why() -> None:
    async def main() -> None:
        world = await World.hosted()
        asks: Any = world.session.asks
        why = 'permissions violation for publish to "perdure.info.account"'

        async def refuse(subject: str, data: bytes, *, timeout_s: float) -> Message:
            raise Forbidden(why)

        asks.request = refuse
        told = await ask_fails(world, 5)
        assert isinstance(told, RpcClientError)
        assert (told.cause, told.advice) == (why, "fix")
        assert not told.may_have_taken_effect
        assert now() < 1, "at once"

    run(main())


def test_a_known_route_is_used_while_nobody_tells_a_newer_one() -> None:
    async def main() -> None:
        world = await World.hosted(reply(Balance(5)))
        a1 = world.cluster.at(Account, "a-1")
        await a1.ask(Deposit(5))
        await world.owner.stop()
        await silent(world)
        asking = asyncio.create_task(a1.ask(Deposit(5)))
        await asyncio.sleep(1)
        await world.owner.start_asks()
        assert await asking == Balance(5)
        assert now() < 2

    run(main())


def test_an_outcome_that_comes_while_it_asks_for_the_route_is_taken() -> None:
    async def main() -> None:
        world = await World.hosted(script(None))
        a1 = world.cluster.at(Account, "a-1")
        asking = asyncio.create_task(a1.ask(Deposit(5)))
        await asyncio.sleep(0.1)
        await world.owner.stop()
        await silent(world)
        await asyncio.sleep(0.35)  # nobody hears the second attempt; it asks for the route
        assert len(world.owner.asked) == 1
        await world.owner.start_asks()
        world.owner.answer(1, reply(Balance(5)))
        assert await asking == Balance(5)
        assert len(world.owner.asked) == 1

    run(main())


def test_closing_ends_a_call_that_asks_for_the_route() -> None:
    async def main() -> None:
        world = World()
        await silent(world)
        asking = asyncio.create_task(ask_fails(world, 60))
        await asyncio.sleep(0.1)
        await world.cluster.close()
        told = await asking
        assert isinstance(told, RpcClientError)
        assert told.cause == "the client was closed"
        assert now() < 0.3

    run(main())


def test_a_clock_that_jumps_changes_no_timeout() -> None:
    async def main() -> None:
        world = await World.hosted()
        asking = asyncio.create_task(ask_fails(world, 5))
        await asyncio.sleep(1)
        step(world, 10**9)
        assert isinstance(await asking, SendTimeout)
        assert now() == pytest.approx(5)

    run(main())
