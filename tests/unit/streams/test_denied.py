"""What a caller says where the server lets its login not ask: no more than is certain."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure import (
    ClusterError,
    EntityNotAssignedToRunner,
    RpcClientError,
    SendTimeout,
)
from perdure.streams.attempts import forbidden
from perdure.streams.port import DENIED, Forbidden, Message, Refused
from perdure.streams.subjects import Sharding
from tests.bank import Account, Balance, Deposit
from tests.unit.streams.owner import SHARDING, Asked, World, error, reply
from tests.unit.streams.test_attempts import (
    ASK,
    ATTACHED,
    MIDDLE,
    RESULT,
    STORED,
    after_sends,
    failed,
)
from tests.unit.streams.test_tell import Flaky, answer_tell
from tests.unit.streams.virtual import run

WHY = 'permissions violation for publish to "perdure.ask.account"'
FIVE = Balance(5)


def now() -> float:
    return asyncio.get_running_loop().time()


class Server:
    """Says what is certain to have been denied: all below some subjects, from some time on."""

    def __init__(self, world: World, denies: str = "perdure.ask.", *, after_s: float = 0) -> None:
        self.asked: list[tuple[str, float]] = []
        self._denies, self._begin = denies, now() + after_s
        asks: Any = world.session.asks
        asks.denied = self.denied

    def denied(self, subject: str, since: float) -> str | None:
        self.asked.append((subject, since))
        return WHY if subject.startswith(self._denies) and now() >= self._begin else None


def no_route(world: World) -> None:
    """This login may not ask how a type is cut."""
    asks: Any = world.session.asks

    async def refuse(subject: str, data: bytes, *, timeout_s: float) -> Message:
        raise Forbidden(WHY)

    asks.request = refuse


async def fails(world: World, **how: Any) -> ClusterError:
    with pytest.raises(ClusterError) as caught:
        await world.cluster.at(Account, "a-1").ask(Deposit(5), key="k", **how)
    return caught.value


def told(caught: ClusterError) -> tuple[type[ClusterError], str | None, bool, str]:
    return type(caught), caught.cause, caught.may_have_taken_effect, caught.advice


# -- asks -------------------------------------------------------------------------------------
def test_who_may_not_ask_is_told_at_the_first_repeat() -> None:
    async def main() -> None:
        world = await World.hosted()
        server = Server(world)
        assert told(await fails(world, timeout=60)) == (RpcClientError, WHY, False, "fix")
        assert now() == pytest.approx(0.25, rel=0.1)
        ((subject, since),) = server.asked
        assert subject == world.owner.asked[0].subject
        assert since == 0.0

    run(main())


def test_what_is_not_certain_is_waited_for() -> None:
    async def main() -> None:
        world = await World.hosted()
        server = Server(world, "perdure.other.")
        got = await fails(world, timeout=5)
        assert isinstance(got, SendTimeout)
        assert got.may_have_taken_effect
        assert now() == 5
        assert len(world.owner.asked) > 2
        assert set(server.asked) == {(world.owner.asked[0].subject, 0.0)}, "since the first"

    run(main())


def test_an_attempt_that_went_elsewhere_stays_open() -> None:
    """The first one went to the owner of an earlier generation: nothing is known of that."""

    async def main() -> None:
        world = World()
        recut = Sharding(SHARDING.generation + 1, SHARDING.shards)

        def says(number: int, asked: Asked) -> bytes | None:
            world.owner.sharding = recut
            return error(EntityNotAssignedToRunner(runner="r1")) if number == 1 else None

        world.owner.says = says
        await world.owner.start()
        world.owner.sharding = recut
        await world.owner.start_asks()
        world.owner.sharding = SHARDING
        Server(world, f"perdure.ask.account.{recut.generation}.")
        assert told(await fails(world, timeout=60)) == (RpcClientError, WHY, True, "fix")
        assert len(world.owner.asked) == 2

    run(main())


def test_only_attempts_that_nobody_got_are_closed() -> None:
    state = after_sends(3)
    assert failed(forbidden(state, ASK, WHY, MIDDLE)).may_have_taken_effect
    some = forbidden(state, ASK, WHY, MIDDLE, frozenset({2, 3}))
    assert failed(some).may_have_taken_effect
    everything = forbidden(state, ASK, WHY, MIDDLE, frozenset({1, 2, 3}))
    assert not failed(everything).may_have_taken_effect
    assert failed(forbidden(state, RESULT, WHY, MIDDLE)).may_have_taken_effect
    waits, action = forbidden(ATTACHED, STORED, WHY, MIDDLE, frozenset({1}))
    assert waits.open == {0}
    assert not hasattr(action, "error")


# -- stored commands --------------------------------------------------------------------------
@pytest.mark.parametrize("what", ["info", "ask"])
def test_a_stored_command_is_waited_for_whoever_may_not_ask(what: str) -> None:
    async def main() -> None:
        world = await World.hosted()
        if what == "info":
            no_route(world)
        else:
            Server(world)
        a1 = world.cluster.at(Account, "a-1")
        asked = asyncio.create_task(a1.ask(Deposit(5), durable=True, timeout=60))
        await asyncio.sleep(20)
        assert not asked.done()
        await answer_tell(world, 1, reply(FIVE))
        assert await asked == FIVE
        assert now() == pytest.approx(20, abs=0.1)

    run(main())


@pytest.mark.parametrize("what", ["info", "ask"])
def test_a_stored_command_without_an_outcome_may_have_its_effect(what: str) -> None:
    async def main() -> None:
        world = await World.hosted()
        if what == "info":
            no_route(world)
        else:
            Server(world)
        got = await fails(world, durable=True, timeout=30)
        assert told(got) == (RpcClientError, WHY, True, "fix")
        assert now() == 30
        assert len(await world.tells()) == 1

    run(main())


# -- tells ------------------------------------------------------------------------------------
def test_who_may_not_tell_is_told_what_to_allow() -> None:
    async def main() -> None:
        world = await World.hosted()
        Flaky(world, Refused(DENIED, WHY))
        with pytest.raises(ClusterError) as caught:
            await world.cluster.at(Account, "a-1").tell(Deposit(5))
        assert told(caught.value) == (RpcClientError, WHY, False, "fix")

    run(main())
