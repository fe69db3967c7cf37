"""Group commit: commits of several entities in one atomic batch, where that is faster.

A log that is fsynced, or waits for a quorum, takes about as long for a hundred commits in one
batch as for one; a log that isn't stores single commits faster. Neither can be told from a
configuration, so both are tried under load (durable/chooser.py).

One batch is on its way at a time; what arrives meanwhile gathers for the next. Each commit keeps
its own condition. One that fails refuses the whole batch without saying whose it was: then each
goes alone. A batch is never published twice, so an acknowledgement that got lost is looked into by
each of its commits for itself, as that of a single one is (durable/append.py).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal, TypeAlias

from msgspec import Struct

from ..entities.address import Address
from ..streams.commit import Sealed
from ..streams.port import BATCH_COMMITS, Append, AppendAnswer, Appended, Log, NoAck
from .append import ANOTHER
from .chooser import Chooser
from .counts import SIZES

logger: logging.Logger = logging.getLogger("perdure.append")

Appends: TypeAlias = Literal["auto", "single", "batch"]

BATCH_BYTES = 8 * 1024**2
"""Of one batch at most: a server stages it, and the connection carries nothing else meanwhile."""

FEW = 8
"""Below so many on their way lately commits go alone, whatever was found out in a crowd: a batch
of few takes longer than they do."""

Landed: TypeAlias = AppendAnswer | Exception
"""What came of a commit; an error where the backend broke its promises."""


_ITS_OWN = (Appended, NoAck, Exception)
"""What a batch came to that is the answer for each of its commits."""


class Flight(Struct, eq=False):
    """A commit on its way to the log."""

    append: Append
    then: Callable[[Landed], None]
    epoch: int = 0  # the connection on which it was to go
    over: bool = False  # landed, or given up: nobody is told any more
    alone: asyncio.Future[AppendAnswer] | None = None  # what it comes to, where it went alone


@dataclass(frozen=True, slots=True)
class GroupStatistics:
    """What went which way so far, in one entity type of one runner."""

    single: int
    batched: int
    batches: int
    sent: int  # commits in all batches, whatever became of these
    sizes: tuple[int, ...]  # batches of up to 1, 2, 4 … 256 commits (counts.SIZES)
    refused: int  # batches: their commits went alone thereafter
    batching: bool


class Group:
    """All appends of one entity type in this runner."""

    def __init__(self, log: Log, appends: Appends, epoch: Callable[[], int]) -> None:
        self._log, self._epoch = log, epoch
        self._chooser = Chooser() if appends == "auto" else None
        self._batching = appends == "batch"
        self._queue: deque[Flight] = deque()
        self._task: asyncio.Task[None] | None = None
        self._singles: set[asyncio.Future[AppendAnswer]] = set()
        self._under_way = self._stored = 0
        self._sent = 0
        self._sizes = [0] * len(SIZES)
        self._single = self._batched = self._batches = self._refused = 0

    def __repr__(self) -> str:
        return f"Group({self.statistics()})"

    def statistics(self) -> GroupStatistics:
        """What it did so far."""
        return GroupStatistics(
            self._single,
            self._batched,
            self._batches,
            self._sent,
            tuple(self._sizes),
            self._refused,
            self._batching,
        )

    async def append(self, address: Address, commit: Sealed, *, expected: int) -> AppendAnswer:
        """Store a commit if the entity's last sequence is exactly `expected`, either way.

        The answer is about this commit alone.
        """
        answer: asyncio.Future[AppendAnswer] = asyncio.get_running_loop().create_future()

        def then(landed: Landed) -> None:
            if answer.done():
                return
            if isinstance(landed, Exception):
                answer.set_exception(landed)
            else:
                answer.set_result(landed)

        flight = self.send(Append(address, commit, expected), then)
        try:
            return await answer
        finally:
            self.give_up(flight)

    def send(self, append: Append, then: Callable[[Landed], None]) -> Flight:
        """The same, sent now or with the next batch. `then` never waits; it is called once."""
        flight = Flight(append, then, self._epoch())
        self._under_way += 1
        chooser = self._chooser
        if chooser is not None:
            chooser.crowd.grow(self._under_way)
        if self._batching and (chooser is None or chooser.crowd.size >= FEW):
            self._queue.append(flight)
            if self._task is None:
                self._task = asyncio.get_running_loop().create_task(self._run())
        else:
            self._singly(flight)
        return flight

    def give_up(self, flight: Flight) -> None:
        """Nobody waits for it any more; if it wasn't sent yet, it won't be."""
        if flight.over:
            return
        flight.over = True
        self._under_way -= 1
        if flight.alone is not None:  # it may wait for room on the connection
            flight.alone.cancel()

    async def abandon(self) -> None:
        """End without a word: whoever waits is gone, too."""
        left: list[asyncio.Future[Any]] = [*self._singles]
        if self._task is not None:
            left.append(self._task)
        for one in left:
            one.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def choose(self, *, batching: bool) -> None:
        """Go that way from now on."""
        if self._batching is not batching:
            self._batching = batching
            logger.debug("appends: %r", self._chooser, extra={"action": "append.way"})

    def _land(self, flight: Flight, landed: Landed) -> None:
        """It is over: count it, and tell whoever waits."""
        if flight.over:
            return
        self.give_up(flight)
        self._stored += isinstance(landed, Appended)
        try:
            flight.then(landed)
        except Exception:  # whatever one does with it, the others of the batch are told
            logger.exception(
                "nobody took what came of a commit of %s",
                flight.append.address,
                extra={"action": "append.failed", "address": str(flight.append.address)},
            )

    @cached_property
    def _loop_time(self) -> Callable[[], float]:
        return asyncio.get_running_loop().time

    def _look(self, under_way: int) -> None:
        """Something landed, so many are on their way: see which way is the better one."""
        chooser = self._chooser
        if chooser is not None:
            chooser.look(self._loop_time(), under_way=under_way, stored=self._stored)
            self.choose(batching=chooser.batching)

    # -- one at a time --------------------------------------------------------------------------
    def _singly(self, flight: Flight) -> None:
        self._single += 1
        one = flight.append
        try:
            sent = self._log.append(one.address, one.commit, expected=one.expected)
        except Exception as error:  # never before `send` returned
            asyncio.get_running_loop().call_soon(self._land, flight, error)
            return
        flight.alone = answer = asyncio.ensure_future(sent)
        self._singles.add(answer)
        answer.add_done_callback(partial(self._single_landed, flight))

    def _single_landed(self, flight: Flight, answer: asyncio.Future[AppendAnswer]) -> None:
        self._singles.discard(answer)
        if answer.cancelled():
            self.give_up(flight)
            return
        error = answer.exception()
        if error is None:
            self._land(flight, answer.result())
        elif isinstance(error, Exception):
            self._land(flight, error)
        self._look(self._under_way)

    # -- batches --------------------------------------------------------------------------------
    async def _run(self) -> None:
        """One batch after the other, as long as something waits.

        The next is handed to the connection before anybody is told what the one before came to:
        while that is adopted and answered the server has most of the next already.
        """
        before: list[Flight] = []
        answers: Sequence[Landed] = []
        try:
            while True:
                batch = self._take()
                sent = self._publish(batch) if batch else None
                self._settle(before, answers)
                if sent is not None:
                    before, answers = batch, await self._answers(sent, len(batch))
                elif self._queue:  # whoever was told sent something at once
                    before, answers = [], []
                else:
                    return
        finally:
            self._task = None

    def _take(self) -> list[Flight]:
        """The next batch. What waited for a connection that is gone is told so instead."""
        while self._queue:
            batch, late = take(self._queue, self._epoch())
            for flight in late:
                self._land(flight, ANOTHER)
            if batch:
                return batch
        return []

    def _settle(self, batch: list[Flight], answers: Sequence[Landed]) -> None:
        under_way = self._under_way - 1  # as its first one lands: then its crowd is still one
        for flight, answer in zip(batch, answers, strict=True):
            self._tell(flight, answer, alone=len(batch) == 1)
        if batch:
            self._look(under_way)

    def _tell(self, flight: Flight, answer: Landed, *, alone: bool) -> None:
        """What its batch came to; what was refused for another's sake, or its own, goes alone."""
        if alone or isinstance(answer, _ITS_OWN):
            self._land(flight, answer)
        elif flight.epoch != self._epoch():  # the log may be another one now
            self._land(flight, ANOTHER)
        elif not flight.over:
            self._singly(flight)

    def _publish(self, batch: list[Flight]) -> Awaitable[AppendAnswer]:
        """Send it, one commit as a message like any other."""
        appends = [flight.append for flight in batch]
        try:
            if len(appends) == 1:
                self._single += 1
                (one,) = appends
                return self._log.append(one.address, one.commit, expected=one.expected)
            self._batches += 1
            self._sent += len(appends)
            self._sizes[(len(appends) - 1).bit_length()] += 1
            logger.debug("a batch of %d commits", len(appends), extra={"action": "append.batch"})
            return self._log.append_batch(appends)
        except Exception as error:  # whoever waits must hear of it
            return _failed(error)

    async def _answers(self, sent: Awaitable[AppendAnswer], count: int) -> Sequence[Landed]:
        """What that batch came to, for each of so many commits."""
        try:
            answer = await sent
        except Exception as error:  # whoever waits must hear of it
            return [error] * count
        if count > 1:
            if isinstance(answer, Appended):
                self._batched += count
            elif not isinstance(answer, NoAck):
                self._refused += 1
        return each(answer, count)


async def _failed(error: Exception) -> AppendAnswer:
    raise error


def take(queue: deque[Flight], epoch: int = 0) -> tuple[list[Flight], list[Flight]]:
    """The next batch, in order: bounded, one commit an entity, nothing that was given up.

    And what waits for a connection that is gone: the log may be another one now.
    """
    batch: list[Flight] = []
    late: list[Flight] = []
    addresses: set[Address] = set()
    later: list[Flight] = []
    size = 0
    while queue and len(batch) < BATCH_COMMITS:
        flight = queue.popleft()
        if flight.over:  # its activation was dropped
            continue
        if flight.epoch != epoch:
            late.append(flight)
            continue
        if flight.append.address in addresses:  # that one was given up after it was taken
            later.append(flight)
            continue
        size += len(flight.append.commit.data)
        if batch and size > BATCH_BYTES:
            later.append(flight)
            break
        addresses.add(flight.append.address)
        batch.append(flight)
    queue.extendleft(reversed(later))
    return batch, late


def each(answer: AppendAnswer, count: int) -> list[AppendAnswer]:
    """What a batch's answer means for each of its commits."""
    if isinstance(answer, Appended):
        first = answer.sequence - count + 1
        return [Appended(first + n) for n in range(count)]
    return [answer] * count
