"""A log that lost its tail, as on a disk that was not synced: reported, and never folded over."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from msgspec import structs

from perdure import Command, Decision, Entity, Event, Query, State
from perdure.durable.phase import Cold
from perdure.durable.recovery import recover
from perdure.entities.address import Address
from perdure.streams.commit import Damaged, seal
from perdure.streams.memory.logs import LogStore

from .world import World, world


class Tally(State):
    n: int = 0


class More(Command[Tally, int]):
    pass


class Count(Query[Tally, int]):
    pass


class Counted(Event):
    pass


def decide(state: Tally, message: More | Count) -> Decision[Counted]:
    match message:
        case Count():
            return message.answer(state.n)
        case More():
            return message.accept(state.n + 1, Counted())


def evolve(state: Tally, event: Counted) -> Tally:
    return Tally(state.n + 1)


tally = Entity(Tally(), decide, evolve)

MORE, COUNT = {"type": "more"}, {"type": "count"}


def log_of(w: World) -> LogStore:
    return w.broker.streams("perdure").logs["tally"]


async def commit_of_another(w: World) -> str:
    """Somebody else's commit in the place of the one that is lost; its mark."""
    last = (await w.commits("t"))[-1]
    before = log_of(w).last("t")
    assert before is not None
    assert before.mark is not None
    sealed = seal(structs.replace(last, id="another", prev=before.mark, outcomes=()))
    log_of(w).append("t", sealed.data, sealed.mark, 0, expected=before.sequence)
    return sealed.mark


def reported(caplog: pytest.LogCaptureFixture) -> bool:
    return "log.rewound" in {getattr(record, "action", "") for record in caplog.records}


async def reconnected(w: World, caplog: pytest.LogCaptureFixture) -> None:
    """Until the runner knows of its new connection."""
    caplog.set_level(logging.DEBUG, "perdure")
    w.broker.disconnect(w.runners[0][1])
    await w.until(lambda: any("reconnected" in r.getMessage() for r in caplog.records))


async def asked(w: World, message: dict[str, str]) -> Any:
    return (await w.ask("t", message))["reply"]


@pytest.mark.parametrize("keep", [0, 1, 2])
async def test_what_is_lost_is_reported_and_not_decided_on(
    keep: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where nothing else tells than the refused append."""
    async with world(tally) as w:
        assert [await asked(w, MORE) for _ in range(3)] == [1, 2, 3]
        log_of(w).rewind(keep)
        assert await asked(w, MORE) == keep + 1
        assert reported(caplog)
        assert await asked(w, COUNT) == keep + 1


async def test_a_sequence_that_was_given_out_again_is_told_apart(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After a reconnect: the append's condition, a number, would hold."""
    async with world(tally) as w:
        assert [await asked(w, MORE) for _ in range(3)] == [1, 2, 3]
        log_of(w).rewind(2)
        mark = await commit_of_another(w)
        await reconnected(w, caplog)
        assert await asked(w, COUNT) == 2
        assert await asked(w, MORE) == 3
        assert (await w.commits("t"))[-1].prev == mark
        assert reported(caplog)


async def test_a_reconnect_alone_costs_one_question_an_entity(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with world(tally) as w:
        assert await asked(w, MORE) == 1
        await reconnected(w, caplog)
        assert await asked(w, COUNT) == 1
        assert await asked(w, MORE) == 2
        assert not reported(caplog)


async def test_what_another_log_lacks_quarantines_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A record is looked for, and meanwhile the connection is another one: fold again first."""
    async with world(tally) as w:
        assert await asked(w, MORE) == 1
        hosted = w.runners[0][0]._hosted[0]  # pyright: ignore[reportPrivateUsage]
        (entity,) = (a for shard in hosted.shards for a in shard.activations.values())
        entity.refold("a test")
        assert await asked(w, MORE) == 2  # folded from its start, so the next doubt is the last
        await reconnected(w, caplog)
        entity.distrust("the recorded outcome isn't there")
        assert isinstance(entity.phase, Cold)
        assert await asked(w, MORE) == 3


async def result_of(w: World, key: str) -> Any:
    """What the owner says of a key's outcome, within the time of one look."""
    deadline = w.runners[0][1].clock.now_ns() // 1_000_000
    return await w.ask("t", [1, "result", None, key, None, None, None, deadline])


async def test_a_lost_outcome_is_not_told_after_a_refused_append() -> None:
    """Answers are kept to spare a read of the log: not beyond the log that they are of."""
    async with world(tally) as w:
        for key in ("k1", "k2", "k3"):
            await w.ask("t", MORE, key=key)
        log_of(w).rewind(1)
        assert (await w.ask("t", MORE, key="k4"))["reply"] == 2
        assert (await result_of(w, "k3"))["error"]["type"] == "SendTimeout"
        assert (await result_of(w, "k4"))["reply"] == 2


async def test_a_lost_outcome_is_not_told_where_the_log_grew_beyond_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The stream's sequences are everybody's: the entity's end may be higher than before."""
    async with world(tally) as w:
        for key in ("k1", "k2", "k3"):
            await w.ask("t", MORE, key=key)
        log_of(w).rewind(1)
        for n in range(5):
            await w.ask(f"other-{n}", MORE)
        await commit_of_another(w)
        await reconnected(w, caplog)
        assert (await result_of(w, "k3"))["error"]["type"] == "SendTimeout"
        assert await asked(w, COUNT) == 1


async def test_a_stream_that_came_back_on_the_same_connection_is_doubted() -> None:
    async with world(tally, shards=1) as w:
        assert [await asked(w, MORE) for _ in range(3)] == [1, 2, 3]
        log_of(w).rewind(1)
        hosted = w.runners[0][0]._hosted[0]  # pyright: ignore[reportPrivateUsage]
        (shard,) = hosted.shards
        assert shard.term is not None
        shard.term.end("restarted")
        await w.until(lambda: shard.term is not None and not shard.term.ended.done())
        assert await asked(w, COUNT) == 1


@pytest.mark.parametrize("during", ["a question to the leader", "a recovery"])
async def test_what_the_leader_said_before_a_restart_vouches_for_nothing(
    monkeypatch: pytest.MonkeyPatch, during: str
) -> None:
    async with world(tally, shards=1) as w:
        assert [await asked(w, MORE) for _ in range(3)] == [1, 2, 3]
        hosted = w.runners[0][0]._hosted[0]  # pyright: ignore[reportPrivateUsage]
        (shard,) = hosted.shards
        once = iter([True])

        async def restarted() -> None:
            if next(once, False):
                log_of(w).rewind(1)
                assert shard.term is not None
                shard.term.end("restarted")
                await w.until(lambda: shard.term is not None and not shard.term.ended.done())

        if during == "a recovery":
            w.runners[0][0].passivate_all()

            async def recovering(*args: Any, **more: Any) -> Any:
                folded = await recover(*args, **more)
                await restarted()
                return folded

            monkeypatch.setattr("perdure.durable.activation.recover", recovering)
        else:
            shard.host.restarts += 1  # so that it is asked
            log = w.runners[0][1].log
            last = log.last

            async def asking(address: Address) -> Any:
                found = await last(address)
                await restarted()
                return found

            monkeypatch.setattr(log, "last", asking)
        await asked(w, COUNT)  # which met the log of before
        assert next(once, None) is None
        assert await asked(w, COUNT) == 1


async def test_a_recovery_over_two_connections_quarantines_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its beginning may be of one log and its end of another."""
    torn = iter([True])

    async def over_two(session: Any, *args: Any, **more: Any) -> Any:
        if next(torn, False):
            w.broker.disconnect(session)
            raise Damaged("the hash chain is broken")
        return await recover(session, *args, **more)

    monkeypatch.setattr("perdure.durable.activation.recover", over_two)
    async with world(tally) as w:
        assert await asked(w, MORE) == 1
