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
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

from msgspec import Struct

from ..entities.address import Address
from ..streams.commit import Sealed
from ..streams.port import BATCH_COMMITS, Append, AppendAnswer, Appended, Log, NoAck
from .append import ANOTHER
from .chooser import Chooser

logger: logging.Logger = logging.getLogger("perdure.append")

Appends: TypeAlias = Literal["auto", "single", "batch"]

BATCH_BYTES = 8 * 1024**2
"""Of one batch at most: a server stages it, and the connection carries nothing else meanwhile."""

FEW = 8
"""Below so many on their way commits go alone, whatever was found out in a crowd: a batch of few
takes longer than they do."""


class Waiting(Struct, eq=False):
    """A commit that waits for its batch."""

    append: Append
    answer: asyncio.Future[AppendAnswer]
    epoch: int = 0  # the connection on which it was to go


@dataclass(frozen=True, slots=True)
class GroupStatistics:
    """What went which way so far, in one entity type of one runner."""

    single: int
    batched: int
    batches: int
    refused: int  # batches: their commits went alone thereafter
    batching: bool


class Group:
    """All appends of one entity type in this runner."""

    def __init__(self, log: Log, appends: Appends, epoch: Callable[[], int]) -> None:
        self._log, self._epoch = log, epoch
        self._chooser = Chooser() if appends == "auto" else None
        self._batching = appends == "batch"
        self._queue: deque[Waiting] = deque()
        self._task: asyncio.Task[None] | None = None
        self._alone: set[asyncio.Future[AppendAnswer]] = set()  # after their batch was refused
        self._under_way = self._stored = 0
        self._single = self._batched = self._batches = self._refused = 0

    def __repr__(self) -> str:
        return f"Group({self.statistics()})"

    def statistics(self) -> GroupStatistics:
        """What it did so far."""
        return GroupStatistics(
            self._single, self._batched, self._batches, self._refused, self._batching
        )

    async def append(self, address: Address, commit: Sealed, *, expected: int) -> AppendAnswer:
        """Store a commit if the entity's last sequence is exactly `expected`, either way.

        The answer is about this commit alone.
        """
        return await self.send(Append(address, commit, expected))

    def send(self, append: Append) -> asyncio.Future[AppendAnswer]:
        """The same, sent now or with the next batch; whoever cancels the future gives it up."""
        self._under_way += 1
        if self._batching and (self._chooser is None or self._under_way >= FEW):
            answer = self._with_others(append)
        else:
            answer = self._singly(append)
        answer.add_done_callback(self._landed)
        return answer

    def _singly(self, append: Append) -> asyncio.Future[AppendAnswer]:
        self._single += 1
        return asyncio.ensure_future(
            self._log.append(append.address, append.commit, expected=append.expected)
        )

    def _landed(self, answer: asyncio.Future[AppendAnswer]) -> None:
        self._under_way -= 1
        if answer.cancelled() or answer.exception() is not None:
            return
        if isinstance(answer.result(), Appended):
            self._stored += 1
        if self._chooser is not None:
            now = answer.get_loop().time()
            self._chooser.look(now, waiting=self._under_way, stored=self._stored)
            self.choose(batching=self._chooser.batching)

    async def abandon(self) -> None:
        """End without a word: whoever waits is gone, too."""
        left: list[asyncio.Future[Any]] = [*self._alone]
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

    # -- batches --------------------------------------------------------------------------------
    def _with_others(self, append: Append) -> asyncio.Future[AppendAnswer]:
        loop = asyncio.get_running_loop()
        waiting = Waiting(append, loop.create_future(), self._epoch())
        self._queue.append(waiting)
        if self._task is None:
            self._task = loop.create_task(self._run())
        return waiting.answer

    async def _run(self) -> None:
        """One batch after the other, as long as something waits."""
        try:
            while batch := take(self._queue, self._epoch()):
                await self._settle(batch)
        finally:
            self._task = None

    async def _settle(self, batch: list[Waiting]) -> None:
        try:
            answers = await self._publish([waiting.append for waiting in batch])
        except Exception as error:  # whoever waits must hear of it
            for waiting in batch:
                if not waiting.answer.done():
                    waiting.answer.set_exception(error)
            return
        for waiting, answer in zip(batch, answers, strict=True):
            if not waiting.answer.done():
                self._tell(waiting, answer, alone=len(batch) == 1)

    def _tell(self, waiting: Waiting, answer: AppendAnswer, *, alone: bool) -> None:
        """What its batch came to; what was refused for another's sake, or its own, goes alone."""
        if alone or isinstance(answer, Appended | NoAck):
            waiting.answer.set_result(answer)
        elif waiting.epoch != self._epoch():  # the log may be another one now
            waiting.answer.set_result(ANOTHER)
        else:
            again = self._singly(waiting.append)
            self._alone.add(again)
            again.add_done_callback(self._alone.discard)
            again.add_done_callback(partial(_pass_on, waiting.answer))

    async def _publish(self, appends: list[Append]) -> list[AppendAnswer]:
        if len(appends) == 1:
            self._single += 1
            (one,) = appends
            return [await self._log.append(one.address, one.commit, expected=one.expected)]
        self._batches += 1
        logger.debug("a batch of %d commits", len(appends), extra={"action": "append.batch"})
        answer = await self._log.append_batch(appends)
        if isinstance(answer, Appended):
            self._batched += len(appends)
        elif not isinstance(answer, NoAck):
            self._refused += 1
        return each(answer, len(appends))


def _pass_on(to: asyncio.Future[AppendAnswer], answer: asyncio.Future[AppendAnswer]) -> None:
    if to.done():
        return
    if answer.cancelled():
        to.cancel()
    elif (error := answer.exception()) is not None:
        to.set_exception(error)
    else:
        to.set_result(answer.result())


def take(queue: deque[Waiting], epoch: int = 0) -> list[Waiting]:
    """The next batch, in order: bounded, one commit an entity, nothing that was given up.

    What waits for a connection that is gone is answered instead: the log may be another one now.
    """
    batch: list[Waiting] = []
    addresses: set[Address] = set()
    later: list[Waiting] = []
    size = 0
    while queue and len(batch) < BATCH_COMMITS:
        waiting = queue.popleft()
        if waiting.answer.done():  # cancelled: its activation was dropped
            continue
        if waiting.epoch != epoch:
            waiting.answer.set_result(ANOTHER)
            continue
        if waiting.append.address in addresses:  # that one was given up after it was taken
            later.append(waiting)
            continue
        size += len(waiting.append.commit.data)
        if batch and size > BATCH_BYTES:
            later.append(waiting)
            break
        addresses.add(waiting.append.address)
        batch.append(waiting)
    queue.extendleft(reversed(later))
    return batch


def each(answer: AppendAnswer, count: int) -> list[AppendAnswer]:
    """What a batch's answer means for each of its commits."""
    if isinstance(answer, Appended):
        first = answer.sequence - count + 1
        return [Appended(first + n) for n in range(count)]
    return [answer] * count
