"""An activation: one entity in memory, one command at a time.

It owns the entity's mailbox and, while it is running, the fold of its log. A worker task exists
only while there is something to do; it recovers (durable/recovery.py), plans (durable/plan.py),
appends (durable/append.py), and only then answers and acknowledges. Phases: `Cold` (nothing in
memory yet), `Running` (a fold), `Quarantined` (a log that can't be folded: asks are refused, tells
stay un-acked and out of memory, neighbours go on).

`live` ends once and for all when the shard goes: from then on nothing is answered, acked or sent.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol, TypeAlias

import msgspec

from ..entities.address import Address
from ..entities.errors import (
    AlreadyProcessingMessage,
    ClusterError,
    EntityNotAssignedToRunner,
    MailboxFull,
    MalformedMessage,
    PersistenceError,
    RpcClientError,
    SendTimeout,
    SerializationError,
)
from ..entities.retry import delay_s
from ..streams.commit import FORMAT, Commit, Damaged, Outcome, seal, unseal
from ..streams.port import Unreachable
from . import snapshot
from .answers import Answers, outcome_answer, versions
from .append import InLog, Overtaken, Rejected, append
from .folded import Folded
from .host import Host
from .item import Item
from .mailbox import Admission, Mailbox
from .marks import add_mark, remove_mark
from .plan import Limits, Plan, dead_letter, defect_error, make_plan
from .reading import Reading
from .reads import Read
from .recovery import recover

logger = logging.getLogger("perdure.activation")

BODIES = 8
"""Tells whose bodies one entity keeps in memory; the others are read again before their turn, so
that one slow entity can't use up its shard's credit."""

RECENT = 32
"""Outcomes whose answers are kept to spare a read of the log on a repeat."""

RETRY_S = 0.1
"""Between tries while the backend can't be reached, in seconds."""

ASIDE_S = 60.0
"""How long an ask waits for its caller's last tell, in seconds: longer than callers do."""

REJECTED_S = 1.0
"""Between tries while the log refuses, in seconds."""

QUARANTINE_S = 30.0
"""How long a log that can't be folded is left alone before the next try, in seconds."""


class ShardPort(Protocol):
    """What an activation needs of its shard."""

    @property
    def owned(self) -> bool:
        """Whether this runner still believes to own the shard."""
        ...

    def settled(self, item: Item) -> None:
        """A tell has a recorded outcome: ack it, if its term is still ours."""
        ...

    def evict(self, item: Item) -> None:
        """A tell's body leaves memory; its credit is free."""
        ...

    def told(self, activation: Activation, item: Item) -> bool:
        """Whether the tell that an ask waits for has taken effect."""
        ...

    async def load(self, item: Item) -> bool:
        """Read an evicted tell's body again; False if the stream has it no more."""
        ...

    def drop(self, reason: str) -> None:
        """End the term, and every activation of the shard."""
        ...


@dataclass(frozen=True, slots=True)
class Cold:
    """Nothing in memory yet."""


@dataclass(slots=True)
class Running:
    """The entity is in memory."""

    folded: Folded


@dataclass(slots=True)
class Quarantined:
    """The log can't be folded."""

    why: str
    until: float  # loop time, seconds
    parked: list[Item]  # tells that stay un-acked


Phase: TypeAlias = Cold | Running | Quarantined


class Activation:
    """One entity in memory. Made, fed and dropped by its shard."""

    def __init__(self, host: Host, shard: ShardPort, answers: Answers, address: Address) -> None:
        self.host, self.shard, self.answers, self.address = host, shard, answers, address
        self.phase: Phase = Cold()
        self.mailbox = Mailbox(host.settings.mailbox_capacity, host.settings.askers)
        self.reading = Reading(self)
        self.live = True
        self.used = 0.0  # loop time of the last message, seconds
        self._worker: asyncio.Task[None] | None = None
        self.recent: OrderedDict[str, tuple[str, bytes]] = OrderedDict()
        self._saving: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        phase = type(self.phase).__name__
        return f"Activation({self.address}, {phase}, {self.mailbox.statistics()})"

    @property
    def folded(self) -> Folded | None:
        """What its log folds to, while it is running."""
        return self.phase.folded if isinstance(self.phase, Running) else None

    @property
    def idle(self) -> bool:
        """Whether nothing is lost but time if it leaves memory."""
        parked = isinstance(self.phase, Quarantined) and self.phase.parked
        return not (self.busy or parked)

    @property
    def busy(self) -> bool:
        """Whether somebody waits for it, or it is at work."""
        return bool(len(self.mailbox) or self.reading.busy or self._worker or self._saving)

    # -- what arrives ---------------------------------------------------------------------------
    def ask(self, item: Item) -> None:
        """A command by ask: queued, attached to the same one that waits, or refused at once."""
        self.used = item.since
        full = self.host.load.full()
        known = self.mailbox.find(item.name) is not None
        match Admission.FULL if full and not known else self.mailbox.admit(item):
            case Admission.ATTACHED:
                waiting = self.mailbox.find(item.name)
                assert waiting is not None
                self.mailbox.attach(item.askers[0], waiting)
                self.answers.error_of(item, AlreadyProcessingMessage(), self.address)
            case Admission.FULL:
                capacity = self.host.load.capacity if full else self.host.settings.mailbox_capacity
                error = MailboxFull(capacity=capacity, may_have_taken_effect=True)
                self.answers.error_of(item, error, self.address)
            case Admission.QUEUED:
                if item.after is not None and self.shard.told(self, item):
                    item.after = None
                self.host.load.add(item.size)
                self.mailbox.add(item)
                self.kick()

    def tell(self, item: Item) -> None:
        """A command by tell. It is un-acked until it has a recorded outcome."""
        self.used = item.since
        if isinstance(self.phase, Quarantined):
            self._park(item)
            return
        if len(self.mailbox.queue) >= BODIES:
            self.shard.evict(item)
        self.mailbox.add(item)
        self.kick()

    def read(self, read: Read) -> None:
        """A query or a control message."""
        self.used = read.since
        self.reading.add(read)
        self.kick()

    def kick(self) -> None:
        """Let the worker work, if there is something to do."""
        if self._worker is None and self.live and (self.mailbox.queue or self.reading.urgent()):
            self._worker = asyncio.get_running_loop().create_task(self._work())

    def promote(self) -> None:
        """Let the asks go on whose tell has taken effect."""
        if self.mailbox.aside:
            self.mailbox.promote(lambda item: self.shard.told(self, item))
            self.kick()

    def expire(self, now: float) -> None:
        """Refuse the asks whose tell doesn't come: their callers gave up long ago."""
        for item in [i for i in self.mailbox.aside if now - i.since > ASIDE_S]:
            why = "the tell before it was not delivered in time"
            self._refuse_item(item, SendTimeout(cause=why))

    def drop(self, reason: str) -> None:
        """The shard goes: asks are told so, tells stay un-acked. For good."""
        if not self.live:
            return
        self.live = False
        runner = self.host.runner
        for item in list(self.mailbox):
            if item.way == "ask":
                self.host.load.remove(item.size)
            self.answers.error_of(
                item, EntityNotAssignedToRunner(runner=runner, cause=reason), self.address
            )
        self.reading.refuse(
            EntityNotAssignedToRunner(runner=runner, cause=reason, may_have_taken_effect=False)
        )

    # -- the worker -----------------------------------------------------------------------------
    async def _work(self) -> None:
        try:
            while self.live and (self.mailbox.queue or self.reading.urgent()):
                match self.phase:
                    case Running(folded):
                        await self._step(folded)
                    case Cold():
                        await self._recover()
                    case Quarantined() as phase:
                        if not self.reconsider():
                            self._refuse_all(phase)
        except Exception:
            logger.exception(
                "the worker of %s failed",
                self.address,
                extra={"action": "activation.failed", "address": str(self.address)},
            )
            self.shard.drop("an internal error")
        finally:
            self._worker = None
        self.kick()

    async def _recover(self) -> None:
        host = self.host
        try:
            folded = await recover(host.session, host.entity, self.address, host.ledger_limits)
        except Unreachable:
            await asyncio.sleep(RETRY_S)
        except Damaged as error:
            self.quarantine(str(error))
        else:
            self.phase = Running(folded)

    async def _step(self, folded: Folded) -> None:
        if self.reading.urgent():
            await self.reading.serve(folded)
            return
        if not await self._load_bodies():
            return
        plan = make_plan(
            self.host.entity,
            self.address,
            folded,
            self.mailbox.queue,
            limits=self.host.plan_limits,
            now_ns=self.host.session.clock.now_ns(),
        )
        await self._carry_out(folded, plan)

    async def _carry_out(self, folded: Folded, plan: Plan) -> None:
        for item in plan.rewound:
            logger.error(
                "%s: the command stream was rewound: sequence %s came a second time",
                self.address,
                item.at,
                extra={"action": "stream.rewound", "address": str(self.address)},
            )
        for item, found in plan.recorded:
            if not await self._answer_recorded(item, found.sequence) or not self.live:
                return
        for item in plan.processed:
            self._log("tell.processed", item)
            self._finish(item, None)
        if plan.refused and not await self._refuse(folded, plan):
            return
        if plan.suspect is not None:
            await self._try_suspect(folded, plan.suspect)
        elif plan.outcomes:
            await self._commit(folded, plan)
        elif plan.defect is not None:
            await self._defect(folded, *plan.defect)

    # -- verdicts without an append -------------------------------------------------------------
    async def _answer_recorded(self, item: Item, sequence: int) -> bool:
        """Answer a repeated command with what is recorded; False to try again later."""
        for name in (item.name, item.cause):
            kept = self.recent.get(name) if name is not None else None
            if kept is not None and kept[0] == item.payload_hash:
                self._finish(item, kept[1])
                return True
        try:
            stored = await self.host.session.log.by_sequence(self.address.entity, sequence)
            commit = None if stored is None else unseal(stored)
        except Unreachable:
            await asyncio.sleep(RETRY_S)
            return False
        except Damaged as error:
            self.quarantine(str(error))
            return False
        if not self.live:
            return False
        for outcome, version in zip(
            commit.outcomes if commit else (), versions(commit) if commit else (), strict=True
        ):
            if outcome.name in (item.name, item.cause):
                self._log("ledger.hit", item)
                if outcome.dead is not None and item.way == "tell":
                    await self._copy_dead(outcome)
                if self.live:
                    self._finish(item, outcome_answer(outcome, sequence, version))
                return True
        self.quarantine(f"sequence {sequence}: the recorded outcome isn't there")
        return False

    async def _refuse(self, folded: Folded, plan: Plan) -> bool:
        """Refuse asks, once the leader confirmed that nothing newer is known; else reload."""
        reused = all(isinstance(error, MalformedMessage) for _, error in plan.refused)
        if not reused and not await self.fresh(folded):
            return False
        for item, error in plan.refused:
            self._refuse_item(item, error)
        return True

    def _refuse_item(self, item: Item, error: ClusterError) -> None:
        self.answers.error_of(item, error, self.address)
        self._remove(item)

    async def fresh(self, folded: Folded) -> bool:
        """Whether the leader has nothing newer than our fold; if it has, the fold is dropped."""
        while self.live:
            try:
                last = await self.host.session.log.last(self.address)
            except Unreachable:
                await asyncio.sleep(RETRY_S)
                continue
            if (0 if last is None else last.sequence) == folded.sequence:
                return self.live
            if self.folded is folded:
                self.log("state.stale")
                self.phase = Cold()
            return False
        return False

    # -- commits --------------------------------------------------------------------------------
    async def _commit(self, folded: Folded, plan: Plan) -> bool:
        """Append what was decided; True if it is in the log and answered."""
        host = self.host
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
        sealed = seal(commit)
        for item in plan.taken:
            item.published = True
        result = await append(
            host.session.log,
            self.address,
            sealed,
            expected=folded.sequence,
            owned=lambda: self.live and self.shard.owned,
            entropy=host.session.entropy,
        )
        if not self.live:
            return False
        match result:
            case InLog(sequence):
                folded.adopt(commit, sealed.mark, len(sealed.data), sequence, plan.state)
                await self._committed(folded, plan, commit, sequence)
                return True
            case Overtaken(owned):
                self.log("append.overtaken")
                self.phase = Cold()
                if not owned:
                    self.shard.drop("another runner owns the shard")
            case Rejected(why):
                await self._rejected(plan, why)
        return False

    async def _committed(self, folded: Folded, plan: Plan, commit: Commit, sequence: int) -> None:
        for item, outcome, version in zip(
            plan.taken, plan.outcomes, versions(commit), strict=True
        ):
            if outcome.dead is not None:
                self._log("command.dead", item, level=logging.ERROR)
                await self._copy_dead(outcome)
                if not self.live:
                    return
            data = outcome_answer(outcome, sequence, version)
            self._remember(outcome, data)
            self._finish(item, data)
            if item.marked and item.cause is not None:
                await remove_mark(self.host.session.members, self.address.entity, item.cause)
        self._save_if_due(folded)

    async def _rejected(self, plan: Plan, why: str) -> None:
        for item in plan.taken:
            if item.way == "ask":
                self._refuse_item(item, PersistenceError(cause=why))
        self.log("append.rejected", level=logging.ERROR)
        await asyncio.sleep(REJECTED_S)

    async def _copy_dead(self, outcome: Outcome) -> None:
        """The operators' copy, before the tell's ack. The verdict itself is in the log."""
        for attempt in (1, 2, 3):
            if await self.host.session.dead.put(self.address, msgspec.json.encode(outcome)):
                return
            await asyncio.sleep(RETRY_S * attempt)
        self.log("deadletter.not_copied", level=logging.ERROR)

    async def _try_suspect(self, folded: Folded, item: Item) -> None:
        """Run a command alone that may have killed its process, after a mark."""
        assert item.cause is not None
        session, entity = self.host.session, self.host.entity
        count = await add_mark(session.members, entity.name, item.cause)
        self._log("suspect.marked", item)
        item.suspect, item.marked = False, True
        if not self.live:
            return
        if count > self.host.settings.poison_marks:
            error = RpcClientError(
                cause=f"poison: it ended its process {count - 1} times",
                may_have_taken_effect=False,
            )
            await self._bury(folded, item, "poison", error)
        else:
            limits = self.host.plan_limits
            plan = make_plan(
                entity,
                self.address,
                folded,
                [item],
                limits=Limits(1, limits.bytes, limits.max_bytes),
                now_ns=session.clock.now_ns(),
            )
            await self._carry_out(folded, plan)

    async def _defect(self, folded: Folded, item: Item, error: Exception) -> None:
        policy = self.host.settings.defect_retry
        item.attempts += 1
        logger.error(
            "%s: a defect in the handler of %s (attempt %d of %d)",
            self.address,
            type(item.command).__name__,
            item.attempts,
            policy.attempts,
            exc_info=error,
            extra={"action": "handler.defect", "address": str(self.address)},
        )
        if item.attempts < policy.attempts:
            jitter = self.host.session.entropy.uniform(0.0, 1.0)
            await asyncio.sleep(delay_s(policy, item.attempts, jitter))
        elif item.way == "tell":
            await self._bury(folded, item, "defect", defect_error(error))
        elif await self.fresh(folded):
            self._refuse_item(item, defect_error(error))

    async def _bury(self, folded: Folded, item: Item, reason: str, error: ClusterError) -> None:
        """A dead letter: a conditional commit like any other."""
        outcome = dead_letter(item, reason, error, named=True)
        plan = Plan(taken=[item], outcomes=[outcome], state=folded.state)
        await self._commit(folded, plan)

    # -- the end of a command -------------------------------------------------------------------
    def _finish(self, item: Item, answer: bytes | None) -> None:
        if answer is not None:
            self.answers.send(item.askers, answer)
            self.reading.settled(item.name, answer)
        self._remove(item)
        if item.way == "tell":
            self.shard.settled(item)
            self.promote()

    def _remove(self, item: Item) -> None:
        self.mailbox.remove(item)
        if item.way == "ask":
            self.host.load.remove(item.size)

    def _remember(self, outcome: Outcome, answer: bytes) -> None:
        self.recent[outcome.name] = (outcome.payload_hash, answer)
        if len(self.recent) > RECENT:
            self.recent.popitem(last=False)

    # -- bodies ---------------------------------------------------------------------------------
    async def _load_bodies(self) -> bool:
        """Have the bodies of the tells whose turn comes; False to look at the queue again."""
        front = [i for n, i in zip(range(BODIES), self.mailbox.queue, strict=False) if i.evicted]
        for item in front:
            try:
                found = await self.shard.load(item)
            except Unreachable:
                await asyncio.sleep(RETRY_S)
                return False
            if not self.live:
                return False
            if not found:  # another runner settled it: see what it recorded
                self.mailbox.remove(item)
                self.phase = Cold()
                return False
        return True

    # -- snapshots ------------------------------------------------------------------------------
    def _save_if_due(self, folded: Folded) -> None:
        settings = self.host.settings
        if self._saving is None and snapshot.due(
            folded,
            min_commits=settings.snapshot_min_commits,
            max_commits=settings.snapshot_max_commits,
        ):
            self._saving = asyncio.get_running_loop().create_task(self._save(folded))

    async def _save(self, folded: Folded) -> None:
        try:
            body = snapshot.encode(self.host.entity, folded)
            folded.tail_commits = folded.tail_bytes = 0
            folded.snapshot_bytes = len(body)
            stored = await snapshot.put(self.host.session.snapshots, self.address, body)
            self.log("snapshot.stored" if stored else "snapshot.not_stored")
        except Exception:  # the state can't be encoded: user code; the log stays the truth
            logger.exception(
                "no snapshot of %s",
                self.address,
                extra={"action": "snapshot.failed", "address": str(self.address)},
            )
        finally:
            self._saving = None

    # -- quarantine -----------------------------------------------------------------------------
    def quarantine(self, why: str) -> None:
        """The log can't be folded: refuse asks, park tells, until a later try."""
        self.log("entity.quarantined", level=logging.CRITICAL, why=why)
        self.phase = Quarantined(why, loop_time() + QUARANTINE_S, [])

    def _refuse_all(self, phase: Quarantined) -> None:
        error = SerializationError(cause=f"quarantined: {phase.why}", may_have_taken_effect=True)
        for item in list(self.mailbox):
            if item.way == "ask":
                self._refuse_item(item, error)
            else:
                self.mailbox.remove(item)
                self._park(item)
        self.reading.refuse(error)

    def reconsider(self) -> bool:
        """Try a quarantined log again, once its time has come: whether there is one to try."""
        phase = self.phase
        if not isinstance(phase, Quarantined) or loop_time() < phase.until:
            return False
        self.phase = Cold()
        for item in sorted(phase.parked, key=lambda i: i.at.sequence if i.at else 0):
            self.mailbox.add(item)
        self.kick()
        return True

    def _park(self, item: Item) -> None:
        assert isinstance(self.phase, Quarantined)
        self.shard.evict(item)
        parked = [i for i in self.phase.parked if i.at != item.at]
        self.phase.parked = [*parked, item]

    # -- what operators see ---------------------------------------------------------------------
    def log(self, action: str, *, level: int = logging.DEBUG, why: str = "") -> None:
        """One line about this entity, under a stable `action`."""
        extra = {"action": action, "address": str(self.address)}
        logger.log(level, "%s: %s %s", action, self.address, why, extra=extra)

    def _log(self, action: str, item: Item, *, level: int = logging.DEBUG) -> None:
        extra = {"action": action, "address": str(self.address), "request": item.request}
        logger.log(level, "%s: %s %s", action, self.address, item.name, extra=extra)


def loop_time() -> float:
    """The event loop's clock, in seconds."""
    return asyncio.get_running_loop().time()
