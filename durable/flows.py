"""Flows: what an activation does about its entity's flows.

A flow that runs, by the log, is driven on before anything else: the entity is held until it
waits. What begins or wakes one comes by tell, so that it can't be lost; an ask is put into the
stream, and its asker waits for the outcome like one who asks for a result.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, assert_never

import msgspec
from msgspec import Raw

from ..entities.errors import (
    ClusterError,
    MailboxFull,
    MalformedMessage,
    RpcClientError,
    Suspended,
)
from ..entities.record import (
    Answered,
    Armed,
    Asked,
    Cancelled,
    Fired,
    Opened,
    Record,
    Resolved,
    Waits,
)
from ..entities.retry import delay_s
from ..entities.story import CANCELLED, PARKED, FlowCancelled, Mismatch, Misuse
from ..entities.waits import WrongValue
from ..streams.asks import NULL, Envelope, encode_envelope
from ..streams.codec import digest
from ..streams.commit import FlowPart, Outcome
from ..streams.port import Appended, Full
from ..streams.token import ASK, BadToken, Body
from . import spans
from .answers import FLOW, outcome_answer
from .asking import again_ms
from .deadletter import bury_flow, copy_flow
from .defect import described
from .flow import DEADLINE, Drive, begun_by, command_of, ended_by, given_up
from .folded import Folded
from .item import Item
from .marks import add_mark, remove_mark
from .openflow import KEPT, STUCK, OpenFlow, names_of
from .pages import Absent
from .paging import load
from .plan import Plan, Unencodable, defect_error
from .scheduling import tell_next
from .timers import Timing, arm, arm_burial, has_burial, is_over, listed
from .waker import BURIAL, OPEN, AnswerCame, Cancel, Resume, Retry, TimerFired, Waker

if TYPE_CHECKING:
    from .activation import Activation

logger: logging.Logger = logging.getLogger("perdure.flow")

REPLIED = Outcome(name="", payload_hash="", reply=NULL)
"""What whoever wakes a flow is answered: it is recorded, now or before."""

STORED = 256
"""Asks of one entity, at most, that are known to be in the stream."""

CERTAIN = (Mismatch, Misuse, Unencodable)
"""What is wrong with a flow at each try."""


class Flows:
    """The flows of one entity in memory."""

    def __init__(self, activation: Activation) -> None:
        self._activation = activation
        self.held: list[Item] = []
        """Tells that wait while a flow has the entity for itself."""
        self.copied: tuple[int, ...] = ()
        """Sequences of the last verdicts on flows whose copies are stored."""
        self._attempts: dict[str, int] = {}  # turns in a row that failed, by flow
        self._stored: OrderedDict[str, None] = OrderedDict()  # asks that are in the stream

    # -- before anything else -------------------------------------------------------------------
    def first(self, folded: Folded) -> bool:
        """Whether something is to be done before any command is taken."""
        if not folded.flows:
            return bool(self.held)
        return folded.running is not None or bool(self.held and folded.exclusive is None)

    async def do_first(self, folded: Folded) -> None:
        """Do it: have a turn that somebody else began, let go what was held."""
        flow = folded.running
        if flow is not None:
            await self.drive_on(folded, flow)
        else:
            self._let_go(folded)

    def _let_go(self, folded: Folded) -> None:
        """What was held may have its turn again."""
        if folded.exclusive is None:
            self.put_back()

    def put_back(self) -> None:
        """What was held has its turn again, or is held again."""
        held, self.held = self.held, []
        self._activation.mailbox.put_back(held)

    async def hold(self, folded: Folded, items: list[Item]) -> bool:
        """A flow has the entity for itself: refuse asks, of which another owner may have copies,
        and let tells wait. Whether that is still so."""
        activation, flow = self._activation, folded.exclusive
        if flow is None or not await activation.fresh(folded):
            return False
        for item in items:
            if item.way == "ask":
                activation.refuse(item, _refusal(flow))
            else:
                self._hold(item)
        return True

    def _hold(self, item: Item) -> None:
        self._activation.mailbox.remove(item)
        if not item.evicted:
            self._activation.shard.evict(item)
        self.held.append(item)

    # -- what comes -----------------------------------------------------------------------------
    async def take(self, folded: Folded, item: Item) -> None:
        """Do what a command says that begins a flow, wakes one, or repeats what did."""
        if item.way == "ask":
            await self._take_ask(folded, item)
        elif isinstance(item.command, Waker):
            item.overtakes = bool(self.held) or self._activation.mailbox.is_behind_tells(item)
            await self._wake(folded, item, item.command)
        elif (flow := folded.flows.get(item.name)) is not None:
            self._answer(item, self.standing(flow))
        else:
            await self._have(folded, item.name, item, [])

    async def drive_on(self, folded: Folded, flow: OpenFlow) -> None:
        """Have the turn of a flow that began it and didn't end it: whoever had it is gone.

        Perhaps of that, so it is marked first, like any suspect.
        """
        host, address = self._activation.host, self._activation.address
        cause = f"flow-{digest(f'{address}/{flow.name}'.encode())}"
        try:
            count = await add_mark(host.session.members, host.entity.name, cause)
            if not self._activation.live:
                return
            if count > host.settings.poison_marks:
                why = f"poison: it ended its process {count - 1} times"
                await self._park(folded, flow.name, why)
            else:
                await self._have(folded, flow.name, None, [])
            if self._activation.live:
                await remove_mark(host.session.members, host.entity.name, cause)
        finally:
            if not self._activation.live:  # the process lives
                unmark = remove_mark(host.session.members, host.entity.name, cause)
                self._activation.shard.spawn(unmark)

    async def _wake(self, folded: Folded, item: Item, waker: Waker) -> None:
        match waker:
            case Resume():
                await self._resume(folded, item, waker)
            case TimerFired():
                await self._fired(folded, item, waker)
            case Cancel() if item.way == "tell" and any(h.name == waker.flow for h in self.held):
                self._hold(item)  # behind what it cancels
            case Cancel():
                await self._go_on(folded, item, waker.flow, [Cancelled(CANCELLED)])
            case Retry():
                await self._go_on(folded, item, waker.flow, [])
            case AnswerCame():
                await self._answered(folded, item, waker)
            case _:
                assert_never(waker)

    async def _resume(self, folded: Folded, item: Item, resume: Resume) -> None:
        body = await self._verified(folded, item, resume.token, "the resume token")
        if body is None:
            return
        flow = folded.flows.get(body.flow)
        opened = None if flow is None else flow.opened(body.deferred)
        if flow is None or opened is None or opened.nonce != body.nonce:
            if not await self._activation.fresh(folded):
                return
            if flow is not None and flow.keeps_another(body.deferred, body.nonce, resume.value):
                await self._refuse(folded, item, f"{KEPT} for deferred {body.deferred}")
                return
            self._done(folded, item)  # it was resolved before
            return
        await self._happened(folded, flow, item, Resolved(body.deferred, resume.value))

    async def _answered(self, folded: Folded, item: Item, came: AnswerCame) -> None:
        body = await self._verified(folded, item, came.token, "the answer's token")
        if body is None:
            return
        flow, name = folded.flows.get(body.flow), body.deferred.removeprefix(ASK)
        asked = None if flow is None else flow.asked(name)
        theirs = asked is not None and asked.nonce == body.nonce
        if flow is None or not theirs or not body.deferred.startswith(ASK):
            if await self._activation.fresh(folded):  # it was answered before
                self._done(folded, item)
            return
        answer = came.answer
        told = _told(answer.error) if isinstance(answer.error, Raw) else None
        await self._happened(
            folded, flow, item, Answered(name, answer.reply, answer.failure, told)
        )

    async def _verified(self, folded: Folded, item: Item, token: str, what: str) -> Body | None:
        """What a token says; None if it isn't one of this entity, which is refused."""
        host = self._activation.host
        try:
            return host.tokens.verify(token, self._activation.address, host.server_ms())
        except BadToken as why:
            await self._refuse(folded, item, f"{what}: {why}")
            return None

    async def _happened(self, folded: Folded, flow: OpenFlow, item: Item, *woken: Record) -> None:
        """Let a flow go on with what happened; one that is parked only learns of it."""
        if flow.parked is None:
            await self._have(folded, flow.name, item, list(woken))
        elif await self._store(folded, begun_by(item, FlowPart(flow.name, woken, flow.parked))):
            self._done(folded, item)

    async def _fired(self, folded: Folded, item: Item, fired: TimerFired) -> None:
        """It counts only if the flow waits for that very time, and it has come by the server."""
        activation = self._activation
        if fired.timer == BURIAL:
            await self._bury(folded, item, fired)
            return
        flow = folded.flows.get(fired.flow)
        asked = None if flow is None else flow.asked(fired.timer.removeprefix(ASK))
        if flow is not None and asked is not None and fired.timer.startswith(ASK):
            await self._ask_again(folded, item, flow, asked, fired)
            return
        armed = None if flow is None else Timing(flow.records).pending.get(fired.timer)
        host = activation.host
        if fired.timer == OPEN and flow is not None:
            armed = listed(host.server_ms())
        at_ms = host.server_ms() if item.at is None else item.at.time_ns // 1_000_000
        if flow is None or armed is None:
            await self._fired_for_nobody(folded, item, fired)
            return
        if armed.due_ms != fired.due_ms or at_ms < armed.due_ms:  # what is pending is armed
            if not await activation.fresh(folded):
                return
            if await arm(host, activation.address, flow.name, armed):
                self._done(folded, item)
            else:
                await activation.pause()
            return
        woken: list[Record] = [Fired(fired.timer)]
        if fired.timer == DEADLINE:
            woken.append(Cancelled("its deadline has passed"))
        await self._happened(folded, flow, item, *woken)

    async def _bury(self, folded: Folded, item: Item, fired: TimerFired) -> None:
        """A flow was to end as a dead letter: see that this has its copy, now or later."""
        if fired.flow in folded.flows:  # a slow owner's commit may be on its way, which then fails
            known = await self._store(folded, begun_by(item, None))
        else:
            known = await self._activation.fresh(folded)
        if known and await bury_flow(self._activation, folded, fired):
            self._done(folded, item)

    async def _fired_for_nobody(self, folded: Folded, item: Item, fired: TimerFired) -> None:
        """Nothing that is recorded waits for it: that is over, or it was never recorded.

        A timer is armed before that, and whoever armed it may be slower than it: an owner that was
        frozen, whose commit is on its way. It would wait for what has come already. So unless it
        is over this is recorded: then no such commit fits the log any more.
        """
        try:
            over = is_over(folded, fired)
        except Absent as absent:
            await load(self._activation, folded, absent)
            return
        if over:
            recorded = await self._activation.fresh(folded)
        else:
            recorded = await self._store(folded, begun_by(item, None))
        if recorded:
            self._done(folded, item)

    async def _ask_again(
        self, folded: Folded, item: Item, flow: OpenFlow, asked: Asked, fired: TimerFired
    ) -> None:
        """An answer may have been lost with its process."""
        activation, host = self._activation, self._activation.host
        if not await activation.fresh(folded):
            return
        now_ms = host.server_ms()
        due_ms = now_ms + again_ms(now_ms - (flow.changed_ms or flow.since_ms))
        if not await arm(host, activation.address, flow.name, Armed(fired.timer, due_ms)):
            await activation.pause()
            return
        host.asking.ask(activation.address, flow.name, asked, flow.chain, flow.trace)
        self._done(folded, item)

    async def _go_on(self, folded: Folded, item: Item, key: str, woken: list[Record]) -> None:
        """Let a flow have a turn, also one that is parked, if it is open at all."""
        flow = folded.flows.get(key)
        if flow is not None:
            await self._have(folded, key, item, woken)
        elif await self._activation.fresh(folded):
            self._done(folded, item)

    async def _refuse(self, folded: Folded, item: Item, why: str) -> None:
        error = MalformedMessage(cause=why, may_have_taken_effect=False)
        if item.way == "tell":
            await self._activation.execution.bury(folded, item, "malformed", error)
        elif await self._activation.fresh(folded):
            self._activation.refuse(item, error)

    # -- asks -----------------------------------------------------------------------------------
    async def _take_ask(self, folded: Folded, item: Item) -> None:
        """Store it as a tell, unless its flow is open; its askers wait for the outcome."""
        activation, host = self._activation, self._activation.host
        flow = folded.flows.get(item.name)
        if flow is None and item.name in self._stored and activation.reading.awaited(item):
            pass  # it is in the stream
        elif flow is None:
            envelope = Envelope(
                *(1, "tell", item.raw, item.name),
                birth=item.birth,
                request=item.request,
                deadline=item.deadline,
                trace=item.trace,
            )
            answer = await host.session.commands.publish(
                activation.address, encode_envelope(envelope)
            )
            if not activation.live:
                return
            match answer:
                case Appended():
                    self._stored[item.name] = None
                    while len(self._stored) > STORED:
                        self._stored.popitem(last=False)
                case Full() if isinstance(item.command, Waker):
                    # What fills it may wait for this very flow. And it brings the entity back to
                    # memory, should this process end before the flow waits again.
                    item.overtakes = True
                    await self._wake(folded, item, item.command)
                    return
                case Full():
                    full = MailboxFull(capacity=host.settings.mailbox_capacity)
                    activation.refuse(item, full)
                    return
                case _:  # it may be stored: its asker repeats, and this finds out
                    await activation.pause()
                    return
        elif not await activation.fresh(folded):
            return
        if not activation.live:
            return
        activation.remove(item)
        activation.reading.await_outcome(item)
        if flow is not None:
            activation.reading.suspended(item.name, self.standing(flow))
        host.counts.answered("ask", "stored")

    # -- turns ----------------------------------------------------------------------------------
    async def _have(
        self, folded: Folded, key: str, item: Item | None, woken: list[Record]
    ) -> None:
        """Have a turn, and tell who wants to know."""
        drive = Drive(self._activation, folded, key, item, woken)
        try:
            await drive.turn()
        except Exception as error:
            if self._activation.live and not drive.lost:
                await self._failed(folded, drive, item, woken, error)
            return
        if drive.lost or not self._activation.live:
            return
        self._attempts.pop(key, None)
        self._forget_asks(key, woken)
        if drive.ended is None:
            self._waits(folded, key, item)
        else:
            self._forget(key, drive.records, was_parked=drive.was_parked)
            await self._ended(folded, item, *drive.ended, drive.opened)
        self._activation.execution.saving.after_commit(folded)
        self._let_go(folded)

    def _waits(self, folded: Folded, key: str, item: Item | None) -> None:
        error = self.standing(folded.flows[key])
        self._activation.reading.suspended(key, error)
        if item is None:
            return
        if isinstance(item.command, Waker):
            self._done(folded, item, folded.flows[key])
        else:
            self._answer(item, error)

    def _forget(self, key: str, records: Iterable[Record], *, was_parked: bool) -> None:
        """It has ended: nobody waits for its timers."""
        armed = Timing(records).armed(was_parked=was_parked)
        self._activation.host.forgetting.add(self._activation.address, key, armed)

    def _forget_asks(self, key: str, woken: Iterable[Record]) -> None:
        """What has been answered isn't asked again: else each such timer would fire for nobody,
        as a tell of its own, which the leader of the log is asked about."""
        answered = [Armed(f"{ASK}{one.name}", 0) for one in woken if isinstance(one, Answered)]
        if answered:
            self._activation.host.forgetting.add(self._activation.address, key, answered)

    def _push(self, asker: str, answer: bytes) -> None:
        """Bring the outcome to another flow that waits for it."""
        host = self._activation.host
        try:
            host.asking.push(FLOW + host.tokens.signed(asker), answer)
        except BadToken as error:
            logger.error("no flow is answered: %s", error, extra={"action": "flow.strange"})

    async def _ended(
        self,
        folded: Folded,
        item: Item | None,
        final: Outcome,
        sequence: int,
        flow: OpenFlow | None = None,
    ) -> None:
        """It has its outcome. `flow`: as it was before this turn, if it was open."""
        execution = self._activation.execution
        buried = final.dead is None or await copy_flow(
            self._activation, sequence, final, command_of(flow, item)
        )
        if not self._activation.live:
            return
        answer = outcome_answer(final, sequence, folded.version)
        settled = buried or has_burial(final)
        if settled:  # else its tell comes again, to be copied
            execution.remember(final, answer)
        if flow is not None and flow.asker is not None:
            self._push(flow.asker, answer)
        host, address = self._activation.host, self._activation.address
        counts = host.counts
        if item is not None and not isinstance(item.command, Waker):
            counts.decided(item.way, final)
            took_s = asyncio.get_running_loop().time() - item.since
            spans.decided(host.tracer, address, item, final, took_s)
            execution.finish(item, answer, final.name, ack=settled)
            return
        counts.decided("flow", final)
        if flow is not None:
            spans.ended(host.tracer, address, flow, final, host.server_ms())
        self._activation.reading.settled(final.name, final.payload_hash, answer)
        if item is not None:
            self._done(folded, item, flow)

    def _done(self, folded: Folded, item: Item, flow: OpenFlow | None = None) -> None:
        """What woke a flow, if it is open, is recorded."""
        host = self._activation.host
        host.counts.answered(item.way, "woke")
        took_s = asyncio.get_running_loop().time() - item.since
        spans.woke(host.tracer, self._activation.address, item, flow, took_s)
        answer = outcome_answer(REPLIED, folded.sequence, folded.version)
        self._activation.execution.finish(item, answer, item.name)

    def _answer(self, item: Item, error: ClusterError) -> None:
        """What began a flow is recorded, and the flow has no outcome yet."""
        if item.way == "tell":
            self._activation.host.counts.answered("tell", "suspended")
        self._activation.answers.error_of(item, error, self._activation.address)
        self._activation.execution.finish(item, None, item.name)

    # -- what goes wrong ------------------------------------------------------------------------
    async def _failed(
        self,
        folded: Folded,
        drive: Drive,
        item: Item | None,
        woken: list[Record],
        error: Exception,
    ) -> None:
        """A turn didn't end: have it again, or give up."""
        host, key = self._activation.host, drive.key
        if isinstance(error, WrongValue):
            assert item is not None
            await self._refuse(folded, item, str(error))
            return
        policy = host.settings.defect_retry
        attempt = self._attempts[key] = self._attempts.get(key, 0) + 1
        logger.error(
            "%s: flow %s failed (attempt %d of %d): %s",
            self._activation.address, key, attempt, policy.attempts, described(error),
            exc_info=error if attempt == 1 else None,
            extra={"action": "flow.failed", "address": str(self._activation.address)},
        )  # fmt: skip
        if attempt < policy.attempts and not isinstance(error, CERTAIN):
            await asyncio.sleep(delay_s(policy, attempt, host.session.entropy.uniform(0.0, 1.0)))
            return
        del self._attempts[key]
        if (why := given_up(folded, drive, woken, error)) is not None:
            await self._give_up(folded, drive, item, woken, why)
        elif key in folded.flows:
            await self._park(folded, key, described(error), drive, item, woken)
        else:
            assert item is not None
            await self._activation.execution.bury(folded, item, "defect", defect_error(error))

    async def _give_up(
        self, folded: Folded, drive: Drive, item: Item | None, woken: list[Record], why: str
    ) -> None:
        """A flow was cancelled, and can't be run to where it waits: it ends as it is."""
        key = drive.key
        flow = folded.flows[key]
        host, address = self._activation.host, self._activation.address
        await tell_next(host, address, key)
        final = ended_by(key, flow, FlowCancelled(why))
        if not await arm_burial(host, address, key, folded.sequence, flow.command):
            await self._activation.pause()
            return
        own: list[Outcome] = []
        if item is not None and not drive.stored:
            own = [begun_by(item, FlowPart(key, tuple(woken)))]
        plan = Plan(outcomes=[*own, final], state=folded.state)
        sequence = await self._activation.execution.store(folded, plan)
        if sequence is not None:
            self._forget(key, flow.records, was_parked=flow.was_parked)
            await self._ended(folded, item, final, sequence, flow)

    async def _park(
        self,
        folded: Folded,
        key: str,
        why: str,
        drive: Drive | None = None,
        item: Item | None = None,
        woken: Sequence[Record] = (),
    ) -> None:
        """Let a flow wait for an operator; what woke it isn't lost. `drive`: the turn, if it was
        tried."""
        hash = folded.flows[key].payload_hash
        # Where that isn't confirmed, it isn't listed.
        host = self._activation.host
        await arm(host, self._activation.address, key, listed(host.server_ms()))
        # In the middle of a turn it is let go: others may change the entity meanwhile.
        exclusive = drive is not None and drive.exclusive
        ends = (Waits(PARKED, exclusive),) if folded.flows[key].waits is None else ()
        outcome = Outcome(name=key, payload_hash=hash, flow=FlowPart(key, ends, why))
        if item is not None and drive is not None and not drive.stored:
            outcome = begun_by(item, FlowPart(key, (*woken, *ends), why))
        if await self._store(folded, outcome):
            self._activation.host.counts.parked += 1
            extra = {"action": "flow.parked", "address": str(self._activation.address)}
            logger.error(
                "%s: flow %s is parked: %s", self._activation.address, key, why, extra=extra
            )
            self._waits(folded, key, item)

    async def _store(self, folded: Folded, outcome: Outcome) -> bool:
        plan = Plan(outcomes=[outcome], state=folded.state)
        return await self._activation.execution.store(folded, plan) is not None

    # -- what callers are told ------------------------------------------------------------------
    def standing(self, flow: OpenFlow) -> ClusterError:
        """Why a flow has no outcome yet."""
        if flow.parked is not None:
            why = f"{STUCK}: {flow.parked}"
            return RpcClientError(cause=why, may_have_taken_effect=True, advice="fix")
        token: str | None = None
        for record in flow.records:
            if isinstance(record, Opened) and record.tell_caller and flow.opened(record.name):
                token = self._activation.host.tokens.of(
                    self._activation.address, flow.name, record
                )
        return Suspended(waits_for=names_of(flow), resume_token=token)


def _refusal(flow: OpenFlow) -> ClusterError:
    """What an ask is told while a flow has the entity for itself."""
    if flow.parked is None:
        return Suspended(
            cause=f"a flow has the entity for itself: {flow.name}",
            waits_for=names_of(flow),
            may_have_taken_effect=True,  # another owner may have a copy
            advice="retry with the same key",
        )
    why = f"{STUCK} that has the entity for itself, {flow.name}: {flow.parked}"
    return RpcClientError(cause=why, may_have_taken_effect=True, advice="fix")


def _told(error: Raw) -> str:
    """A cluster error's text, as another flow hears it."""
    found: dict[str, Any] = msgspec.json.decode(error)
    return f"{found.get('type')}: {found.get('cause') or ''}"
