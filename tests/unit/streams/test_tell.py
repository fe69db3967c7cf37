"""Tells, asks that are stored first, queries, results and control messages, on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest

from perdure import (
    ClusterError,
    EntityStatus,
    IdempotencyKey,
    MailboxFull,
    MalformedMessage,
    PersistenceError,
    RpcClientError,
    RunnerNotRegistered,
    SendTimeout,
    SerializationError,
    Settings,
    Snowflake,
)
from perdure.entities.address import Address
from perdure.streams.asks import Envelope
from perdure.streams.attempts import NO_LEADER_S
from perdure.streams.client import Cluster
from perdure.streams.port import Full, NoAck, PublishAnswer, Refused
from tests.bank import Account, Balance, Deposit, GetBalance, InsufficientFunds, Withdraw
from tests.unit.streams.owner import Asked, World, error, failure, reply, script
from tests.unit.streams.virtual import EPOCH_NS, run

FIVE = Balance(5)


def now() -> float:
    return asyncio.get_running_loop().time()


class Flaky:
    """A command stream that answers as it is told to, then really stores."""

    def __init__(self, world: World, *answers: PublishAnswer) -> None:
        self._real: Any = world.session.commands
        self._answers = list(answers)
        self.tried: list[float] = []
        session: Any = world.session
        session.commands = self

    async def publish(
        self, address: Address, data: bytes, headers: Mapping[str, str] | None = None
    ) -> PublishAnswer:
        self.tried.append(now())
        if not self._answers:
            stored: PublishAnswer = await self._real.publish(address, data, headers)
            return stored
        answer = self._answers.pop(0)
        if isinstance(answer, NoAck):  # stored, and the acknowledgement is lost
            await self._real.publish(address, data, headers)
        return answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


# -- tell -------------------------------------------------------------------------------------
def test_a_tell_is_stored_under_its_key() -> None:
    async def main() -> None:
        world = await World.hosted()
        a1 = world.cluster.at(Account, "a-1")
        assert await a1.tell(Deposit(5), key="order-17") == "order-17"
        made = await a1.tell(Deposit(6))
        assert isinstance(made, IdempotencyKey)
        first, second = await world.tells()
        assert (first.kind, first.key, first.birth, first.reply_to) == (
            "tell",
            "order-17",
            None,
            None,
        )
        assert msgspec.json.decode(first.payload) == {"type": "deposit", "cents": 5}
        assert (first.request or "").startswith("r-")
        assert second.key == made
        assert second.birth is None
        assert world.owner.asked == []

    run(main())


def test_a_lost_acknowledgement_is_followed_by_the_same_tell() -> None:
    async def main() -> None:
        world = await World.hosted()
        flaky = Flaky(world, NoAck("lost"), NoAck("lost"))
        key = await world.cluster.at(Account, "a-1").tell(Deposit(5))
        assert {t.key for t in await world.tells()} == {key}
        assert len(flaky.tried) == 3
        assert now() <= 0.05 + 0.05 * 1.5

    run(main())


async def tell_fails(world: World) -> ClusterError:
    with pytest.raises(ClusterError) as caught:
        await world.cluster.at(Account, "a-1").tell(Deposit(5), key="k")
    assert (caught.value.address, caught.value.key) == ("account/a-1", "k")
    assert caught.value.request_id
    return caught.value


def test_a_tell_that_is_never_acknowledged() -> None:
    async def main() -> None:
        world = await World.hosted(settings=Settings(ask_timeout=9.0))
        flaky = Flaky(world, *[NoAck("lost")] * 100)
        told = await tell_fails(world)
        assert isinstance(told, SendTimeout)
        assert told.may_have_taken_effect
        assert now() == pytest.approx(9)
        assert 9 / NO_LEADER_S < len(flaky.tried) < 50, "often, and not in a hurry"

    run(main())


def test_a_full_mailbox_refuses_the_next_tell_and_no_neighbours() -> None:
    async def main() -> None:
        world = await World.hosted(settings=Settings(mailbox_capacity=3))
        a1, a2 = (world.cluster.at(Account, id) for id in ("a-1", "a-2"))
        for _ in range(3):
            await a1.tell(Deposit(5))
        told = await tell_fails(world)
        assert isinstance(told, MailboxFull)
        assert not told.may_have_taken_effect
        await a2.tell(Deposit(5))
        Flaky(world, NoAck("lost"), Full(), Full())
        told = await tell_fails(world)
        assert isinstance(told, MailboxFull)
        assert told.may_have_taken_effect

    run(main())


def test_a_type_that_was_never_hosted() -> None:
    async def main() -> None:
        told = await tell_fails(World())
        assert isinstance(told, RunnerNotRegistered)
        assert told.entity == "account"
        assert not told.may_have_taken_effect

    run(main())


def test_a_stream_that_refuses() -> None:
    async def main() -> None:
        world = await World.hosted()
        Flaky(world, Refused(10047, "insufficient storage"))
        told = await tell_fails(world)
        assert isinstance(told, PersistenceError)
        assert "10047" in (told.cause or "")
        assert not told.may_have_taken_effect

    run(main())


def test_a_tell_waits_for_the_connection_within_its_time() -> None:
    async def main() -> None:
        world = await World.hosted(settings=Settings(ask_timeout=5))
        a1 = world.cluster.at(Account, "a-1")
        world.broker.disconnect(world.session, reconnect=False)
        waiting = asyncio.create_task(a1.tell(Deposit(5)))
        await asyncio.sleep(3)
        world.broker.reconnect(world.session)
        await waiting
        assert now() < 3.1
        world.broker.disconnect(world.session, reconnect=False)
        told = await tell_fails(world)
        assert isinstance(told, RpcClientError)
        assert not told.may_have_taken_effect
        assert now() < 8.2

    run(main())


def test_closing_ends_a_tell_that_waits() -> None:
    async def main() -> None:
        world = await World.hosted()
        world.broker.disconnect(world.session, reconnect=False)
        waiting = asyncio.create_task(tell_fails(world))
        await asyncio.sleep(1)
        await world.cluster.close()
        told = await waiting
        assert isinstance(told, RpcClientError)
        assert told.cause == "the client was closed"
        assert isinstance(await tell_fails(world), RpcClientError)

    run(main())


def test_a_message_over_the_servers_limit_is_refused() -> None:
    async def main() -> None:
        world = World(max_payload=200)
        await world.session.provision("account")
        await world.owner.start()
        a1 = world.cluster.at(Account, "a-1")
        big = Deposit(10**190)
        for call in (a1.tell(big), a1.ask(big)):
            with pytest.raises(MalformedMessage, match="the server takes 200"):
                await call

    run(main())


# -- order across the two ways ------------------------------------------------------------------
def test_an_ask_comes_after_the_last_tell_to_the_same_entity() -> None:
    async def main() -> None:
        world = await World.hosted(reply(FIVE))
        a1, a2 = (world.cluster.at(Account, id) for id in ("a-1", "a-2"))
        await a1.tell(Deposit(5))
        await a1.tell(Deposit(5))
        await a2.tell(Deposit(5))
        for ref in (a1, a2, world.cluster.at(Account, "a-3")):
            await ref.ask(Deposit(5))
        assert [a.envelope.after for a in world.owner.asked] == [2, 3, None]

    run(main())


def test_once_an_address_was_forgotten_unknown_ones_are_asked_by_the_stream() -> None:
    async def main() -> None:
        world = await World.hosted(reply(FIVE), Settings(told_addresses=2))
        cluster = world.cluster
        for id in ("a-1", "a-2", "a-3"):
            await cluster.at(Account, id).tell(Deposit(5))
        await cluster.at(Account, "a-2").ask(Deposit(5))
        await cluster.at(Account, "a-3").ask(Deposit(5))
        assert [a.envelope.after for a in world.owner.asked] == [2, 3]
        assert [a.envelope.kind for a in world.owner.asked] == ["ask", "ask"]
        assert await cluster.at(Account, "a-1").ask(Deposit(5)) == FIVE
        assert [t.kind for t in await world.tells()] == ["tell"] * 4
        assert world.owner.asked[-1].envelope.kind == "result"
        await cluster.at(Account, "a-1").ask(Deposit(5))  # known again
        assert world.owner.asked[-1].envelope.after == 4

    run(main())


# -- asks that are stored before they run -------------------------------------------------------
async def answer_tell(world: World, number: int, data: bytes) -> Envelope:
    """Answer the nth stored tell, as its owner would."""
    while len(tells := await world.tells()) < number:
        continue  # each look is a turn of the loop
    reply_to = tells[number - 1].reply_to
    assert reply_to is not None
    world.owner.session.asks.send(reply_to, data)
    return tells[number - 1]


@pytest.mark.parametrize("settings", [Settings(), Settings(ask_via="stream")])
def test_a_stored_ask_gets_its_reply(settings: Settings) -> None:
    async def main() -> None:
        world = await World.hosted(settings=settings)
        a1 = world.cluster.at(Account, "a-1")
        durable = settings.ask_via == "core"
        asked = asyncio.create_task(a1.ask(Deposit(5), durable=durable))
        tell = await answer_tell(world, 1, reply(FIVE))
        assert await asked == FIVE
        assert tell.kind == "tell"
        assert tell.key is not None
        assert tell.birth is None
        assert world.owner.asked == []
        asked = asyncio.create_task(a1.ask(Deposit(5), durable=durable, key="k"))
        assert (await answer_tell(world, 2, reply(FIVE))).key == "k"
        assert await asked == FIVE

    run(main())


def test_a_stored_ask_gets_its_failure() -> None:
    async def main() -> None:
        world = await World.hosted()
        a1 = world.cluster.at(Account, "a-1")
        asked = asyncio.create_task(a1.outcome(Withdraw(5), durable=True))
        await answer_tell(world, 1, failure(InsufficientFunds(1, 5)))
        assert await asked == InsufficientFunds(1, 5)

    run(main())


def test_a_stored_ask_whose_reply_is_lost_looks_for_its_result() -> None:
    async def main() -> None:
        world = await World.hosted(script(None, reply(FIVE)))
        got = await world.cluster.at(Account, "a-1").ask(Deposit(5), durable=True, key="k")
        assert got == FIVE
        first, second = (a.envelope for a in world.owner.asked)
        assert (first.kind, first.key, second.kind) == ("result", "k", "result")
        assert first.deadline == EPOCH_NS // 1_000_000 + 30_000
        assert len(await world.tells()) == 1

    run(main())


def test_a_dead_letter_is_told_as_it_was_recorded() -> None:
    async def main() -> None:
        world = await World.hosted()
        a1 = world.cluster.at(Account, "a-1")
        asked = asyncio.create_task(a1.ask(Deposit(5), durable=True))
        verdict = RpcClientError(cause="defect: KeyError", may_have_taken_effect=False)
        await answer_tell(world, 1, error(verdict, seq=3))
        with pytest.raises(RpcClientError) as caught:
            await asked
        assert caught.value.cause == "defect: KeyError"
        assert not caught.value.may_have_taken_effect

    run(main())


def test_a_stored_ask_that_nobody_runs_may_still_take_effect() -> None:
    async def main() -> None:
        world = await World.hosted()
        await world.owner.stop()
        a1 = world.cluster.at(Account, "a-1")
        with pytest.raises(RunnerNotRegistered) as caught:
            await a1.ask(Deposit(5), durable=True)
        assert caught.value.may_have_taken_effect
        assert caught.value.key == (await world.tells())[0].key
        await world.owner.start()
        with pytest.raises(SendTimeout) as timed_out:
            await a1.ask(Deposit(5), durable=True, timeout=10)
        assert timed_out.value.may_have_taken_effect
        assert timed_out.value.after_s == 10
        assert now() == pytest.approx(40, abs=0.01)

    run(main())


def test_closing_ends_a_stored_ask_that_waits() -> None:
    async def main() -> None:
        world = await World.hosted()
        a1 = world.cluster.at(Account, "a-1")
        asked = asyncio.create_task(a1.ask(Deposit(5), durable=True))
        await asyncio.sleep(1)
        await world.cluster.close()
        with pytest.raises(RpcClientError) as caught:
            await asked
        assert caught.value.may_have_taken_effect

    run(main())


def test_a_stored_ask_to_a_full_mailbox() -> None:
    async def main() -> None:
        world = await World.hosted()
        Flaky(world, Full(), Full(), Full())
        with pytest.raises(MailboxFull) as caught:
            await world.cluster.at(Account, "a-1").ask(Deposit(5), durable=True)
        assert not caught.value.may_have_taken_effect

    run(main())


# -- queries ----------------------------------------------------------------------------------
def test_a_query_carries_what_was_seen_and_no_name() -> None:
    async def main() -> None:
        world = await World.hosted(script(reply(FIVE, 7), reply(FIVE, 3), reply(FIVE)))
        a1 = world.cluster.at(Account, "a-1")
        assert await a1.query(GetBalance()) == FIVE
        await a1.ask(Deposit(5))
        await a1.query(GetBalance(), fresh=True)
        await world.cluster.at(Account, "a-2").query(GetBalance())
        first, _, third, other = (a.envelope for a in world.owner.asked)
        assert (first.kind, first.key, first.birth) == ("ask", None, None)
        assert (first.seen, first.fresh) == (None, False)
        assert (third.seen, third.fresh) == (7, True)
        assert (other.seen, other.fresh) == (None, False)

    run(main())


def test_once_a_sight_was_forgotten_unknown_addresses_are_read_fresh() -> None:
    async def main() -> None:
        world = await World.hosted(reply(FIVE, 7), Settings(told_addresses=2))
        for id in ("a-1", "a-2", "a-3", "a-1", "a-3"):
            await world.cluster.at(Account, id).query(GetBalance())
        fresh = [(a.envelope.seen, a.envelope.fresh) for a in world.owner.asked]
        assert fresh == [(None, False)] * 3 + [(None, True), (7, False)]

    run(main())


def test_the_same_holds_for_status_and_state() -> None:
    async def main() -> None:
        said = {"ask": FIVE, "status": STATUS, "state": Account(7, 1)}
        world = await World.hosted(
            lambda n, asked: reply(said[asked.envelope.kind], n), Settings(told_addresses=1)
        )
        a1, a2 = (world.cluster.at(Account, id) for id in ("a-1", "a-2"))
        await a1.query(GetBalance())
        await a2.query(GetBalance())
        await a1.status()
        await a1.state()
        await a2.state()
        known = [(a.envelope.seen, a.envelope.fresh) for a in world.owner.asked[2:]]
        assert known == [(None, True), (3, False), (None, True)]

    run(main())


def test_a_query_is_repeated_and_never_has_an_effect() -> None:
    async def main() -> None:
        world = await World.hosted(script(None, reply(FIVE)))
        a1 = world.cluster.at(Account, "a-1")
        assert await a1.query(GetBalance()) == FIVE
        world.owner.says = script(None)
        calls = a1.query(GetBalance(), timeout=1), a1.status(timeout=1), a1.state(timeout=1)
        for call in calls:
            with pytest.raises(SendTimeout) as caught:
                await call
            assert caught.value.after_s == 1
            assert not caught.value.may_have_taken_effect

    run(main())


def test_a_command_is_no_query() -> None:
    async def main() -> None:
        world = await World.hosted(reply(FIVE))
        a1: Any = world.cluster.at(Account, "a-1")
        with pytest.raises(MalformedMessage, match="takes a Query"):
            await a1.query(Deposit(5))
        with pytest.raises(MalformedMessage, match="query"):
            await a1.result(GetBalance, "k")

    run(main())


# -- results and control ------------------------------------------------------------------------
def test_a_result_waits_at_the_owner_up_to_the_timeout() -> None:
    async def main() -> None:
        world = World(wrong_ms=60_000)
        await world.session.provision("account")
        await world.owner.start()
        world.owner.says = script(None, reply(FIVE))
        assert await world.cluster.at(Account, "a-1").result(Deposit, "k", timeout=9) == FIVE
        envelope = world.owner.asked[0].envelope
        assert (envelope.kind, envelope.key, bytes(envelope.payload)) == ("result", "k", b"null")
        assert envelope.deadline == EPOCH_NS // 1_000_000 + 9_000
        assert envelope.birth is None

    run(main())


def test_a_result_raises_what_an_ask_would() -> None:
    async def main() -> None:
        world = await World.hosted(failure(InsufficientFunds(1, 5)))
        a1 = world.cluster.at(Account, "a-1")
        with pytest.raises(InsufficientFunds):
            await a1.result(Withdraw, "k")
        world.owner.says = script(error(SendTimeout(cause="unknown")))
        with pytest.raises(SendTimeout) as caught:
            await a1.result(Withdraw, "k")
        assert caught.value.key == "k"
        assert caught.value.may_have_taken_effect

    run(main())


STATUS = {
    "status": "processing",
    "updated_at": "2026-11-24T10:00:00Z",
    "version": 3,
    "runner": "r1",
}


def test_status_and_whether_the_owner_is_here() -> None:
    async def main() -> None:
        world = await World.hosted(reply(STATUS))
        a1 = world.cluster.at(Account, "a-1")
        at = datetime(2026, 11, 24, 10, tzinfo=UTC)
        assert await a1.status() == EntityStatus("processing", at, 3)
        assert type(await a1.status()) is EntityStatus
        asked = len(world.owner.asked)
        assert not await a1.is_local()
        assert len(world.owner.asked) == asked  # a mere client need not ask
        for runner, local in (("r1", True), ("r2", False)):
            beside = Cluster(world.session, world.settings, runner_id=runner)
            assert beside.runner_id == runner
            assert await beside.at(Account, "a-1").is_local() is local
        world.owner.says = script(reply({"status": "dancing"}))
        with pytest.raises(SerializationError):
            await a1.status()

    run(main())


def test_state_now_at_a_version_and_at_a_time() -> None:
    async def main() -> None:
        world = await World.hosted(reply(Account(7, 1)))
        a1 = world.cluster.at(Account, "a-1")
        assert await a1.state() == Account(7, 1)
        await a1.state(version=3)
        await a1.state(time=datetime(2026, 1, 2, 3, tzinfo=timezone(timedelta(hours=1))))
        payloads = [msgspec.json.decode(a.envelope.payload) for a in world.owner.asked]
        assert payloads == [None, {"version": 3}, {"time": "2026-01-02T03:00:00+01:00"}]
        assert {a.envelope.kind for a in world.owner.asked} == {"state"}
        world.owner.says = script(reply({"type": "order"}))
        with pytest.raises(SerializationError):
            await a1.state()

    run(main())


@pytest.mark.parametrize(
    "past",
    [
        {"version": -1},
        {"version": "1"},
        {"version": True},
        {"time": datetime(2026, 1, 2)},
        {"time": "2026-01-02T03:00:00Z"},
        {"version": 1, "time": datetime(2026, 1, 2, tzinfo=UTC)},
    ],
)
def test_a_past_that_cant_be_one(past: Any) -> None:
    async def main() -> None:
        world = await World.hosted(reply(Account()))
        with pytest.raises(MalformedMessage, match="state"):
            await world.cluster.at(Account, "a-1").state(**past)
        assert world.owner.asked == []

    run(main())


# -- references -------------------------------------------------------------------------------
def test_a_reference_says_which_entity() -> None:
    async def main() -> None:
        world = World()
        ref = world.cluster.at(Account, "a-1")
        assert ref.address == Address("account", "a-1")
        assert repr(ref) == "<Ref account/a-1>"
        assert world.cluster.at(Account, Snowflake(7)).address == Address("account", "7")
        assert world.cluster.runner_id is None

    run(main())


def test_what_a_client_keeps_does_not_grow_with_its_calls() -> None:
    async def main() -> None:
        world = await World.hosted(reply(FIVE, 1))
        a1 = world.cluster.at(Account, "a-1")
        await a1.ask(Deposit(5))
        listeners = len(world.broker.core)
        for _ in range(100):
            await a1.ask(Deposit(5))
        assert len(world.broker.core) == listeners
        assert "0 calls open" in repr(world.cluster)

    run(main())


def test_an_owner_that_asks_in_return() -> None:
    """One inbox for each call: answers to two calls at once don't mix."""

    async def main() -> None:
        world = await World.hosted()
        held: list[Asked] = []

        def says(n: int, asked: Asked) -> bytes | None:
            held.append(asked)
            if len(held) == 2:
                for index, one in enumerate(held):
                    world.owner.session.asks.send(one.reply, reply(Balance(index)))
            return None

        world.owner.says = says
        a1 = world.cluster.at(Account, "a-1")
        got = await asyncio.gather(a1.ask(Deposit(0)), a1.ask(Deposit(1)))
        assert list(got) == [Balance(0), Balance(1)]

    run(main())
