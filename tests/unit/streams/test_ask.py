"""An ask's whole way against a stand-in owner, on virtual time."""

from __future__ import annotations

import asyncio
import itertools
import logging
from typing import Any

import msgspec
import pytest

from perdure import (
    AlreadyProcessingMessage,
    ClusterError,
    EntityNotAssignedToRunner,
    MailboxFull,
    PersistenceError,
    RpcClientError,
    RunnerNotRegistered,
    RunnerUnavailable,
    SendTimeout,
    SerializationError,
    Suspended,
)
from perdure.streams.asks import Answer, encode_answer, raw
from perdure.streams.subjects import Sharding
from tests.bank import Account, Balance, Deposit, GetBalance, InsufficientFunds, Withdraw
from tests.unit.streams.owner import Asked, World, error, failure, reply, script
from tests.unit.streams.virtual import EPOCH_NS, run

FIVE = Balance(5)


async def fails(world: World, **how: Any) -> ClusterError:
    with pytest.raises(ClusterError) as caught:
        await world.cluster.at(Account, "a-1").ask(Deposit(5), **how)
    assert caught.value.address == "account/a-1"
    assert caught.value.request_id is not None
    assert caught.value.request_id.startswith("r-")
    return caught.value


def now() -> float:
    return asyncio.get_running_loop().time()


# -- what is sent -----------------------------------------------------------------------------
def test_a_reply_comes_back_typed_and_the_envelope_says_what_was_asked() -> None:
    async def main() -> None:
        world = await World.hosted(reply(FIVE))
        got = await world.cluster.at(Account, "a/1").ask(Deposit(5), key="order-17")
        assert got == FIVE
        (asked,) = world.owner.asked
        envelope = asked.envelope
        assert msgspec.json.decode(envelope.payload) == {"type": "deposit", "cents": 5}
        assert (envelope.v, envelope.kind, envelope.key) == (1, "ask", "order-17")
        assert envelope.birth is None
        assert envelope.after is None
        assert (envelope.request or "").startswith("r-")
        shard = world.owner.sharding.shard("a=2F1")
        assert asked.subject == f"perdure.ask.account.3.{shard}.a=2F1"
        assert asked.reply.startswith("_INBOX.")

    run(main())


def test_a_made_key_carries_its_birth_in_the_runners_time() -> None:
    async def main() -> None:
        world = World(wrong_ms=-3_600_000)  # the caller's clock is an hour late
        await world.session.provision("account")
        await world.owner.start()
        world.owner.says = script(reply(FIVE))
        await world.cluster.at(Account, "a-1").ask(Deposit(5))
        envelope = world.owner.asked[0].envelope
        assert envelope.birth == EPOCH_NS // 1_000_000
        assert (envelope.key or "").startswith(f"m-{envelope.birth}-")

    run(main())


def test_every_call_has_another_key_and_another_request() -> None:
    async def main() -> None:
        world = await World.hosted(reply(FIVE))
        a1 = world.cluster.at(Account, "a-1")
        await asyncio.gather(*(a1.ask(Deposit(5)) for _ in range(50)))
        envelopes = [asked.envelope for asked in world.owner.asked]
        assert len({e.key for e in envelopes}) == 50
        assert len({e.request for e in envelopes}) == 50
        assert world.owner.infos == 1

    run(main())


def test_a_key_told_in_an_error_keeps_its_birth_when_it_is_used_again() -> None:
    async def main() -> None:
        world = await World.hosted()
        told = await fails(world, timeout=1)
        assert isinstance(told, SendTimeout)
        first = world.owner.asked[0].envelope
        assert told.key == first.key is not None
        await asyncio.sleep(3600)
        world.owner.says = script(reply(FIVE))
        await world.cluster.at(Account, "a-1").ask(Deposit(5), key=told.key)
        again = world.owner.asked[-1].envelope
        assert (again.key, again.birth) == (first.key, first.birth)

    run(main())


# -- repeats ----------------------------------------------------------------------------------
def test_it_repeats_with_the_same_key_at_growing_distances_from_one_inbox() -> None:
    async def main() -> None:
        world = await World.hosted(script(None, None, None, reply(FIVE)))
        assert await world.cluster.at(Account, "a-1").ask(Deposit(5)) == FIVE
        asked = world.owner.asked
        assert len({(a.envelope.key, a.envelope.birth, a.envelope.request) for a in asked}) == 1
        assert [a.reply.rpartition(".")[2] for a in asked] == ["1", "2", "3", "4"]
        assert len({a.reply.rpartition(".")[0] for a in asked}) == 1
        gaps = [b.at - a.at for a, b in itertools.pairwise(asked)]
        for gap, expected in zip(gaps, (0.25, 0.425, 0.7225), strict=True):
            assert expected * 0.89 < gap < expected * 1.11

    run(main())


def test_an_outcome_of_an_old_attempt_wins() -> None:
    async def main() -> None:
        world = await World.hosted()

        def says(n: int, asked: Asked) -> bytes | None:
            if n == 3:
                world.owner.answer(1, reply(FIVE))
                return error(PersistenceError())
            return None

        world.owner.says = says
        assert await world.cluster.at(Account, "a-1").ask(Deposit(5)) == FIVE

    run(main())


def test_an_error_of_an_old_attempt_does_not_count() -> None:
    async def main() -> None:
        world = await World.hosted()

        def says(n: int, asked: Asked) -> bytes | None:
            if n == 2:
                world.owner.answer(1, error(PersistenceError()))
            return reply(FIVE) if n == 3 else None

        world.owner.says = says
        assert await world.cluster.at(Account, "a-1").ask(Deposit(5)) == FIVE

    run(main())


def test_a_recorded_verdict_counts_from_any_attempt_and_says_what_it_knows() -> None:
    async def main() -> None:
        world = await World.hosted()
        verdict = error(RpcClientError(cause="defect", may_have_taken_effect=False), seq=7)

        def says(n: int, asked: Asked) -> bytes | None:
            if n == 2:
                world.owner.answer(1, verdict)
            return None

        world.owner.says = says
        told = await fails(world)
        assert isinstance(told, RpcClientError)
        assert told.cause == "defect"
        assert not told.may_have_taken_effect

    run(main())


def test_a_busy_owner_is_waited_for() -> None:
    async def main() -> None:
        busy = error(AlreadyProcessingMessage())
        world = await World.hosted(script(None, busy, busy, reply(FIVE)))
        assert await world.cluster.at(Account, "a-1").ask(Deposit(5)) == FIVE

    run(main())


def test_what_no_attempt_sent_is_ignored() -> None:
    async def main() -> None:
        world = await World.hosted()

        def says(n: int, asked: Asked) -> bytes | None:
            inbox = asked.reply.rpartition(".")[0]
            for suffix in ("0", "99", "x", "-1", "\N{SUPERSCRIPT TWO}"):
                stray = reply(Balance(666))
                if suffix != "0":
                    world.owner.session.asks.send(f"{inbox}.{suffix}", stray)
            return reply(FIVE)

        world.owner.says = says
        assert await world.cluster.at(Account, "a-1").ask(Deposit(5)) == FIVE

    run(main())


# -- outcomes ---------------------------------------------------------------------------------
def test_a_failure_is_raised_by_ask_and_returned_by_outcome() -> None:
    async def main() -> None:
        world = await World.hosted(failure(InsufficientFunds(3, 5)))
        a1 = world.cluster.at(Account, "a-1")
        with pytest.raises(InsufficientFunds) as caught:
            await a1.ask(Withdraw(5))
        assert caught.value == InsufficientFunds(3, 5)
        assert await a1.outcome(Withdraw(5)) == InsufficientFunds(3, 5)

    run(main())


@pytest.mark.parametrize(
    "answer",
    [
        encode_answer(Answer(failure=raw({"type": "insufficient_funds", "balance": 1}))),
        encode_answer(Answer(failure=raw({"type": "bankrupt"}))),
        encode_answer(Answer(failure=raw([1]))),
        encode_answer(Answer(reply=raw("five"))),
        encode_answer(Answer(reply=raw({"type": "balance"}))),
        encode_answer(Answer(error=raw({"type": "Twelfth"}))),
        b"",
        b"{}",
        b"\xff\xfe",
        b'{"reply": 1, "failure": 2}',
        b'{"reply":' + b"[" * 100_000,
    ],
    ids=range(11),
)
def test_an_answer_that_cant_be_read_is_a_serialization_error(answer: bytes) -> None:
    async def main() -> None:
        world = await World.hosted(answer)
        a1 = world.cluster.at(Account, "a-1")
        with pytest.raises(SerializationError) as caught:
            await a1.ask(Withdraw(5), key="k")
        assert caught.value.may_have_taken_effect
        assert caught.value.key == "k"
        assert caught.value.cause
        with pytest.raises(SerializationError) as caught:
            await a1.query(GetBalance())
        assert not caught.value.may_have_taken_effect

    run(main())


def test_the_runners_errors_are_told_with_the_calls_names() -> None:
    async def main() -> None:
        said = PersistenceError(cause="disk full", request_id="another", address="x/y")
        world = await World.hosted(error(said))
        told = await fails(world, key="k")
        assert isinstance(told, PersistenceError)
        assert (told.cause, told.key) == ("disk full", "k")
        assert told.request_id == world.owner.asked[0].envelope.request

    run(main())


def test_who_has_no_key_is_not_told_to_use_it_again() -> None:
    async def main() -> None:
        world = await World.hosted(error(PersistenceError(cause="disk full")))
        a1 = world.cluster.at(Account, "a-1")
        with pytest.raises(PersistenceError) as caught:
            await a1.query(GetBalance())
        assert (caught.value.key, caught.value.advice) == (None, "retry")
        told = await fails(world)  # a command has the key that its client made
        assert told.key is not None
        assert told.advice == "retry with the same key"

    run(main())


def test_mailbox_full_is_tried_three_times() -> None:
    async def main() -> None:
        world = await World.hosted(error(MailboxFull(capacity=100)))
        told = await fails(world)
        assert isinstance(told, MailboxFull)
        assert told.capacity == 100
        assert told.may_have_taken_effect
        assert len(world.owner.asked) == 3
        assert now() <= 0.1

    run(main())


def test_suspended_is_waited_for_or_raised() -> None:
    async def main() -> None:
        waits = error(Suspended(waits_for=("approval",)))
        world = await World.hosted(script(waits, waits, reply(FIVE)))
        a1 = world.cluster.at(Account, "a-1")
        assert await a1.ask(Deposit(5)) == FIVE
        world.owner.says = script(waits)
        told = await fails(world, on_suspend="raise")
        assert isinstance(told, Suspended)
        told = await fails(world, timeout=2)
        assert isinstance(told, Suspended)
        assert told.waits_for == ("approval",)

    run(main())


# -- finding the owner ------------------------------------------------------------------------
def test_a_resharded_type_is_found_again() -> None:
    async def main() -> None:
        world = await World.hosted(reply(FIVE))
        a1 = world.cluster.at(Account, "a-1")
        await a1.ask(Deposit(5))
        await world.owner.stop()
        world.owner.sharding = Sharding(4, 8)
        await world.owner.start()
        assert await a1.ask(Deposit(5)) == FIVE
        assert world.owner.asked[-1].subject.startswith("perdure.ask.account.4.")
        assert now() < 0.1

    run(main())


def test_a_runner_that_isnt_the_owner_makes_it_ask_where_to_send() -> None:
    async def main() -> None:
        elsewhere = error(EntityNotAssignedToRunner(runner="r1"))
        world = await World.hosted(script(elsewhere, None, None, reply(FIVE)))
        assert await world.cluster.at(Account, "a-1").ask(Deposit(5)) == FIVE
        assert len(world.owner.asked) == 4
        assert world.owner.infos == 2  # once, and not again with each repeat
        world.owner.says = script(elsewhere)
        told = await fails(world, timeout=1)
        assert isinstance(told, EntityNotAssignedToRunner)
        assert told.runner == "r1"
        assert told.may_have_taken_effect

    run(main())


def test_an_owner_that_comes_back_is_found_within_a_quarter_of_a_second() -> None:
    async def main() -> None:
        world = await World.hosted(reply(FIVE))
        a1 = world.cluster.at(Account, "a-1")
        await a1.ask(Deposit(5))
        await world.owner.stop()
        waiting = asyncio.create_task(a1.ask(Deposit(5)))
        await asyncio.sleep(10)
        back = now()
        await world.owner.start()
        assert await waiting == FIVE
        assert now() - back < 0.3

    run(main())


def test_a_type_that_nobody_hosts() -> None:
    async def main() -> None:
        world = World()
        told = await fails(world)
        assert isinstance(told, RunnerNotRegistered)
        assert told.entity == "account"
        assert told.key is None
        assert not told.may_have_taken_effect
        assert now() < 0.2

    run(main())


def test_a_type_that_begins_to_be_hosted_just_now() -> None:
    async def main() -> None:
        world = World()
        world.owner.says = script(reply(FIVE))
        waiting = asyncio.create_task(world.cluster.at(Account, "a-1").ask(Deposit(5)))
        await asyncio.sleep(0.04)
        await world.owner.start()
        assert await waiting == FIVE

    run(main())


def test_a_type_that_was_hosted_once() -> None:
    async def main() -> None:
        world = await World.hosted(reply(FIVE))
        await world.cluster.at(Account, "a-1").ask(Deposit(5))
        await world.owner.stop()
        told = await fails(world, timeout=5)
        assert isinstance(told, RunnerUnavailable)
        assert not told.may_have_taken_effect
        assert now() == pytest.approx(5, abs=0.01)

    run(main())


def test_a_command_that_kills_its_owners_is_given_up() -> None:
    async def main() -> None:
        world = await World.hosted()
        tasks: list[asyncio.Task[None]] = []

        async def restart() -> None:
            await world.owner.stop()
            await asyncio.sleep(1)
            await world.owner.start()

        def says(n: int, asked: Asked) -> bytes | None:
            tasks.append(asyncio.create_task(restart()))
            return None

        world.owner.says = says
        told = await fails(world)
        assert isinstance(told, RunnerUnavailable)
        assert told.may_have_taken_effect
        assert len(world.owner.asked) == 3
        await asyncio.gather(*tasks)

    run(main())


@pytest.mark.parametrize("wrong", ["order", ""])
def test_a_wrong_answer_to_info_is_a_serialization_error(wrong: str) -> None:
    async def main() -> None:
        world = await World.hosted(reply(FIVE))
        world.owner.info_entity = wrong
        told = await fails(world)
        assert isinstance(told, SerializationError)
        assert not told.may_have_taken_effect

    run(main())


# -- time and connection ----------------------------------------------------------------------
@pytest.mark.parametrize("timeout_s", [0.1, 2.0, 30.0, 600.0])
def test_silence_ends_at_the_timeout(timeout_s: float) -> None:
    async def main() -> None:
        world = await World.hosted()
        told = await fails(world, timeout=timeout_s)
        assert isinstance(told, SendTimeout)
        assert told.after_s == timeout_s
        assert told.may_have_taken_effect
        assert now() == pytest.approx(timeout_s, abs=0.01)

    run(main())


def test_without_time_nothing_is_sent() -> None:
    async def main() -> None:
        world = await World.hosted(reply(FIVE))
        told = await fails(world, timeout=0)
        assert isinstance(told, SendTimeout)
        assert not told.may_have_taken_effect
        assert world.owner.asked == []

    run(main())


def test_a_connection_that_comes_back_is_used() -> None:
    async def main() -> None:
        world = await World.hosted(reply(FIVE))
        a1 = world.cluster.at(Account, "a-1")
        await a1.ask(Deposit(5))
        world.broker.disconnect(world.session, reconnect=False)
        waiting = asyncio.create_task(a1.ask(Deposit(5)))
        await asyncio.sleep(5)
        assert len(world.owner.asked) == 1
        world.broker.reconnect(world.session)
        assert await waiting == FIVE
        assert now() < 5.1

    run(main())


def test_a_connection_that_stays_away() -> None:
    async def main() -> None:
        world = await World.hosted()
        a1 = world.cluster.at(Account, "a-1")
        world.broker.disconnect(world.session, reconnect=False)
        told = await fails(world, timeout=1)
        assert isinstance(told, RpcClientError)
        assert not told.may_have_taken_effect
        world.broker.reconnect(world.session)
        waiting = asyncio.create_task(a1.ask(Deposit(5), timeout=1))
        await asyncio.sleep(0.1)
        world.broker.disconnect(world.session, reconnect=False)
        with pytest.raises(RpcClientError) as caught:
            await waiting
        assert caught.value.may_have_taken_effect

    run(main())


def test_closing_ends_what_waits() -> None:
    async def main() -> None:
        world = await World.hosted()
        waiting = asyncio.create_task(world.cluster.at(Account, "a-1").ask(Deposit(5)))
        await asyncio.sleep(1)
        await world.cluster.close()
        with pytest.raises(RpcClientError) as caught:
            await waiting
        assert caught.value.cause == "the client was closed"
        assert caught.value.may_have_taken_effect
        told = await fails(world)
        assert isinstance(told, RpcClientError)
        assert not told.may_have_taken_effect
        assert now() == 1

    run(main())


def test_a_cancelled_call_leaves_nothing_behind() -> None:
    async def main() -> None:
        world = await World.hosted()
        listeners = len(world.broker.core)
        waiting = asyncio.create_task(world.cluster.at(Account, "a-1").ask(Deposit(5)))
        await asyncio.sleep(1)
        assert len(world.broker.core) > listeners
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert len(world.broker.core) == listeners
        assert "0 calls open" in repr(world.cluster)

    run(main())


def test_one_of_many_waiting_for_a_route_may_be_cancelled() -> None:
    async def main() -> None:
        world = await World.hosted(reply(FIVE))
        a1 = world.cluster.at(Account, "a-1")
        first, second = (asyncio.create_task(a1.ask(Deposit(5))) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        assert await second == FIVE
        assert first.cancelled() or first.cancelling()

    run(main())


# -- logs -------------------------------------------------------------------------------------
def test_repeats_and_failures_are_logged_with_stable_actions(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        world = await World.hosted()
        with caplog.at_level(logging.DEBUG, "perdure.client"):
            told = await fails(world, timeout=1)
        actions = [str(getattr(r, "action", None)) for r in caplog.records]
        assert actions[0] == "route.learnt"
        assert set(actions[1:-1]) == {"call.repeated"}
        assert actions[-1] == "call.failed"
        assert getattr(caplog.records[-1], "request_id", None) == told.request_id

    run(main())
