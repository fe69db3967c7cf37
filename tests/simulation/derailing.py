"""Bugs on purpose in flows, their tokens and timers: patches, as in planted.py.

Each leaves out one rule of docs/flows.md, or of the two decisions behind it (docs/adr/0013, 0014).
They show only in a world with flows, so they have a list of their own.

Tried, and nothing that a caller could notice in 60 seeds: a flow that isn't open was resolved
before, whatever the leader says, since what reaches an old owner is stored for the next one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import structs

from perdure.durable import asking, flows, relay, snapshot, timers
from perdure.durable import flow as turns
from perdure.durable.effects import RunnerEffects
from perdure.durable.flow import Drive
from perdure.durable.flows import Flows
from perdure.durable.folded import Folded
from perdure.durable.openflow import OpenFlow
from perdure.durable.timers import Timing
from perdure.durable.waker import AnswerCame, Cancel, Resume, TimerFired
from perdure.entities import flowrun
from perdure.entities.flowrun import FlowRun, flow_key
from perdure.entities.record import Armed, Asked, Cancelled, Fired, Opened, Ran, Record
from perdure.entities.steps import StepFailed
from perdure.entities.story import FlowCancelled, Story
from perdure.entities.waits import Sleep, Within
from perdure.streams.asks import encode_envelope
from perdure.streams.token import ASK, BadToken, Body, Tokens, read_token

from .planting import OF_FLOWS, Patches, bug_of_flows

__all__ = ["OF_FLOWS"]


def _real(of: Any, name: str) -> Any:
    """What a patch stands for, private names too."""
    return getattr(of, name)


def _no(self: Any) -> None:
    """Of a property: there is none. Of a method: nothing is done."""


# -- timers ---------------------------------------------------------------------------------------
@bug_of_flows
def timers_are_armed_after_the_commit() -> Patches:
    """They are recorded first, and armed until that is confirmed; unless who does it ends."""
    append = _real(Drive, "_append")

    async def recorded_first(self: Any, outcomes: Any, events: Any) -> Any:
        fresh = [record for record in self._run.story.fresh if isinstance(record, Armed)]
        sequence = await append(self, outcomes, events)
        for record in fresh if sequence is not None else ():
            while self._activation.live and not await self._arm(record):
                await self._activation.pause()
        return sequence

    async def armed(self: Any) -> bool:
        return bool(self._activation.live)

    return [(Drive, "_append", recorded_first), (Drive, "_armed", armed)]


@bug_of_flows
def an_unconfirmed_timer_counts_as_armed() -> Patches:
    """Whether a timer was stored isn't asked."""
    arm = timers.arm

    async def hopeful(*args: Any) -> bool:
        await arm(*args)
        return True

    return [(turns, "arm", hopeful), (flows, "arm", hopeful)]


@bug_of_flows
def a_timer_fires_as_often_as_it_is_said() -> Patches:
    """One that has fired is still pending."""

    class Every(Timing):
        def _add(self, record: Record) -> None:
            if not isinstance(record, Fired):
                super()._add(record)

    return [(flows, "Timing", Every)]


def _fires_if(counts: Callable[[Armed, TimerFired], bool]) -> Patches:
    """A firing counts if that says so, whatever the server's clock says."""
    fired = _real(Flows, "_fired")

    async def believing(self: Any, folded: Folded, item: Any, said: TimerFired) -> None:
        flow = folded.flows.get(said.flow)
        armed = None if flow is None else Timing(flow.records).pending.get(said.timer)
        if flow is None or armed is None or not counts(armed, said):
            await fired(self, folded, item, said)
            return
        woken: list[Record] = [Fired(said.timer)]
        if said.timer == turns.DEADLINE:
            woken.append(Cancelled("its deadline has passed"))
        await self._happened(folded, flow, item, *woken)

    return [(Flows, "_fired", believing)]


@bug_of_flows
def a_firing_counts_before_it_is_due() -> Patches:
    """It names the time for which the timer was set, and nobody looks at the clock."""
    return _fires_if(lambda armed, said: armed.due_ms == said.due_ms)


@bug_of_flows
def a_firing_counts_by_its_name() -> Patches:
    """The time for which the timer was set isn't compared either."""
    return _fires_if(lambda armed, said: True)


@bug_of_flows
def a_firing_is_acknowledged_before_it_is_stored() -> Patches:
    """Whoever relays it has all its tries left, if its process lives."""
    pass_on = _real(relay.Relaying, "_pass_on")

    async def early(self: Any, firing: Any, through: Any) -> None:
        if through is not None:
            through.ack(firing.handle)
        await pass_on(self, firing, through)

    return [(relay.Relaying, "_pass_on", early)]


@bug_of_flows
def a_firing_that_was_not_stored_is_acknowledged() -> Patches:
    """It is published once, whatever the answer."""

    async def deliver(session: Any, address: Any, envelope: Any) -> bool:
        await session.commands.publish(address, encode_envelope(envelope))
        return True

    return [(relay, "deliver", deliver)]


@bug_of_flows
def a_deadline_is_forgotten() -> Patches:
    """That of a command that begins a flow."""
    return [(Drive, "_set_deadline", _no)]


# -- tokens ---------------------------------------------------------------------------------------
@bug_of_flows
def a_token_is_not_verified() -> Patches:
    """What it says is believed: the nonce in it is nobody's business, after all."""

    def verify(self: Tokens, text: str, address: Any, now_ms: int) -> Body:
        body = read_token(text)
        if (body.entity, body.id) != (address.entity, address.id):
            raise BadToken("it is of another entity")
        return body

    return [(Tokens, "verify", verify)]


def _verifying(of: type[Any], then: Callable[[Folded, Body], Body]) -> Patches:
    """What a genuine token says is changed where it comes with that waker."""
    verified = _real(Flows, "_verified")

    async def changed(self: Any, folded: Folded, item: Any, token: str, what: str) -> Body | None:
        body: Body | None = await verified(self, folded, item, token, what)
        return body if body is None or not isinstance(item.command, of) else then(folded, body)

    return [(Flows, "_verified", changed)]


@bug_of_flows
def a_token_of_an_earlier_flow_is_good() -> Patches:
    """The nonce isn't compared, so where a key comes again old tokens are good again."""

    def then(folded: Folded, body: Body) -> Body:
        flow = folded.flows.get(body.flow)
        opened = None if flow is None else flow.opened(body.deferred)
        return body if opened is None else structs.replace(body, nonce=opened.nonce)

    return _verifying(Resume, then)


@bug_of_flows
def an_answer_to_an_earlier_question_is_good() -> Patches:
    """The nonce isn't compared."""

    def then(folded: Folded, body: Body) -> Body:
        flow = folded.flows.get(body.flow)
        asked = None if flow is None else flow.asked(body.deferred.removeprefix(ASK))
        return body if asked is None else structs.replace(body, nonce=asked.nonce)

    return _verifying(AnswerCame, then)


@bug_of_flows
def an_answer_of_another_flow_is_good() -> Patches:
    """Whoever waits for an answer of that name gets it."""

    def then(folded: Folded, body: Body) -> Body:
        for flow in folded.flows.values():
            asked = flow.asked(body.deferred.removeprefix(ASK))
            if asked is not None:
                return structs.replace(body, flow=flow.name, nonce=asked.nonce)
        return body

    return _verifying(AnswerCame, then)


@bug_of_flows
def the_last_value_counts() -> Patches:
    """A deferred that was resolved can be resolved again."""

    def opened(self: OpenFlow, name: str) -> Opened | None:
        found = (r for r in self.records if isinstance(r, Opened) and r.name == name)
        return next(found, None)

    return [(OpenFlow, "opened", opened)]


@bug_of_flows
def a_token_is_given_before_it_is_recorded() -> Patches:
    """What a turn has recorded so far isn't stored before each step, but at its end."""

    async def flush(self: Any) -> None:
        return None

    return [(RunnerEffects, "flush", flush)]


# -- questions ------------------------------------------------------------------------------------
@bug_of_flows
def the_key_of_a_question_can_be_guessed() -> Patches:
    """There is no nonce in it."""

    def guessed(address: Any, flow: str, what: str) -> str:
        return flow_key(address, flow, what.rpartition(" ")[0])

    return [(asking, "flow_key", guessed)]


@bug_of_flows
def a_question_has_a_new_key_each_time() -> Patches:
    """Asked again it is another command."""
    number = itertools.count()

    def numbered(address: Any, flow: str, what: str) -> str:
        return flow_key(address, flow, f"{what} {next(number)}")

    return [(asking, "flow_key", numbered)]


@bug_of_flows
def a_question_is_asked_once() -> Patches:
    """No timer asks again for what was lost with its process."""
    armed = _real(Drive, "_armed")

    async def without(self: Any) -> bool:
        story = self._run.story
        kept = story.records
        story.records = [
            *kept[: story.stored],
            *(record for record in story.fresh if not isinstance(record, Asked)),
        ]
        try:
            return bool(await armed(self))
        finally:
            story.records = kept

    return [(Drive, "_armed", without)]


# -- turns ----------------------------------------------------------------------------------------
@bug_of_flows
def a_begun_turn_is_not_had() -> Patches:
    """A turn that the log began and nobody ended is left to who began it."""
    return [(Folded, "running", property(_no))]


@bug_of_flows
def what_a_step_gave_is_not_recorded() -> Patches:
    """It runs again each time."""
    fresh = _real(FlowRun, "fresh")

    def without(self: Any) -> list[Record]:
        return [record for record in fresh(self) if not isinstance(record, Ran)]

    return [(FlowRun, "fresh", without)]


@bug_of_flows
def a_step_has_a_new_key_each_time() -> Patches:
    """Run again after a crash it is another one to the other side."""
    key, number = _real(FlowRun, "key_of"), itertools.count()

    def numbered(self: Any, what: str) -> str:
        return f"{key(self, what)}{next(number)}"

    return [(FlowRun, "key_of", numbered)]


@bug_of_flows
def a_sleep_ends_with_the_next_turn() -> Patches:
    """Whatever wakes a flow ends its sleep."""

    def place(self: Any) -> int | None:
        found: int | None = self.run.story.place(Armed, self.name)
        return found

    return [(Sleep, "place", place)]


@bug_of_flows
def an_end_and_its_events_are_two_commits() -> Patches:
    """What a flow accepts with is emitted, and then it ends."""
    end = _real(Drive, "_end")

    async def twice(self: Any, decision: Any, command: Any) -> None:
        events: tuple[Any, ...] = getattr(decision, "events", ())
        if events:
            await self._run.emit(*events)
            await self._append([self._progress()], self._run.events)
            decision = msgspec.structs.replace(decision, events=())
        await end(self, decision, command)

    return [(Drive, "_end", twice)]


@bug_of_flows
def a_segment_sees_the_present_state() -> Patches:
    """The state that a segment began with isn't kept where others changed it."""

    def as_it_is(self: Any, record: Record) -> Record:
        return record

    return [(FlowRun, "_with_state", as_it_is)]


@bug_of_flows
def a_value_that_came_late_counts() -> Patches:
    """`within` looks for the value first, whenever that came."""

    def value(self: Any) -> Any:
        return self._inner.value() if self._inner.place() is not None else None

    return [(Within, "value", value)]


@bug_of_flows
def a_snapshot_forgets_open_flows() -> Patches:
    """Its form is that of an entity without flows."""
    encode = snapshot.encode

    def without(entity: Any, address: Any, folded: Folded) -> bytes:
        return encode(entity, address, dataclasses.replace(folded, flows={}))

    return [(snapshot, "encode", without)]


@bug_of_flows
def an_exclusive_flow_lets_others_in() -> Patches:
    """`exclusive` is a word."""
    return [(Folded, "exclusive", property(_no))]


@bug_of_flows
def what_a_flow_emits_is_not_in_memory() -> Patches:
    """It is in the log; who decides before the entity is read again doesn't see it."""

    def as_it_was(entity: Any, state: Any, events: Any) -> Any:
        return state

    return [(turns, "evolve_all", as_it_was)]


# -- cancelling -----------------------------------------------------------------------------------
@bug_of_flows
def a_cancellation_is_answered_and_forgotten() -> Patches:
    """It isn't recorded."""
    wake = _real(Flows, "_wake")

    async def deaf(self: Any, folded: Folded, item: Any, waker: Any) -> None:
        if isinstance(waker, Cancel):
            self._done(folded, item)
        else:
            await wake(self, folded, item, waker)

    return [(Flows, "_wake", deaf)]


@bug_of_flows
def a_cancelled_flow_goes_on() -> Patches:
    """It is recorded, and nothing comes of it."""
    add = Story.add

    def without(self: Any, record: Record) -> None:
        add(self, record)
        self._cancelled = None

    return [(Story, "add", without)]


# -- undoing --------------------------------------------------------------------------------------
@bug_of_flows
def what_was_done_first_is_undone_first() -> Patches:
    """Steps are undone in the order in which they were done."""
    carry_out = _real(FlowRun, "carry_out")

    class Backwards(list[Any]):
        def __reversed__(self) -> Any:
            return iter(self)

    async def forwards(self: Any, handler: Any, command: Any) -> object:
        self.undos = Backwards()
        return await carry_out(self, handler, command)

    return [(FlowRun, "carry_out", forwards)]


@bug_of_flows
def a_cancelled_flow_is_not_undone() -> Patches:
    """Only a refusal is."""
    undone = _real(flowrun, "_is_undone")

    def unless_cancelled(decision: object) -> bool:
        return not isinstance(decision, FlowCancelled) and bool(undone(decision))

    return [(flowrun, "_is_undone", unless_cancelled)]


@bug_of_flows
def an_undo_that_fails_is_done() -> Patches:
    """It has been tried."""
    undo = _real(FlowRun, "_undo")

    async def tried(self: Any, call: Any) -> None:
        with contextlib.suppress(StepFailed):
            await undo(self, call)

    return [(FlowRun, "_undo", tried)]


# -- parking --------------------------------------------------------------------------------------
@bug_of_flows
def what_was_parked_midway_stays_there() -> Patches:
    """Nothing leads beyond where it was parked."""

    def is_beyond(self: Any, place: int | None) -> bool:
        return False

    return [(Story, "is_beyond", is_beyond)]


@bug_of_flows
def what_is_parked_cannot_be_cancelled() -> Patches:
    """It goes on beyond where it was parked, whatever happened meanwhile."""
    leave = _real(Story, "leave")

    def deaf(self: Any) -> None:
        with contextlib.suppress(FlowCancelled):
            leave(self)

    return [(Story, "leave", deaf)]


@bug_of_flows
def a_dead_letter_is_copied_after_the_commit_or_never() -> Patches:
    """Nothing was armed that would see to it where its owner dies between the two."""

    async def unarmed(*given: Any) -> bool:
        return True

    return [(turns, "arm_burial", unarmed), (flows, "arm_burial", unarmed)]
