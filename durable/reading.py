"""Reading: the questions that wait at one activation, and how they are answered.

Part of an activation (durable/activation.py), which lets its worker call `serve` between two
commits, so that what is read is always the fold of commits in the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ..entities.errors import (
    AlreadyProcessingMessage,
    ClusterError,
    MailboxFull,
    MalformedMessage,
    SendTimeout,
    SerializationError,
)
from ..streams.asks import NULL, Envelope
from ..streams.codec import Undecodable
from ..streams.commit import Damaged, Outcome
from ..streams.port import Unreachable
from .answers import error_answer, outcome_answer
from .counts import Way
from .defect import described
from .folded import REFUSED, Folded
from .item import Item
from .ledger import Seen
from .pages import Absent
from .paging import load
from .reads import (
    Past,
    Read,
    answer_flows,
    answer_query,
    answer_state,
    answer_status,
    fold_past,
    past_of,
    undecodable,
)
from .recorded import find_recorded
from .spans import answered

if TYPE_CHECKING:
    from .activation import Activation

logger: logging.Logger = logging.getLogger("perdure.reading")

READS = 256
"""Questions that may wait at one entity, and as many for results: these wait for a minute, perhaps
in vain, and must not keep the others away."""

PAST_READS = 4
"""Folds of the past that one entity computes at a time."""

SLACK_S = 0.005
"""A timer of the loop and the wall clock don't agree to the millisecond."""

RESULT_S = 60.0
"""How long a question for a result waits at most, in seconds. Who wants to wait longer repeats it,
and nobody can fill the memory by asking for what never comes."""

REUSED = MalformedMessage(
    cause="this key was used before, with another payload", may_have_taken_effect=False
)
"""The answer to a question for a command's result under a key that another command has."""


class Reading:
    """The questions at one entity."""

    def __init__(self, activation: Activation) -> None:
        self._activation = activation
        self._waiting: list[Read] = []
        self._past: dict[asyncio.Task[None], Read] = {}

    @property
    def busy(self) -> bool:
        """Whether anybody waits for an answer; who waits for a flow that does may ask again."""
        return bool(self._past) or any(not read.suspended for read in self._waiting)

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """What it has in the background."""
        return list(self._past)

    def urgent(self) -> bool:
        """Whether the worker has to answer something now."""
        return bool(self._waiting) and any(not read.checked for read in self._waiting)

    def add(self, read: Read) -> None:
        """Answer it at once if that is right, else let it wait, bounded."""
        activation = self._activation
        folded = activation.folded
        if folded is not None and self._at_once(read, folded):
            return
        if self._repeats(read):
            return
        if self._crowded(read.kind) or activation.host.load.full():
            error = MailboxFull(capacity=READS, may_have_taken_effect=False)
            self._send(read, error)
            return
        activation.host.load.add(read.size)
        self._waiting.append(read)

    def _crowded(self, kind: str) -> bool:
        """Whether as many wait as may: of those for results, or of all others."""
        results = kind == "result"
        of_kind = ((read.kind == "result") is results for read in self._waiting)
        return len(self._waiting) >= READS and sum(of_kind) >= READS

    def _repeats(self, read: Read) -> bool:
        """Whether it repeats a question that waits: then the answer goes to the newer one."""
        request = read.asker.request
        if request is None:
            return False
        for waiting in (*self._waiting, *self._past.values()):
            if waiting.asker.request == request and waiting.kind == read.kind:
                waiting.asker = read.asker
                return True
        return False

    def _leave(self, read: Read) -> None:
        self._waiting.remove(read)
        if read.timer is not None:
            read.timer.cancel()
        if read.suspended:
            self._activation.host.load.suspended -= 1
        else:
            self._activation.host.load.remove(read.size)

    def _suspend(self, read: Read, error: ClusterError) -> None:
        """Its flow waits, perhaps for months, and its caller is told so. One who goes on to wait
        asks again now and then, so this is only for the outcome to come at once. It isn't work,
        and must not keep other work away, nor the entity in memory."""
        self._send(read, error)
        load, most = self._activation.host.load, self._activation.host.settings.runner_capacity
        if read.suspended:
            return
        if load.suspended >= most:
            self._leave(read)
            return
        read.suspended = True
        load.remove(read.size)
        load.suspended += 1

    def forget(self) -> None:
        """The entity leaves memory."""
        for read in list(self._waiting):
            self._leave(read)

    def refuse(self, error: ClusterError) -> None:
        """Answer all that wait with an error."""
        for read in list(self._waiting):
            self._leave(read)
            self._send(read, error)

    def settled(self, name: str, payload: str, answer: bytes) -> None:
        """A command has its outcome, under this name: tell those who asked for its result."""
        if not self._waiting:
            return
        for read in [r for r in self._waiting if r.kind == "result" and r.envelope.key == name]:
            self._leave(read)
            if read.payload in (None, payload):
                self._send(read, answer)
            else:
                self._send(read, REUSED)

    def awaited(self, item: Item) -> bool:
        """Whether somebody waits for the outcome of a command; who repeats it is told so."""
        return any(r.kind == "result" and r.envelope.key == item.name for r in self._waiting)

    def await_outcome(self, item: Item) -> None:
        """Who asked for a command waits for its outcome, like one who asks for its result. The
        first one has the place that the command had; of others, who came later, as many as may."""
        activation = self._activation
        for number, asker in enumerate(item.askers):
            envelope = Envelope(1, "result", NULL, key=item.name, deadline=item.deadline)
            size = item.size - len(item.raw)  # the command isn't kept
            read = Read("result", asker, envelope, None, item.payload_hash, item.since, size)
            refusal: ClusterError | None = None
            if self._repeats(read):
                refusal = AlreadyProcessingMessage()
            elif self._crowded("result") or (number and activation.host.load.full()):
                refusal = MailboxFull(capacity=READS)
            if refusal is not None:
                activation.answers.error([asker], refusal, activation.address, item.key)
                continue
            activation.host.load.add(read.size)
            self._waiting.append(read)
            self._await_outcome(read)

    def suspended(self, name: str, error: ClusterError) -> None:
        """A flow of that name waits: who waits for its outcome is told so, and goes on to wait."""
        for read in list(self._waiting):
            if read.kind == "result" and read.envelope.key == name:
                self._suspend(read, error)

    def expire(self, now: float, now_ms: int) -> None:
        """Answer those whose time is over: unknown, never created and expired look alike."""
        for read in list(self._waiting):
            deadline = read.envelope.deadline
            over = now > read.since + RESULT_S or (deadline is not None and now_ms > deadline)
            if over and read.checked:
                self._leave(read)
                self._send(read, SendTimeout(cause="no outcome of this key is known here"))

    def _at_once(self, read: Read, folded: Folded) -> bool:
        envelope, activation = read.envelope, self._activation
        if activation.doubted or envelope.fresh or (envelope.seen or 0) > folded.sequence:
            return False
        match read.kind:
            case "query":
                self._send(read, self._query(read, folded))
            case "status":
                self._send(read, self._status(folded))
            case "flows":
                self._send(read, answer_flows(folded))
            case "result":
                kept = activation.execution.recent.get(envelope.key or "")
                if kept is None or read.payload not in (None, kept[0]):
                    return False
                self._send(read, kept[1])
            case _:
                return False
        return True

    async def serve(self, folded: Folded) -> None:
        """Answer what can be answered; called by the worker, between commits."""
        reads = [read for read in self._waiting if not read.checked]
        stale = any(_is_behind(folded, read) for read in reads)
        if stale and not await self._activation.fresh(folded):
            return
        for read in reads:
            if read not in self._waiting:
                continue
            if read.kind == "result":
                if not await self._looked_up(read, folded):
                    return  # the worker comes again
            else:
                self._leave(read)
                self._answer(read, folded)

    def _answer(self, read: Read, folded: Folded) -> None:
        match read.kind:
            case "query":
                self._send(read, self._query(read, folded))
            case "status":
                self._send(read, self._status(folded))
            case "flows":
                self._send(read, answer_flows(folded))
            case _:
                self._state(read, folded)

    def _query(self, read: Read, folded: Folded) -> bytes | ClusterError:
        host = self._activation.host
        now = datetime.fromtimestamp(host.session.clock.now_ns() / 1e9, UTC)
        return answer_query(host.entity, self._activation.address, folded, read, now)

    def _status(self, folded: Folded) -> bytes:
        activation = self._activation
        busy = len(activation.mailbox) > 0
        return answer_status(folded, busy=busy, runner=activation.host.runner)

    async def _looked_up(self, read: Read, folded: Folded) -> bool:
        """Look a key up, with all pages of the ledger that it takes; whether that was possible.

        One after the other to its end: pages of many would push each other out of memory.
        """
        while read in self._waiting:  # else it was answered, or given up, meanwhile
            try:
                await self._result(read, folded)
                return True
            except Absent as absent:
                if not await load(self._activation, folded, absent):
                    return False
        return True

    async def _result(self, read: Read, folded: Folded) -> None:
        """The outcome of a key: recorded, on its way, or not known yet. Raises Absent.

        After each wait the read may be gone: a repetition took its place.
        """
        activation = self._activation
        key = read.envelope.key or ""
        flow = folded.flows.get(key)
        if flow is not None and read.payload in (None, flow.payload_hash):
            if await activation.fresh(folded) and read in self._waiting:
                self._await_outcome(read)
                if not flow.runs:  # else who has its turn tells them
                    self._suspend(read, activation.flows.standing(flow))
            return
        seen = folded.ledger.find(key)
        if seen is not None:
            await self._recorded(read, key, seen, lambda outcome: outcome.name == key)
            return
        waiting = activation.mailbox.find(key)
        if waiting is not None and read.payload in (None, waiting.payload_hash):
            self._leave(read)
            activation.mailbox.attach(read.asker, waiting)
        elif await activation.fresh(folded):
            refused = folded.ledger.find(REFUSED + key)
            if refused is not None:
                await self._recorded(read, key, refused, lambda outcome: _refused(outcome, key))
            else:
                self._await_outcome(read)

    def _await_outcome(self, read: Read) -> None:
        """Nothing is known of the key: wait until something is, or its time is over."""
        read.checked = True
        host = self._activation.host
        left_s = RESULT_S
        if read.envelope.deadline is not None:
            left_s = min(left_s, (read.envelope.deadline - host.now_ms()) / 1000)
        loop = asyncio.get_running_loop()
        read.timer = loop.call_later(
            max(0.0, left_s) + SLACK_S, lambda: self.expire(loop.time(), host.now_ms())
        )

    async def _recorded(
        self, read: Read, key: str, seen: Seen, wanted: Callable[[Outcome], bool]
    ) -> None:
        activation = self._activation
        try:
            found = await find_recorded(
                activation.host.session.log,
                activation.address,
                seen.sequence,
                wanted,
            )
        except Unreachable:
            await activation.pause()  # the worker comes again
            return
        except Damaged as error:
            activation.quarantine(str(error))
            return
        if found is None:
            activation.distrust(f"sequence {seen.sequence}: the recorded outcome isn't there")
        elif read in self._waiting:
            self._leave(read)
            if read.payload in (None, found.outcome.payload_hash):
                self._send(read, outcome_answer(found.outcome, found.sequence, found.version))
            else:
                told = error_answer(REUSED, activation.address, key, read.asker, found.sequence)
                self._send(read, told)

    def _state(self, read: Read, folded: Folded) -> None:
        try:
            past = past_of(read.envelope)
        except Undecodable as error:
            self._send(read, undecodable(error))
            return
        if past.version is None and past.time is None:
            self._send(read, answer_state(folded))
        elif len(self._past) >= PAST_READS:
            self._send(read, MailboxFull(capacity=PAST_READS, may_have_taken_effect=False))
        else:
            task = asyncio.get_running_loop().create_task(self._fold(read, past, folded.sequence))
            self._past[task] = read
            task.add_done_callback(self._past.pop)

    async def _fold(self, read: Read, past: Past, upto: int) -> None:
        host = self._activation.host
        try:
            answer = await fold_past(
                host.session,
                host.entity,
                self._activation.address,
                past,
                host.ledger_limits,
                upto,
            )
        except Unreachable as error:
            answer = SendTimeout(cause=str(error), may_have_taken_effect=False)
        except Exception as error:  # user types; whoever asked must hear of it
            logger.exception("a past state", extra={"action": "read.failed"})
            answer = SerializationError(cause=described(error), may_have_taken_effect=False)
        self._send(read, answer)

    def _send(self, read: Read, answer: bytes | ClusterError) -> None:
        activation = self._activation
        most = activation.host.session.max_payload
        if isinstance(answer, bytes) and len(answer) > most:
            why = f"the answer has {len(answer)} bytes, a message holds {most}"
            answer = SerializationError(cause=why, may_have_taken_effect=False)
        way: Way = "query" if read.kind == "query" else "control"
        if isinstance(answer, bytes):
            counts = activation.host.counts
            counts.replies[way] = counts.replies.get(way, 0) + 1
            if way == "query":
                took_s = asyncio.get_running_loop().time() - read.since
                counts.times[way].add(took_s)
                trace = read.envelope.trace
                answered(activation.host.tracer, activation.address, read.message, trace, took_s)
            activation.answers.send([read.asker], answer)
        else:
            key = read.envelope.key
            activation.answers.error([read.asker], answer, activation.address, key, way)


def _refused(outcome: Outcome, key: str) -> bool:
    """Whether an outcome is the verdict on a refused tell with this key."""
    return outcome.dead is not None and outcome.dead.key == key


def _is_behind(folded: Folded, read: Read) -> bool:
    """Whether the leader must be asked before this question is answered from our fold."""
    if read.envelope.fresh or (read.envelope.seen or 0) > folded.sequence:
        return True
    if read.kind != "state":
        return False
    try:  # "isn't there yet" is a verdict: never from memory alone
        return (past_of(read.envelope).version or 0) > folded.version
    except Undecodable:
        return False
