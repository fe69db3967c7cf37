"""Bugs on purpose: patches of the real modules, each of which the simulation must catch.

Each is one that somebody could write in good faith, most of them because it is the simpler way.
Here those of one runner with its entities; those of several runners are in `usurping.py`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

from perdure.durable import (
    append,
    execution,
    group,
    intake,
    marks,
    pages,
    plan,
    recovery,
    shard,
    snapshot,
)
from perdure.durable.activation import Activation
from perdure.durable.answers import outcome_answer
from perdure.durable.append import InLog, Overtaken
from perdure.durable.group import Group
from perdure.durable.item import Item
from perdure.durable.ledger import Ledger, LedgerHead, LedgerLimits
from perdure.durable.term import Term
from perdure.streams.codec import digest
from perdure.streams.commit import Commit, Stored, seal, unseal
from perdure.streams.memory.ports import MemoryLog
from perdure.streams.port import Append, Appended, NoAck, Refused, WrongLast
from perdure.streams.subjects import escape

from . import usurping as usurping  # its bugs are registered, too
from .planting import PLANTED, Patches, bug, caught, planted

__all__ = ["PLANTED", "caught", "planted"]


def _always(*_: Any) -> bool:
    return True


def _never(*_: Any) -> bool:
    return False


def _nothing(*_: Any) -> None:
    return None


_pack = Ledger.pack


def _empty(_: Ledger) -> LedgerHead:
    return _pack(Ledger(LedgerLimits(0, 0, 0, 0)))


def _no_hash(_: bytes) -> str:
    return ""


# -- appending ------------------------------------------------------------------------------------


@bug
def same_key_means_ours() -> Patches:
    """A stored commit that holds one of our keys is taken for ours, not only our commit id."""
    sealed_names: dict[str, set[str]] = {}

    def remembering(commit: Commit, *form: Any) -> Any:
        sealed_names[commit.id] = {outcome.name for outcome in commit.outcomes}
        return seal(commit, *form)

    def is_ours(stored: Stored, commit_id: str) -> bool:
        commit = unseal(stored)
        return commit is not None and not sealed_names[commit_id].isdisjoint(
            outcome.name for outcome in commit.outcomes
        )

    return [(execution, "seal", remembering), (append, "is_ours", is_ours)]


@bug
def appends_at_any_sequence() -> Patches:
    """After a conflict the same commit is published at the sequence that the log has now."""
    real = append.append

    async def insisting(
        appender: Any, log: Any, address: Any, sealed: Any, *, expected: int, **rest: Any
    ) -> Any:
        while True:
            result = await real(appender, log, address, sealed, expected=expected, **rest)
            if not isinstance(result, Overtaken) or not result.owned:
                return result
            last = await log.last(address)
            expected = 0 if last is None else last.sequence
            rest["first"] = None

    return [(execution, "append", insisting)]


@bug
def no_answer_is_taken_for_stored() -> Patches:
    """An append without an acknowledgement is believed to be in the log."""
    real = append.append

    async def hopeful(
        appender: Any, log: Any, address: Any, sealed: Any, *, expected: int, **rest: Any
    ) -> Any:
        answer = rest.pop("first") or await appender.append(address, sealed, expected=expected)
        if isinstance(answer, NoAck):
            return InLog(expected + 1)
        return await real(appender, log, address, sealed, expected=expected, first=answer, **rest)

    return [(execution, "append", hopeful)]


@bug
def answers_before_the_commit() -> Patches:
    """Callers hear before the commit is in the log: faster by one round trip."""
    real: Any = getattr(execution.Execution, "_seal")  # noqa: B009

    def eager(self: Any, folded: Any, made: Any) -> Any:
        for item, outcome in zip(made.taken, made.outcomes, strict=True):
            answer = outcome_answer(outcome, folded.sequence + 1, folded.version)
            self._activation.answers.send(item.askers, answer)
        return real(self, folded, made)

    return [(execution.Execution, "_seal", eager)]


@bug
def decides_while_its_append_is_out() -> Patches:
    """An entity goes on before it knows what came of its last commit."""

    def kick(self: Any) -> None:
        if self.live and not self._woken and self._worker is None and self._has_work:
            self._woken = True
            self.host.load.turns.line_up(self._decide)

    return [(Activation, "kick", kick)]


# -- batches --------------------------------------------------------------------------------------
@bug
def a_refused_batch_is_taken_for_stored() -> Patches:
    """Whatever a batch is answered, its commits are believed to be in the log."""
    real = group.each

    def each(answer: Any, count: int) -> Any:
        if isinstance(answer, WrongLast | Refused):
            return [Appended(0)] * count
        return real(answer, count)

    return [(group, "each", each)]


@bug
def an_unknown_batch_is_taken_for_stored() -> Patches:
    """A batch without an acknowledgement is believed to be in the log."""

    async def answers(self: Any, batch: Any, found: Any) -> Any:
        if len(batch) > 1 and isinstance(found[0], NoAck):
            return [Appended(flight.append.expected + 1) for flight in batch]
        return found

    return _batches(answers)


def _batches(then: Any) -> Patches:
    """What a batch came to goes through `then(group, batch, answers)`."""
    publish: Any = getattr(Group, "_publish")  # noqa: B009
    answers: Any = getattr(Group, "_answers")  # noqa: B009
    sent: dict[Any, Any] = {}  # the batch under way, by group

    def remember(self: Any, batch: Any) -> Any:
        sent[self] = batch
        return publish(self, batch)

    async def changed(self: Any, awaited: Any, count: int) -> Any:
        return await then(self, sent[self], await answers(self, awaited, count))

    return [(Group, "_publish", remember), (Group, "_answers", changed)]


@bug
def all_of_a_batch_get_its_last_sequence() -> Patches:
    """The acknowledgement's sequence is taken for that of each commit."""

    def each(answer: Any, count: int) -> Any:
        return [answer] * count

    return [(group, "each", each)]


@bug
def a_batch_is_counted_from_its_acknowledgement() -> Patches:
    """The acknowledgement's sequence is taken for that of the first commit."""
    real = group.each

    def each(answer: Any, count: int) -> Any:
        later = Appended(answer.sequence + count - 1) if isinstance(answer, Appended) else answer
        return real(later, count)

    return [(group, "each", each)]


@bug
def only_the_first_of_a_batch_has_a_condition() -> Patches:
    """The other commits of a batch are stored whatever came before them."""
    real: Any = getattr(MemoryLog, "_store")  # noqa: B009

    def store(self: Any, appends: Any) -> Any:
        first, *others = appends
        logs = getattr(self, "_streams").logs  # noqa: B009
        for number, one in enumerate(others):
            last = logs[one.address.entity].last(escape(one.address.id))
            expected = 0 if last is None else last.sequence
            others[number] = Append(one.address, one.commit, expected)
        return real(self, [first, *others])

    return [(MemoryLog, "_store", store)]


@bug
def a_refused_batch_is_published_again() -> Patches:
    """As a batch, until it is taken: nobody looks for the one whose condition failed."""

    real: Any = getattr(Group, "_answers")  # noqa: B009

    async def answers(self: Any, batch: Any, found: Any) -> Any:
        while len(batch) > 1 and isinstance(found[0], WrongLast):
            await asyncio.sleep(0.1)
            found = await real(self, self._publish(batch), len(batch))
        return found

    return _batches(answers)


@bug
def a_refused_batch_goes_alone_at_any_sequence() -> Patches:
    """Each commit of a refused batch is appended at the sequence that its entity has now."""

    real: Any = getattr(Group, "_tell")  # noqa: B009

    async def anyhow(self: Any, flight: Any) -> None:
        one = flight.append
        last = await self._log.last(one.address)
        expected = 0 if last is None else last.sequence
        answer = await self._log.append(one.address, one.commit, expected=expected)
        self._land(flight, answer)

    def tell(self: Any, flight: Any, answer: Any, *, alone: bool) -> None:
        if alone or not isinstance(answer, WrongLast):
            real(self, flight, answer, alone=alone)
            return
        task = asyncio.ensure_future(anyhow(self, flight))
        self._singles.add(task)
        task.add_done_callback(self._singles.discard)

    return [(Group, "_tell", tell)]


@bug
def what_does_not_fit_a_batch_is_forgotten() -> Patches:
    """The next batch takes all that waits, and what is too much for it is never sent."""
    real = group.take

    def take(queue: Any, epoch: int) -> Any:
        batch = real(queue, epoch)
        queue.clear()
        return batch

    return [(group, "take", take)]


@bug
def nothing_is_batched_after_a_failure() -> Patches:
    """The task that sends batches ends with one that isn't stored, and nobody starts another."""

    async def answers(self: Any, batch: Any, found: Any) -> Any:
        if not isinstance(found[0], Appended):
            self._settle(batch, found)
            await asyncio.get_running_loop().create_future()
        return found

    return _batches(answers)


# -- tells ----------------------------------------------------------------------------------------
@bug
def acks_before_the_commit() -> Patches:
    """A tell is acknowledged when it arrives."""
    real: Any = getattr(shard.Shard, "_tell")  # noqa: B009

    def tell(self: Any, delivery: Any, suspect: bool) -> None:
        real(self, delivery, suspect)
        if self.term is not None:
            self.term.ack(delivery.handle)

    return [(shard.Shard, "_tell", tell)]


@bug
def acks_a_queued_redelivery() -> Patches:
    """A tell that is queued already is taken for a duplicate, and acknowledged."""
    real: Any = getattr(shard.Shard, "_tell")  # noqa: B009

    def tell(self: Any, delivery: Any, suspect: bool) -> None:
        activation = self.activations.get(delivery.token)
        queued = activation is not None and any(
            item.at is not None and item.at.sequence == delivery.sequence
            for item in activation.mailbox.queue
        )
        real(self, delivery, suspect)
        if queued and self.term is not None:
            self.term.ack(delivery.handle)

    return [(shard.Shard, "_tell", tell)]


@bug
def a_conflict_drops_without_ending_the_term() -> Patches:
    """What was decided for nothing is dropped, and the term goes on behind it."""
    real: Any = getattr(execution.Execution, "_commit")  # noqa: B009

    async def commit(self: Any, folded: Any, made: Any) -> None:
        await real(self, folded, made)
        if self._activation.live and self._activation.folded is None:
            for item in made.taken:
                self._activation.remove(item)

    return [(execution.Execution, "_commit", commit)]


@bug
def no_gap_detection() -> Patches:
    """A lost delivery goes unnoticed."""
    real = Term.deliver

    def deliver(self: Any, delivery: Any) -> None:
        self._next = delivery.consumer_sequence
        real(self, delivery)

    return [(Term, "deliver", deliver)]


@bug
def watermark_by_sequence_alone() -> Patches:
    """A tell below the watermark's sequence counts as processed, whenever it was stored."""

    def below(folded: Any, item: Any) -> bool:
        return item.at is not None and item.at.sequence <= folded.watermark.sequence

    return [(plan, "_below", below)]


@bug
def an_ask_does_not_wait_for_its_tell() -> Patches:
    """`after` is ignored."""
    return [(shard.Shard, "told", _always)]


@bug
def decides_again_in_another_order() -> Patches:
    """After a conflict the first of the queue goes to its end."""
    real: Any = getattr(execution.Execution, "_commit")  # noqa: B009

    async def commit(self: Any, folded: Any, made: Any) -> None:
        await real(self, folded, made)
        queue = self._activation.mailbox.queue
        if self._activation.folded is None and len(queue) > 1:
            queue.append(queue.popleft())

    return [(execution.Execution, "_commit", commit)]


@bug
def poison_is_never_buried() -> Patches:
    """The attempt marks are not counted."""

    async def add_mark(*_: Any) -> int:
        return 1

    return [(execution, "add_mark", add_mark), (marks, "add_mark", add_mark)]


# -- names ----------------------------------------------------------------------------------------
@bug
def a_keyless_ask_has_no_name() -> Patches:
    """Each copy of a bare ask is a command of its own."""
    real = intake.take_ask
    number = itertools.count()

    def take_ask(*args: Any) -> Any:
        taken = real(*args)
        if isinstance(taken, Item) and taken.key is None:
            taken.name = f"{taken.name}.{next(number)}"
        return taken

    return [(shard, "take_ask", take_ask)]


@bug
def a_key_means_the_same_payload() -> Patches:
    """The payload of a repeated key isn't compared."""
    real = plan.standing

    def standing(folded: Any, item: Any) -> Any:
        verdict, found = real(folded, item)
        if verdict is plan.Standing.REUSED:
            return plan.Standing.PROCESSED, None
        return verdict, found

    return [(plan, "standing", standing)]


@bug
def old_made_keys_are_executed() -> Patches:
    """A made key that isn't in the ledger is new, however old it is."""
    return [(Ledger, "too_old", _never)]


@bug
def no_ledger() -> Patches:
    """Only the watermark protects against repeats."""
    return [(Ledger, "find", _nothing)]


# -- memory ---------------------------------------------------------------------------------------
@bug
def a_snapshot_is_trusted() -> Patches:
    """A snapshot is used without asking whether the log holds its last commit."""
    return [(recovery, "_check_end", _nothing)]


@bug
def a_snapshot_forgets_the_ledger() -> Patches:
    """Names with an outcome aren't in the snapshot."""
    return [(Ledger, "pack", _empty)]


@bug
def pages_are_never_looked_into() -> Patches:
    """What isn't among the newest names is new."""
    return [(pages.Pages, "find", _nothing)]


@bug
def a_snapshot_is_not_hashed() -> Patches:
    """Bytes of a snapshot that changed are believed."""
    return [(snapshot, "digest", _no_hash)]


@bug
def verdicts_from_stale_memory() -> Patches:
    """Nobody asks the leader whether something newer is there."""

    async def fresh(self: Any, folded: Any) -> bool:
        return bool(self.live)

    return [(Activation, "fresh", fresh)]


@bug
def a_shorter_log_is_gone_on_with() -> Patches:
    """Where the log lost its tail, what was decided behind it is put behind what is left."""
    real = append.append

    async def insisting(
        appender: Any, log: Any, address: Any, sealed: Any, *, expected: int, **rest: Any
    ) -> Any:
        result = await real(appender, log, address, sealed, expected=expected, **rest)
        last = await log.last(address) if isinstance(result, Overtaken) else None
        if last is None or last.sequence > expected:
            return result
        rest |= {"end": digest(last.data), "vouched": rest["epoch"]()}
        return await real(appender, log, address, sealed, expected=last.sequence, **rest)

    return [(execution, "append", insisting)]


@bug
def foreign_messages_do_not_count() -> Patches:
    """A foreign message at the end of a log is left out of the expected sequence."""
    real: Any = getattr(recovery, "_fold_tail")  # noqa: B009

    async def fold_tail(session: Any, entity: Any, address: Any, folded: Any, last: Any) -> None:
        class Mine:
            def __init__(self) -> None:
                self.log = self

            async def read(self, address: Any, **kw: Any) -> AsyncIterator[Stored]:
                async for stored in session.log.read(address, **kw):
                    if unseal(stored) is not None:
                        yield stored

        await real(Mine(), entity, address, folded, last)

    return [(recovery, "_fold_tail", fold_tail)]
