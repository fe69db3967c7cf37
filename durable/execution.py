"""Execution: how an activation carries out a plan, and what it does about trouble.

Part of an activation (durable/activation.py), whose worker calls `step`. Here is the I/O around
the pure plan: repeats are answered from the log, commits appended, dead letters copied, suspects
marked before they run, defects retried. Nothing is answered or acknowledged before its record is
in the log, and nothing at all once the activation is dropped.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from ..entities.errors import (
    ClusterError,
    MalformedMessage,
    PersistenceError,
    RpcClientError,
    SerializationError,
    with_details,
)
from ..entities.retry import delay_s
from ..streams.commit import FORMAT, GENESIS, Commit, Damaged, Outcome, Sealed, seal
from ..streams.port import Append, AppendAnswer, Appended, Unreachable
from .answers import outcome_answer, versions
from .append import InLog, Overtaken, Rejected, append
from .deadletter import told
from .defect import described
from .folded import Folded
from .group import Flight, Landed
from .item import Item
from .marks import add_mark, has_mark, remove_mark
from .paging import load
from .phase import Cold
from .plan import Limits, Plan, Unencodable, dead_letter, defect_error, is_plain, make_plan
from .recorded import find_recorded
from .residents import KEPT_BYTES
from .saving import Saving
from .spans import decided
from .timers import has_burial

if TYPE_CHECKING:
    from .activation import Activation

logger: logging.Logger = logging.getLogger("perdure.activation")

BODIES = 8
"""Tells whose bodies one entity keeps in memory; the others are read again before their turn, so
that one slow entity can't use up its shard's credit."""

RECENT = 32
"""Outcomes whose answers are kept to spare a read of the log on a repeat."""

RECENT_BYTES = 64 * 1024
"""Of one entity's kept answers at most: they may be large, and they are only there for speed."""

RETRY_S = 0.1
"""Between tries while the backend can't be reached, in seconds."""

REJECTED_S = 1.0
"""Between tries while the log refuses, in seconds."""


class Execution:
    """Carries out plans for one activation."""

    def __init__(self, activation: Activation) -> None:
        self._activation = activation
        self._host = activation.host
        self._address = activation.address
        self.recent: OrderedDict[str, tuple[str, bytes]] = OrderedDict()  # name: payload, answer
        self.kept_bytes: int = 0  # what they hold, about
        self.saving: Saving = Saving(activation)
        self.flight: Flight | None = None  # an append without a worker
        self._outcomes: int | None = None  # fewer in the next commit: the last was too large

    @property
    def busy(self) -> bool:
        """Whether a commit or a snapshot is on its way."""
        return self.flight is not None or bool(self.saving.tasks)

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """What it has in the background."""
        return self.saving.tasks

    # -- without a worker -----------------------------------------------------------------------
    def begin(self, folded: Folded) -> None:
        """Decide on what waits, on a turn of this entity, and send what came of it.

        A plain commit needs no worker: its answer ends it. All else is a worker's.
        """
        activation, host = self._activation, self._host
        for item in islice(activation.mailbox.queue, BODIES):
            if item.evicted:
                activation.work(None)
                return
        plan = self._decide(folded)
        if not is_plain(plan):
            activation.work(partial(self._carry_out, folded, plan))
            return
        commit, sealed = self._seal(folded, plan)
        if len(sealed.data) > host.most_bytes:
            activation.work(partial(self._too_large, folded, plan, len(sealed.data)))
            return
        for item in plan.taken:
            item.published = True
        self.flight = host.group.send(
            Append(self._address, sealed, folded.sequence),
            partial(self._landed, folded, plan, commit, sealed),
        )

    def give_up(self) -> None:
        """The activation ends: what is on its way concerns it no more."""
        if self.flight is not None:
            self._host.group.give_up(self.flight)
            self.flight = None

    def _landed(
        self,
        folded: Folded,
        plan: Plan,
        commit: Commit,
        sealed: Sealed,
        answer: Landed,
    ) -> None:
        """The answer to an append that went out without a worker."""
        activation, self.flight = self._activation, None
        if not activation.live:
            return
        try:
            if isinstance(answer, Appended):
                folded.adopt(commit, sealed.mark, len(sealed.data), answer.sequence, plan.state)
                self._tell(plan, commit, answer.sequence)
                self.saving.after_commit(folded)
                activation.landed(folded)
            elif isinstance(answer, Exception):
                activation.failed(answer)
            else:
                activation.work(partial(self._append, folded, plan, commit, sealed, answer))
        except Exception as error:
            activation.failed(error)

    # -- a worker's -----------------------------------------------------------------------------
    async def step(self, folded: Folded) -> None:
        """Do the next thing: answer reads, or take commands from the front of the queue."""
        if self._activation.reading.urgent():
            await self._activation.reading.serve(folded)
        activation = self._activation
        if activation.live and activation.folded is folded and activation.flows.first(folded):
            await activation.flows.do_first(folded)
            return
        if not self._ready(folded):
            return
        front = islice(self._activation.mailbox.queue, BODIES)
        evicted = [item for item in front if item.evicted]
        if evicted and not await self._load_bodies(evicted):
            return
        turns = self._host.load.turns
        if not turns.try_take():
            await turns.take()
        if not self._ready(folded):
            return
        await self._carry_out(folded, self._decide(folded))

    def _decide(self, folded: Folded) -> Plan:
        """What to do with the front of the queue; how long that took is counted."""
        host = self._host
        clock = host.loop_time
        began = clock()
        plan = make_plan(
            host.entity,
            self._address,
            folded,
            self._activation.mailbox.queue,
            limits=self._limits(),
            now_ns=host.session.clock.now_ns(),
        )
        host.load.turns.took(clock() - began, len(plan.outcomes), plan.handled)
        return plan

    def _ready(self, folded: Folded) -> bool:
        """Whether there is something to decide on that fold, still."""
        activation = self._activation
        return activation.live and activation.folded is folded and bool(activation.mailbox.queue)

    def _limits(self) -> Limits:
        host = self._host
        most = host.settings.commit_outcomes if self._outcomes is None else self._outcomes
        return host.limits(host.load.turns.outcomes(most))

    async def _carry_out(self, folded: Folded, plan: Plan) -> None:
        for item in plan.rewound:
            logger.error(
                "%s: the command stream was rewound: sequence %s came a second time",
                self._address,
                item.at,
                extra={"action": "stream.rewound", "address": str(self._address)},
            )
        for item, found in plan.recorded:
            if not await self._answer_recorded(item, found.sequence) or not self._activation.live:
                return
        for item in plan.processed:
            self._activation.log_item("tell.processed", item)
            self._host.counts.answered(item.way, "processed")
            self.finish(item, None, item.name)
        if plan.refused and not await self._refuse(folded, plan):
            return
        if plan.held and not await self._activation.flows.hold(folded, plan.held):
            return
        if plan.suspect is not None:
            await self._try_suspect(folded, plan.suspect)
        elif plan.flow is not None:
            await self._activation.flows.take(folded, plan.flow)
        elif plan.outcomes:
            await self._commit(folded, plan)
        elif plan.defect is not None:
            await self._defect(folded, *plan.defect)
        elif plan.absent is not None:
            await load(self._activation, folded, plan.absent)

    # -- verdicts without an append -------------------------------------------------------------
    async def _answer_recorded(self, item: Item, sequence: int) -> bool:
        """Answer a repeated command with what is recorded; False to try again later."""
        for name in (item.name, item.cause):
            kept = self.recent.get(name) if name is not None else None
            if kept is not None and kept[0] == item.payload_hash:
                self._host.counts.answered(item.way, "repeat")
                self.finish(item, kept[1], name or item.name)
                return True
        names = (item.name, item.cause)
        try:
            found = await find_recorded(
                self._host.session.log,
                self._address,
                sequence,
                lambda o: o.name in names and o.payload_hash == item.payload_hash,
            )
        except Unreachable:
            await self._activation.pause()
            return False
        except Damaged as error:
            self._activation.quarantine(str(error))
            return False
        if not self._activation.live:
            return False
        if found is None:
            self._activation.distrust(f"sequence {sequence}: the recorded outcome isn't there")
            return False
        self._activation.log_item("ledger.hit", item)
        self._host.counts.answered(item.way, "repeat")
        outcome = found.outcome
        owed = item.way == "tell" and outcome.dead is not None and not has_burial(outcome)
        buried = not owed or await self.copy_dead(outcome)
        if self._activation.live:
            answer = outcome_answer(outcome, sequence, found.version)
            self.finish(item, answer, outcome.name, ack=buried)
        if item.suspect:
            await self._unmark(item)
        return True

    async def _refuse(self, folded: Folded, plan: Plan) -> bool:
        """Refuse asks, once the leader confirmed that nothing newer is known; else reload."""
        reused = all(isinstance(error, MalformedMessage) for _, error in plan.refused)
        if not reused and not await self._activation.fresh(folded):
            return False
        for item, error in plan.refused:
            self._activation.refuse(item, error)
        return True

    # -- commits --------------------------------------------------------------------------------
    async def _commit(self, folded: Folded, plan: Plan) -> None:
        """Append what was decided, and answer once it is in the log."""
        host = self._host
        if folded.hash == GENESIS:  # armed first: who has a log is in the registry of ids
            await host.registrar.register(self._address)
            if not self._activation.live:
                return
        commit, sealed = self._seal(folded, plan)
        if len(sealed.data) > host.most_bytes:
            await self._too_large(folded, plan, len(sealed.data))
            return
        for item in plan.taken:
            item.published = True
        await self._append(folded, plan, commit, sealed)

    def _seal(self, folded: Folded, plan: Plan) -> tuple[Commit, Sealed]:
        host = self._host
        now = datetime.fromtimestamp(host.session.clock.now_ns() / 1e9, UTC)
        commit = Commit(
            v=FORMAT,
            id=host.session.entropy.token(12),
            prev=folded.hash,
            version=folded.version + plan.events,
            runner=host.runner,
            time=max(now, folded.time),
            outcomes=tuple(plan.outcomes),
        )
        return commit, seal(commit, host.settings.commit_format)

    async def store(self, folded: Folded, plan: Plan) -> int | None:
        """Append what came of a flow's turn; its sequence, None if it isn't in the log."""
        host = self._host
        if folded.hash == GENESIS:
            await host.registrar.register(self._address)
            if not self._activation.live:
                return None
        commit, sealed = self._seal(folded, plan)
        if len(sealed.data) > host.most_bytes:
            size = f"what it does has {len(sealed.data)} bytes, a message holds {host.most_bytes}"
            raise Unencodable(size)
        return await self._append(folded, plan, commit, sealed)

    async def _append(
        self,
        folded: Folded,
        plan: Plan,
        commit: Commit,
        sealed: Sealed,
        first: AppendAnswer | None = None,
    ) -> int | None:
        """Until it is known whether the commit is in the log; its sequence, None if it isn't.

        `first`: it was sent once.
        """
        host = self._host
        result = await append(
            host.group,
            host.session.log,
            self._address,
            sealed,
            expected=folded.sequence,
            end=folded.end,
            owned=lambda: self._activation.live and self._activation.shard.owned,
            live=lambda: self._activation.live,
            epoch=lambda: host.epoch,
            vouched=self._activation.vouched,
            entropy=host.session.entropy,
            first=first,
        )
        if not self._activation.live:
            return None
        match result:
            case InLog(sequence):
                folded.adopt(commit, sealed.mark, len(sealed.data), sequence, plan.state)
                if plan.taken:
                    await self._committed(folded, plan, commit, sequence)
                return sequence
            case Overtaken(owned):
                self._activation.log("append.overtaken")
                host.counts.fenced += 1
                self._activation.phase = Cold()
                if not owned:
                    self._activation.shard.drop("another runner owns the shard")
            case Rejected(why):
                await self._rejected(plan, why)
        return None

    async def _too_large(self, folded: Folded, plan: Plan, size: int) -> None:
        """The sizes were underestimated: fewer next time, and one alone is a dead letter."""
        item = plan.taken[0]
        if len(plan.taken) > 1:
            self._outcomes = len(plan.taken) // 2
            return
        why = f"its commit has {size} bytes, a message holds {self._host.most_bytes}"
        error = SerializationError(cause=why, may_have_taken_effect=False)
        if item.way == "tell":
            await self.bury(folded, item, "too_large", error)
        elif await self._activation.fresh(folded):
            self._activation.refuse(item, error)

    async def _committed(self, folded: Folded, plan: Plan, commit: Commit, sequence: int) -> None:
        """Answer everybody first; then copy dead letters, ack, and remove marks."""
        marked = [item for item in plan.taken if item.marked]
        for item, outcome in self._tell(plan, commit, sequence):
            buried = await self.copy_dead(outcome)
            if not self._activation.live:
                return
            self._end(item, ack=buried)
        for item in marked:
            await self._unmark(item)
        self.saving.after_commit(folded)

    def _tell(self, plan: Plan, commit: Commit, sequence: int) -> list[tuple[Item, Outcome]]:
        """Answer everybody, and ack; dead letters, which are to be copied first, are returned."""
        self._outcomes = None
        dead: list[tuple[Item, Outcome]] = []
        counts, now = self._host.counts, self._host.loop_time()
        for item, outcome, version in zip(
            plan.taken, plan.outcomes, versions(commit), strict=True
        ):
            data = outcome_answer(outcome, sequence, version)
            counts.decided(item.way, outcome, now - item.since)
            decided(self._host.tracer, self._address, item, outcome, now - item.since)
            if outcome.dead is None:
                self.remember(outcome, data)
                self.finish(item, data, outcome.name)
            else:
                why = told(outcome.dead)
                self._activation.log_item("command.dead", item, level=logging.ERROR, why=why)
                self._answer(item, data, outcome.name)
                if outcome.dead.key is not None:
                    refused = outcome.dead.key
                    self._activation.reading.settled(refused, item.payload_hash, data)
                dead.append((item, outcome))
        return dead

    async def _unmark(self, item: Item) -> None:
        """A suspect ran, and the process lives."""
        item.marked = False
        if item.cause is not None:
            await remove_mark(self._host.session.members, self._address.entity, item.cause)

    async def _rejected(self, plan: Plan, why: str) -> None:
        for item in plan.taken:
            if item.way == "ask":
                self._activation.refuse(item, PersistenceError(cause=why))
        self._activation.log("append.rejected", level=logging.ERROR)
        await asyncio.sleep(REJECTED_S)

    async def copy_dead(self, outcome: Outcome, *, tries: int = 2) -> bool:
        """The operators' copy; whether it is stored. The verdict itself is in the log.

        Without a copy the tell stays un-acked: it is delivered again later, found in the ledger,
        and copied then. A flow that had begun before has a burial for that.
        """
        data = msgspec.json.encode(outcome)
        for tried in range(tries):
            if tried:
                await asyncio.sleep(RETRY_S)
            if await self._host.session.dead.put(self._address, data):
                return True
        self._activation.log("deadletter.not_copied", level=logging.ERROR)
        return False

    async def _try_suspect(self, folded: Folded, item: Item) -> None:
        """Run a command that may have killed its process; alone, if it was tried before."""
        assert item.cause is not None
        host = self._host
        if not await has_mark(host.session.members, host.entity.name, item.cause):
            await self._run_suspect(folded, item)
            return
        async with host.load.alone:
            if self._activation.live:
                await self._run_suspect(folded, item)

    async def _run_suspect(self, folded: Folded, item: Item) -> None:
        """Run it, marked meanwhile. The process lives afterwards, whatever becomes of it: a mark
        that stayed would count whatever else ends the process."""
        try:
            await self._run_marked(folded, item)
        finally:
            if not self._activation.live:
                self._activation.shard.spawn(self._unmark(item))

    async def _run_marked(self, folded: Folded, item: Item) -> None:
        """Run it after a mark, or bury it if it has too many."""
        assert item.cause is not None
        session, entity = self._host.session, self._host.entity
        count = await add_mark(session.members, entity.name, item.cause)
        self._activation.log_item("suspect.marked", item)
        item.suspect, item.marked = False, True
        if not self._activation.live:
            return
        if count > self._host.settings.poison_marks:
            error = RpcClientError(
                cause=f"poison: it ended its process {count - 1} times",
                may_have_taken_effect=False,
                advice="fix",
            )
            await self.bury(folded, item, "poison", error)
        else:
            plan = make_plan(
                entity,
                self._address,
                folded,
                [item],
                limits=self._host.limits(1),
                now_ns=session.clock.now_ns(),
            )
            await self._carry_out(folded, plan)
            if self._activation.live and item.marked:  # nothing is recorded yet
                await self._unmark(item)
        item.suspect = True  # if it is still there: marked again before the next try

    async def _defect(self, folded: Folded, item: Item, error: BaseException) -> None:
        policy = self._host.settings.defect_retry
        item.attempts += 1
        logger.error(
            "%s: a defect in the handler of %s (attempt %d of %d): %s",
            self._address,
            type(item.command).__name__,
            item.attempts,
            policy.attempts,
            described(error),
            exc_info=error if item.attempts == 1 else None,  # one traceback a command
            extra={"action": "handler.defect", "address": str(self._address)},
        )
        if item.attempts < policy.attempts:
            jitter = self._host.session.entropy.uniform(0.0, 1.0)
            await asyncio.sleep(delay_s(policy, item.attempts, jitter))
        elif item.way == "tell":
            await self.bury(folded, item, "defect", defect_error(error))
        elif await self._activation.fresh(folded):
            self._activation.refuse(item, defect_error(error))

    async def bury(self, folded: Folded, item: Item, reason: str, error: ClusterError) -> None:
        """A dead letter: a conditional commit like any other."""
        most = self._host.most_bytes
        error = with_details(error, address=str(self._address))
        outcome = dead_letter(item, reason, error, named=True, max_bytes=most)
        plan = Plan(taken=[item], outcomes=[outcome], state=folded.state)
        await self._commit(folded, plan)

    # -- the end of a command -------------------------------------------------------------------
    def finish(self, item: Item, answer: bytes | None, name: str, *, ack: bool = True) -> None:
        """A command has its outcome, recorded under `name`: answer, and ack."""
        if answer is not None:
            self._answer(item, answer, name)
        self._end(item, ack=ack)

    def _answer(self, item: Item, answer: bytes, name: str) -> None:
        self._activation.answers.send(item.askers, answer)
        self._activation.reading.settled(name, item.payload_hash, answer)

    def _end(self, item: Item, *, ack: bool) -> None:
        self._activation.remove(item)
        if item.way == "tell":
            self._activation.shard.settled(item, ack=ack)
            self._activation.promote()

    def remember(self, outcome: Outcome, answer: bytes) -> None:
        """Keep an answer for a moment: repeats come soon."""
        self.recent[outcome.name] = (outcome.payload_hash, answer)
        self.kept_bytes += KEPT_BYTES + len(answer)
        while len(self.recent) > RECENT or (self.kept_bytes > RECENT_BYTES and self.recent):
            _, (_, forgotten) = self.recent.popitem(last=False)
            self.kept_bytes -= KEPT_BYTES + len(forgotten)

    def forget(self) -> None:
        """Keep no answer of what another fold held."""
        self.recent.clear()
        self.kept_bytes = 0

    # -- bodies ---------------------------------------------------------------------------------
    async def _load_bodies(self, evicted: list[Item]) -> bool:
        """Have the bodies of the tells whose turn comes; False to look at the queue again."""
        for item in evicted:
            try:
                found = await self._activation.shard.load(item)
            except Unreachable:
                await self._activation.pause()
                return False
            if not self._activation.live:
                return False
            if not found:  # another runner settled it: see what it recorded
                self._end(item, ack=False)
                self._activation.phase = Cold()
                return False
        return True
