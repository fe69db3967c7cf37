"""Drive: one turn of a flow in a runner, from what woke it until it waits or ends.

The entity is held meanwhile. What is new is stored in one commit where the turn ends, and before
each step; the first one of a turn names the command that began it, too. That command is
acknowledged when the turn has ended. Whoever finds a flow in the log that began a turn and didn't
end it has that turn before anything else (durable/flows.py).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from ..entities.contract import Contract
from ..entities.errors import RpcClientError
from ..entities.flowrun import FlowRun, Handler
from ..entities.later import TIME, later
from ..entities.record import Armed, Asked, Began, Cancelled, Ran, Record, Waits
from ..entities.steps import StepFailed
from ..entities.story import CANCELLED, UNDO, FlowCancelled, Mismatch, Misuse, Story
from ..entities.tagged import to_wire
from ..entities.waits import WrongValue
from ..streams.asks import NULL, raw
from ..streams.chain import Chain
from ..streams.codec import Undecodable, decode
from ..streams.commit import Dead, FlowPart, Outcome
from ..streams.token import ASK, BadToken
from .answers import FLOW
from .asking import again_ms
from .defect import described
from .effects import RunnerEffects
from .folded import Folded, evolve_all
from .item import Item
from .openflow import OpenFlow
from .plan import Plan, encode
from .scheduling import tell_next
from .timers import Timing, arm, arm_burial, has_burial, listed
from .waker import Waker

if TYPE_CHECKING:
    from .activation import Activation

logger: logging.Logger = logging.getLogger("perdure.flow")

SWALLOWED_S = 1.0
"""How long a flow's code may take to end where it waits, in seconds: what it opened is closed."""


DEADLINE = "(deadline)"
"""The timer of a command's own deadline: no code can name one so by chance."""

ENDED = "the flow has ended"
"""What the cause of the error begins with that callers of one get which was cancelled."""


class Drive:
    """One turn. `ended` is the flow's outcome once it has one."""

    def __init__(
        self,
        activation: Activation,
        folded: Folded,
        key: str,
        item: Item | None,
        woken: list[Record],
    ) -> None:
        """`item` is the command that begins the turn, None for one that is found begun; `woken`
        is what that says has happened."""
        self.key: str = key
        self.stored: bool = False
        """Whether anything of this turn is in the log."""
        self.lost: bool = False
        """Whether a commit isn't there: then the turn is over, and is had again."""
        self.ended: tuple[Outcome, int] | None = None
        """The flow's outcome and its sequence."""
        self.records: Sequence[Record] = ()
        """All that had happened in the flow when the turn was over."""
        self.exclusive: bool = False
        """Whether its code broke in an `exclusive`."""
        self._activation, self._host = activation, activation.host
        self._folded, self._item, self._woken = folded, item, woken
        self._flow: OpenFlow | None = folded.flows.get(key)
        self._open = self._flow is not None and self._flow.waits is None
        self._stopped = False  # whether it came to a line that waits
        self._over: asyncio.Future[None] | None = None  # while its code runs: until it stops

    def __repr__(self) -> str:
        return f"Drive({self._activation.address}, {self.key})"

    # -- the turn -------------------------------------------------------------------------------
    async def turn(self) -> None:
        """Have it. Raises what is wrong with the flow's code, or what that raises."""
        entity, address = self._host.entity, self._activation.address
        command, contract = self._command()
        effects = RunnerEffects(self, self._host, address)
        self._run: FlowRun[Any, Any] = FlowRun(
            *(entity, address, self.key, contract, self._story(), self._folded.state, effects)
        )
        work = self._run.carry_out(self._handler(contract), command)
        try:
            await self._carry_out(work, command)
        except Exception as error:
            self.exclusive = error is self._run.broke
            raise
        finally:
            self.records = self._run.story.records
            self._run.part()
            del self._run

    async def _carry_out(self, work: Coroutine[Any, Any, object], command: Any) -> None:
        """Run the code, and store what came of it."""
        task = asyncio.get_running_loop().create_task(work)
        waits = await self._until_it_stops(task)
        raised = task.done() and not task.cancelled() and task.exception()
        if self.lost or not self._activation.live:
            return
        if self._run.trouble is not None:
            await self._keep(self._run.trouble)
            raise self._run.trouble
        if waits and not task.cancelled():
            raise Misuse("it catches what ends it where it waits: say `except Exception`, or less")
        if waits:
            self._set_deadline()
            await self._append([self._progress()], self._run.events)
        elif task.cancelled():
            raise RuntimeError("the flow was cancelled by something that it waited for")
        elif isinstance(raised, BaseException):
            await self._keep(raised)
            if isinstance(raised, Exception):
                raise raised
            raise RuntimeError(described(raised)) from raised
        else:
            try:
                await self._end(task.result(), command)
            except Exception as error:
                if not self.lost and self._activation.live:
                    await self._keep(error)
                raise

    async def _keep(self, error: BaseException) -> None:
        """Its code is wrong: store what its steps did before, so that they aren't run again."""
        run = self._run
        if isinstance(error, WrongValue) or not self._entered:
            return
        if any(isinstance(record, Ran) for record in run.story.fresh):
            await self.flush()

    async def _until_it_stops(self, task: asyncio.Task[Any]) -> bool:
        """Let it run until it waits or ends; whether it waits."""
        self._over = over = asyncio.get_running_loop().create_future()

        def ended(task: asyncio.Task[Any]) -> None:
            _ = task.cancelled() or task.exception()  # seen, also where the turn is lost
            if not over.done():
                over.set_result(None)

        task.add_done_callback(ended)
        try:
            await over
            if self._stopped and not task.done():
                task.cancel()
                await asyncio.wait((task,), timeout=SWALLOWED_S)
            return self._stopped
        finally:
            self._over = None
            if not task.done():
                task.cancel()

    async def _end(self, decision: Any, command: Any) -> None:
        run, entity = self._run, self._host.entity
        run.finish()
        begun, events = self._begun_by(command), list[Any]()
        if isinstance(decision, BaseException):
            final = broken(begun, decision)
        else:
            final, events = encode(entity, begun, decision)
        await tell_next(self._host, self._activation.address, self.key)
        outcomes = self._final(final)
        sequence = await self._append(outcomes, [*run.events, *events])
        if sequence is not None:
            self.ended = outcomes[-1], sequence

    def _command(self) -> tuple[Any, Contract]:
        """What began the flow. Raises Mismatch."""
        entity = self._host.entity
        if self._flow is None:
            assert self._item is not None
            command = self._item.command
        else:
            limit, data = self._host.settings.max_payload_bytes, bytes(self._flow.command)
            try:
                command = decode(entity.messages, data, limit=limit, what=entity.name)
            except Undecodable as error:
                raise Mismatch(f"the command that began it can't be read: {error}") from None
        return command, entity.contracts[command.__struct_config__.tag]

    def _handler(self, contract: Contract) -> Handler:
        """What handles the command that began the flow. Raises Mismatch."""
        entity = self._host.entity
        if (due_ms := self._due_ms()) is not None:
            return later(entity, self._activation.address, self.key, due_ms)
        if contract.tag not in entity.flow_of:
            raise Mismatch(f"{contract.tag} is handled by a flow no more")
        return entity.flow_of[contract.tag]

    def _due_ms(self) -> int | None:
        """When the command's time comes, of one that was told for later."""
        if self._flow is None:
            return None if self._item is None else self._item.later
        timers = (r for r in self._flow.records if isinstance(r, Armed) and r.name == TIME)
        return next((armed.due_ms for armed in timers), None)

    def _story(self) -> Story:
        began = Began(self._folded.version)
        if self._flow is None:
            return Story([began], stored=0)
        records = self._flow.records
        new = [*self._woken, began] if self._flow.waits is not None else self._woken
        return Story([*records, *new], stored=len(records))

    @property
    def opened(self) -> OpenFlow | None:
        """The flow as it was before this turn, if it had begun."""
        return self._flow

    @property
    def trace(self) -> str | None:
        """The traceparent of the command that began it."""
        if self._flow is not None:
            return self._flow.trace
        return None if self._item is None else self._item.trace

    @property
    def was_parked(self) -> bool:
        """Whether an operator had to let it go on."""
        return self._flow is not None and self._flow.was_parked

    # -- for the run ----------------------------------------------------------------------------
    def stops(self) -> None:
        """The flow waits, or its turn is lost."""
        self._stopped = True
        if self._over is not None and not self._over.done():
            self._over.set_result(None)

    def blames(self, what: str) -> bool:
        """Whether the flow's code is at work, and so has ended something by itself."""
        if self._over is None or self._over.done():
            return False
        self._run.trouble = self._run.trouble or Misuse(what)
        return True

    async def flush(self) -> bool:
        """Store what is new; whether it is in the log."""
        run = self._run
        if not run.fresh() and (self.stored or self._item is None):
            return True
        self._set_deadline()
        found = await self._append([self._progress()], run.events)
        return found is not None

    # -- what is stored -------------------------------------------------------------------------
    async def _append(self, outcomes: list[Outcome], events: Sequence[Any]) -> int | None:
        """Append to the log, with these events; the sequence, None if it isn't there. Raises
        Mismatch, and what `evolve` raises.

        The state after it follows from the log alone, whatever the run made of it: what woke a
        flow may not be what it waits for, and then no line of it saw the present state.
        """
        run = self._run
        if self._entered and run.version - len(run.events) != self._folded.version:
            raise Mismatch("others changed the entity while it was held")
        if not await self._armed() or not await self._buries(outcomes[-1]):
            self.lost = True
            return None
        asked = [record for record in run.story.fresh if isinstance(record, Asked)]
        state = evolve_all(self._host.entity, self._folded.state, events)
        plan = Plan(outcomes=outcomes, state=state, events=len(events))
        sequence = await self._activation.execution.store(self._folded, plan)
        if sequence is None:
            self.lost = True
        else:
            self.stored = True
            run.stored()
            for record in asked:
                address, chain = self._activation.address, self._chain
                self._host.asking.ask(address, self.key, record, chain, self.trace)
        return sequence

    @property
    def _entered(self) -> bool:
        """Whether the run has come to the segment that is open now: it goes on with that, began
        it, or began it and stored something since."""
        goes_on = self._flow is None or self._open or self.stored
        return goes_on or self._run.story.begin_is_fresh

    def _set_deadline(self) -> None:
        """The command's own deadline is the flow's, too."""
        item, story = self._item, self._run.story
        if self._flow is not None or item is None or item.deadline is None:
            return
        if story.find(Armed, DEADLINE) is None:
            story.add(Armed(DEADLINE, item.deadline))

    async def _armed(self) -> bool:
        """Arm the timers that are about to be recorded: whoever ends in between has at worst one
        armed too many."""
        first_ms = self._host.server_ms() + again_ms(0)
        for record in self._run.story.fresh:
            armed = record if isinstance(record, Armed) else None
            if isinstance(record, Asked):
                armed = Armed(f"{ASK}{record.name}", first_ms)
            if armed is not None and not await self._arm(armed):
                await self._activation.pause()
                return False
        if self._is_unlisted() and not await self._arm(listed(self._host.server_ms())):
            await self._activation.pause()
            return False
        return self._activation.live

    async def _buries(self, last: Outcome) -> bool:
        """Whether the copy of what is about to be recorded is seen to, if it will need one."""
        if not has_burial(last):
            return True
        address, command = self._activation.address, command_of(self._flow, self._item)
        if await arm_burial(self._host, address, self.key, self._folded.sequence, command):
            return self._activation.live
        await self._activation.pause()
        return False

    def _is_unlisted(self) -> bool:
        """Whether it is about to wait, and nothing that is armed would tell of it."""
        story = self._run.story
        if not story.fresh or not isinstance(story.fresh[-1], Waits):
            return False
        before = self._flow is not None and Timing(self._flow.records).unlisted
        return not before and Timing(story.records).unlisted

    async def _arm(self, armed: Armed) -> bool:
        return await arm(self._host, self._activation.address, self.key, armed)

    def _progress(self) -> Outcome:
        """What has happened in the flow since the last commit."""
        run, item = self._run, self._item
        begins = self._flow is None and not self.stored
        asker, chain = (self._asker(), self._chain) if begins else (None, ())
        part = FlowPart(self.key, tuple(run.fresh()), asker=asker, chain=chain)
        events = tuple(raw(event) for event in run.events)
        if item is None or self.stored:
            hash = self._folded.flows[self.key].payload_hash
            return Outcome(name=self.key, payload_hash=hash, events=events, flow=part)
        return begun_by(item, part, events)

    @property
    def _chain(self) -> Chain:
        """The flows that wait for this one."""
        if self._flow is not None:
            return self._flow.chain
        return () if self._item is None else self._item.chain

    def _asker(self) -> str | None:
        """Which other flow waits for the outcome of one that begins."""
        replies = [asker.reply for asker in self._item.askers] if self._item is not None else []
        token = next((r.removeprefix(FLOW) for r in replies if r.startswith(FLOW)), None)
        if token is None:
            return None
        try:
            self._host.tokens.genuine(token)  # else who asks could have any answer signed
        except BadToken as error:
            logger.warning("no flow asks this: %s", error, extra={"action": "reply.forbidden"})
            return None
        return token.partition(".")[0]

    def _final(self, final: Outcome) -> list[Outcome]:
        """The outcomes of the commit that ends the flow."""
        progress = self._progress()
        if progress.name != self.key:  # a waker's, beside the flow's own
            return [progress, msgspec.structs.replace(final, at=None, flow=FlowPart(self.key))]
        known = self.key in self._folded.flows
        return [
            msgspec.structs.replace(
                final,
                at=progress.at,
                command=progress.command,
                events=(*progress.events, *final.events),
                flow=progress.flow if known else None,
                request=progress.request,
                trace=progress.trace,
            )
        ]

    def _begun_by(self, command: Any) -> Item:
        """The command that began the flow, as one that comes now."""
        flow = self._folded.flows.get(self.key)
        if flow is None:
            assert self._item is not None
            return self._item
        return Item(
            way="tell",
            name=self.key,
            payload_hash=flow.payload_hash,
            raw=flow.command,
            command=command,
            birth=flow.birth,
        )


def command_of(flow: OpenFlow | None, item: Item | None) -> msgspec.Raw | msgspec.UnsetType:
    """What began a flow, for who looks at its dead letter, or sends it again."""
    if flow is not None:
        return flow.command
    return UNSET if item is None or isinstance(item.command, Waker) else item.raw


def ended_by(key: str, flow: OpenFlow, error: BaseException) -> Outcome:
    """The outcome of an open flow that ends without its code's doing."""
    item = Item("tell", key, flow.payload_hash, flow.command, birth=flow.birth)
    return msgspec.structs.replace(broken(item, error), flow=FlowPart(key))


def broken(item: Item, error: BaseException) -> Outcome:
    """The outcome of a flow that let an error through, or was cancelled."""
    reason = "defect"
    told = RpcClientError(cause=str(error), may_have_taken_effect=True, advice="fix")
    if isinstance(error, FlowCancelled):
        reason, cause = "cancelled", f"{ENDED}: {error}"
        told = RpcClientError(cause=cause, may_have_taken_effect=True, advice="check")
    dead = Dead(reason, raw(to_wire(told)))
    return Outcome(name=item.name, payload_hash=item.payload_hash, birth=item.birth, dead=dead)


def begun_by(item: Item, part: FlowPart | None, events: tuple[msgspec.Raw, ...] = ()) -> Outcome:
    """The outcome of a command that began a turn; without a part of a waker that woke nobody."""
    waker = isinstance(item.command, Waker)
    return Outcome(
        name=item.name,
        payload_hash=item.payload_hash,
        at=item.place,
        birth=item.birth,
        command=UNSET if waker else item.raw,  # a token is nobody's business
        events=events,
        reply=NULL if waker else UNSET,
        flow=part,
        request=item.request,
        trace=item.trace,
    )


def given_up(folded: Folded, drive: Drive, woken: list[Record], error: Exception) -> str | None:
    """Why a flow ends as it is; None if it doesn't. One that was cancelled does where its code
    can't be run to where it waited; and if what undoes it fails, when it is cancelled after
    that, and not because its deadline has passed meanwhile."""
    flow = folded.flows.get(drive.key)
    records = [*(() if flow is None else flow.records), *(() if drive.stored else woken)]
    cancels = [record for record in records if isinstance(record, Cancelled)]
    again = any(cancel.why == CANCELLED for cancel in cancels[1:])
    if flow is None or not cancels or (isinstance(error, StepFailed) and not again):
        return None
    undone = any(isinstance(r, Ran) and r.name.startswith(UNDO) for r in records)
    what = "not all" if undone else "nothing"
    return f"{cancels[0].why}, and {what} was undone: {described(error)}"
