"""Group commit: what goes into a batch, and what its answer means."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from perdure.durable.append import ANOTHER
from perdure.durable.chooser import CROWD, WINDOW_S
from perdure.durable.group import BATCH_BYTES, FEW, Flight, Group, Landed, each, take
from perdure.entities.address import Address
from perdure.streams.commit import Sealed
from perdure.streams.port import (
    BATCH_COMMITS,
    Append,
    AppendAnswer,
    Appended,
    NoAck,
    Refused,
    WrongLast,
)

from .logs import SilentLog
from .test_chooser import TRIAL_S


def address(id: str) -> Address:
    return Address("account", id)


class Gated(SilentLog):
    """A log whose batches wait until they are let go; it notes what it was given."""

    def __init__(self, answer: AppendAnswer | Exception | None = None) -> None:
        self.gate = asyncio.Event()
        self.answer = answer  # of batches; None: stored
        self.singles: list[str] = []
        self.batches: list[list[str]] = []
        self.sequence = 0

    async def append(self, address: Address, commit: Sealed, *, expected: int) -> AppendAnswer:
        self.singles.append(address.id)
        await self.gate.wait()
        self.sequence += 1
        return Appended(self.sequence)

    async def append_batch(self, appends: Sequence[Append]) -> AppendAnswer:
        self.batches.append([append.address.id for append in appends])
        await self.gate.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        if self.answer is not None:
            return self.answer
        self.sequence += len(appends)
        return Appended(self.sequence)


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def begin(group: Group, *ids: str) -> list[asyncio.Task[AppendAnswer]]:
    return [
        asyncio.create_task(group.append(address(id), Sealed(id, id.encode(), id), expected=0))
        for id in ids
    ]


async def test_what_arrives_while_a_batch_is_on_its_way_is_the_next_one() -> None:
    log = Gated()
    group = Group(log, "batch", lambda: 0)
    first = begin(group, "a", "b")
    await turns()
    rest = begin(group, "c", "d", "e")
    await turns()
    assert log.batches == [["a", "b"]]
    log.gate.set()
    answers = await asyncio.gather(*first, *rest)
    assert log.batches == [["a", "b"], ["c", "d", "e"]]
    assert answers == [Appended(n) for n in range(1, 6)]
    assert not log.singles
    assert group.statistics().batched == 5


async def test_one_alone_is_a_plain_append() -> None:
    log = Gated()
    log.gate.set()
    (one,) = begin(Group(log, "batch", lambda: 0), "a")
    assert await one == Appended(1)
    assert (log.singles, log.batches) == (["a"], [])


@pytest.mark.parametrize("answer", [WrongLast(), Refused(10210, "too many open batches")])
async def test_the_commits_of_a_refused_batch_go_alone(answer: AppendAnswer) -> None:
    log = Gated(answer)
    log.gate.set()
    group = Group(log, "batch", lambda: 0)
    assert await asyncio.gather(*begin(group, "a", "b")) == [Appended(1), Appended(2)]
    assert (log.batches, log.singles) == ([["a", "b"]], ["a", "b"])
    assert group.statistics().refused == 1


async def test_an_unknown_batch_is_not_published_again() -> None:
    log = Gated(NoAck("lost"))
    log.gate.set()
    assert (
        await asyncio.gather(*begin(Group(log, "batch", lambda: 0), "a", "b"))
        == [NoAck("lost")] * 2
    )
    assert log.singles == []


async def test_an_error_reaches_whoever_waits_and_the_next_batch_goes_on() -> None:
    log = Gated(ValueError("odd"))
    log.gate.set()
    group = Group(log, "batch", lambda: 0)
    found = await asyncio.gather(*begin(group, "a", "b"), return_exceptions=True)
    assert [type(error) for error in found] == [ValueError, ValueError]
    log.answer = None
    assert await asyncio.gather(*begin(group, "a", "b")) == [Appended(1), Appended(2)]


class Broken(Gated):
    """A log that fails before there is anything to wait for."""

    def append(self, address: Address, commit: Sealed, *, expected: int) -> Any:
        raise ValueError(address.id)


async def test_a_log_that_fails_at_once_is_told_later_and_leaves_nothing_behind() -> None:
    group, heard = Group(Broken(), "single", lambda: 0), list[Landed]()
    flight = group.send(Append(address("a"), Sealed("a", b"a", "a"), 0), heard.append)
    assert heard == []
    await turns()
    assert [str(error) for error in heard] == ["a"]
    assert flight.over
    assert group._under_way == 0  # pyright: ignore[reportPrivateUsage]


async def test_all_of_a_refused_batch_are_told_though_they_cant_go_alone() -> None:
    log = Broken(WrongLast())
    log.gate.set()
    found = await asyncio.gather(
        *begin(Group(log, "batch", lambda: 0), "a", "b", "c"), return_exceptions=True
    )
    assert [str(error) for error in found] == ["a", "b", "c"]


async def test_a_single_append_that_is_given_up_while_it_waits_is_not_sent() -> None:
    """As for room on the connection: a runner that lost a shard must write no more."""

    class Full(Gated):
        async def append(self, address: Address, commit: Sealed, *, expected: int) -> AppendAnswer:
            await self.gate.wait()
            return await super().append(address, commit, expected=expected)

    log, heard = Full(), list[Landed]()
    group = Group(log, "single", lambda: 0)
    flight = group.send(Append(address("a"), Sealed("a", b"a", "a"), 0), heard.append)
    (waiting,) = begin(group, "b")
    await turns()
    group.give_up(flight)
    waiting.cancel()
    await turns()
    log.gate.set()
    await turns()
    assert (log.singles, heard) == ([], [])
    assert group._under_way == 0  # pyright: ignore[reportPrivateUsage]


async def test_one_who_cant_take_its_answer_keeps_none_from_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = Gated()
    log.gate.set()
    group, heard = Group(log, "batch", lambda: 0), list[Landed]()

    def fail(landed: Landed) -> None:
        raise ZeroDivisionError

    for id, then in (("a", fail), ("b", heard.append), ("c", heard.append)):
        group.send(Append(address(id), Sealed(id, b"x", id), 0), then)
    await turns()
    assert heard == [Appended(2), Appended(3)]
    assert "nobody took what came of a commit of account/a" in caplog.text


async def test_what_was_given_up_before_its_batch_is_not_published() -> None:
    log = Gated()
    group = Group(log, "batch", lambda: 0)
    first = begin(group, "a", "b")
    await turns()
    dropped, kept = begin(group, "c", "d")
    await turns()
    dropped.cancel()
    log.gate.set()
    assert await kept == Appended(3)
    assert [await task for task in first] == [Appended(1), Appended(2)]
    assert log.singles == ["d"]


async def test_abandoned_it_publishes_nothing_more() -> None:
    log = Gated()
    group = Group(log, "batch", lambda: 0)
    tasks = begin(group, "a", "b", "c")
    await turns()
    more = begin(group, "d")
    await turns()
    await group.abandon()
    log.gate.set()
    await turns()
    assert (log.batches, log.singles) == ([["a", "b", "c"]], [])
    for task in (*tasks, *more):
        task.cancel()


async def test_after_the_crowd_left_a_few_go_alone() -> None:
    log = Gated()
    group = Group(log, "auto", lambda: 0)
    group.choose(batching=True)
    tasks = begin(group, *(str(n) for n in range(FEW + 2)))
    await turns()
    assert log.singles == [str(n) for n in range(FEW - 1)]
    assert log.batches == [[str(n) for n in range(FEW - 1, FEW + 2)]]
    log.gate.set()
    await asyncio.gather(*tasks)


async def test_a_crowd_is_one_though_all_of_it_lands_in_one_batch() -> None:
    """Right after it landed nothing is on its way; no trial would ever end, and the first few of
    the next batch would go alone."""
    log = Gated()
    group = Group(log, "auto", lambda: 0)
    log.gate.set()
    loop, crowd = asyncio.get_running_loop(), [str(n) for n in range(2 * CROWD)]
    end, group_chose = loop.time() + TRIAL_S, False
    while loop.time() < end and not group_chose:
        await asyncio.gather(*begin(group, *crowd))
        chooser = group._chooser  # pyright: ignore[reportPrivateUsage]
        assert chooser is not None
        group_chose = chooser.rates != (0.0, 0.0)
    assert group_chose
    group.choose(batching=True)
    log.singles.clear()
    await asyncio.gather(*begin(group, *crowd))
    assert not log.singles


async def test_a_crowd_is_one_though_its_log_is_slow() -> None:
    """A batch that takes longer than a crowd is remembered: the next few don't go alone."""
    log, now = Gated(), [0.0]
    group: Any = Group(log, "auto", lambda: 0)
    group._loop_time = lambda: now[0]
    group._chooser._until, group._chooser.batching = math.inf, True
    group.choose(batching=True)
    log.gate.set()
    for _ in range(4):
        log.singles.clear()
        tasks = begin(group, *(str(n) for n in range(FEW + 1)))
        now[0] += 10 * WINDOW_S
        await asyncio.gather(*tasks)
    assert log.singles == []


class Eager(SilentLog):
    """A log that sends in the call, as JetStream's does; its answers are given by the test."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.answers: list[asyncio.Future[AppendAnswer]] = []

    def append(
        self, address: Address, commit: Sealed, *, expected: int
    ) -> asyncio.Future[AppendAnswer]:
        return self._sent(address.id)

    def append_batch(self, appends: Sequence[Append]) -> asyncio.Future[AppendAnswer]:
        return self._sent("".join(append.address.id for append in appends))

    def _sent(self, ids: str) -> asyncio.Future[AppendAnswer]:
        self.events.append(f"sent {ids}")
        self.answers.append(asyncio.get_running_loop().create_future())
        return self.answers[-1]


def send(group: Group, log: Eager, *ids: str) -> list[Flight]:
    """Send some commits, of whose outcomes the log's events tell, too."""

    def told(id: str) -> Callable[[Landed], None]:
        return lambda landed: log.events.append(f"told {id} {type(landed).__name__}")

    commits = [Append(address(id), Sealed(id, id.encode(), id), 0) for id in ids]
    return [group.send(one, told(one.address.id)) for one in commits]


async def two_batches(epoch: Callable[[], int] = lambda: 0) -> tuple[Group, Eager]:
    """One on its way, and one that waits for it."""
    log = Eager()
    group = Group(log, "batch", epoch)
    send(group, log, "a", "b")
    await turns()
    send(group, log, "c", "d")
    await turns()
    assert log.events == ["sent ab"]
    return group, log


async def test_the_next_batch_is_sent_before_anybody_is_told_of_the_last_one() -> None:
    _, log = await two_batches()
    log.answers[0].set_result(Appended(2))
    await turns()
    assert log.events[1:] == ["sent cd", "told a Appended", "told b Appended"]
    log.answers[1].set_result(Appended(4))
    await turns()
    assert log.events[4:] == ["told c Appended", "told d Appended"]


async def test_a_refused_batch_goes_alone_though_the_next_one_is_sent() -> None:
    _, log = await two_batches()
    log.answers[0].set_result(WrongLast())
    await turns()
    assert log.events[1:] == ["sent cd", "sent a", "sent b"]
    log.answers[3].set_result(WrongLast())
    log.answers[1].set_result(Appended(2))
    log.answers[2].set_result(Appended(3))
    await turns()
    assert sorted(log.events[4:]) == [
        "told a Appended",
        "told b WrongLast",
        "told c Appended",
        "told d Appended",
    ]


async def test_nothing_that_waited_is_sent_on_another_connection() -> None:
    epoch = [0]
    _, log = await two_batches(lambda: epoch[0])
    epoch[0] = 1
    log.answers[0].set_result(NoAck("the connection ended"))
    await turns()
    assert sorted(log.events[1:]) == [f"told {id} NoAck" for id in "abcd"]


async def test_what_is_given_up_while_the_batch_before_is_out_is_not_sent() -> None:
    log = Eager()
    group = Group(log, "batch", lambda: 0)
    send(group, log, "a", "b")
    await turns()
    c, _, e = send(group, log, "c", "d", "e")
    group.give_up(c)
    log.answers[0].set_result(Appended(2))
    await turns()
    assert log.events[1:] == ["sent de", "told a Appended", "told b Appended"]
    group.give_up(e)  # it is on its way: stored, and nobody is told
    log.answers[1].set_result(Appended(4))
    await turns()
    assert log.events[4:] == ["told d Appended"]


async def test_who_sends_when_told_of_the_last_batch_is_in_the_next() -> None:
    log = Eager()
    group = Group(log, "batch", lambda: 0)

    def then(_: Landed) -> None:
        send(group, log, "b")

    group.send(Append(address("a"), Sealed("a", b"a", "a"), 0), then)
    await turns()
    log.answers[0].set_result(Appended(1))
    await turns()
    assert log.events == ["sent a", "sent b"]
    log.answers[1].set_result(Appended(2))
    await turns()
    assert log.events[2:] == ["told b Appended"]


# -- pure -------------------------------------------------------------------------------------
def queued(*ids: str, size: int = 1) -> deque[Flight]:
    commit = Sealed("c", b"x" * size, "m")
    return deque(Flight(Append(address(id), commit, 0), lambda _: None) for id in ids)


def named(taken: tuple[list[Flight], list[Flight]]) -> list[str]:
    return [flight.append.address.id for flight in taken[0]]


async def test_a_batch_has_an_entity_once_and_keeps_the_order() -> None:
    queue = queued("a", "b", "a", "c")
    assert named(take(queue)) == ["a", "b", "c"]
    assert named(take(queue)) == ["a"]
    assert take(queue) == ([], [])


async def test_a_batch_is_bounded_by_number_and_bytes() -> None:
    queue = queued(*(str(n) for n in range(BATCH_COMMITS + 3)))
    assert len(take(queue)[0]) == BATCH_COMMITS
    assert len(take(queue)[0]) == 3
    large = queued("a", "b", "c", size=BATCH_BYTES // 2)
    assert [named(take(large)), named(take(large))] == [["a", "b"], ["c"]]
    assert named(take(queued("a", size=2 * BATCH_BYTES))) == ["a"]


async def test_what_waits_for_a_connection_that_is_gone_is_not_published() -> None:
    old, new = queued("a"), queued("b")
    new[0].epoch = 1
    assert take(deque([*old, *new]), 1) == ([new[0]], [old[0]])


def test_each_commit_has_its_own_sequence() -> None:
    assert each(Appended(12), 3) == [Appended(10), Appended(11), Appended(12)]
    assert each(NoAck("?"), 2) == [NoAck("?"), NoAck("?")]


async def test_a_refused_batch_goes_alone_only_on_its_own_connection() -> None:
    log, epoch = Gated(WrongLast()), 0
    group = Group(log, "batch", lambda: epoch)
    tasks = begin(group, "a", "b")
    await turns()
    epoch = 1
    log.gate.set()
    assert await asyncio.gather(*tasks) == [ANOTHER, ANOTHER]
    assert log.singles == []
