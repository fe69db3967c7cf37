"""Code that was changed under a running flow: what goes on, and what is told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from perdure import Decision, Entity, Flow
from perdure.entities.record import Armed, Began, Cancelled, Emitted, Fired, Ran, Waits
from perdure.entities.rehearsal import Rehearsal
from perdure.entities.story import PARKED, RECORDS, Story

from .test_rehearsal import Case, Note, Noted, Try, decide, evolve

Changed = Callable[[Flow[Case, Noted], Try], Awaitable[Decision[Noted]]]


async def one() -> int:
    return 1


async def first(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
    """What the records are of: it waits at `nap two`, after a step, an event and a nap."""
    done = await flow.step("one").run(one)
    await flow.emit(Noted("a"))
    opened = flow.deferred("it", int)
    await flow.sleep("nap", 1)
    await flow.emit(Noted("b"))
    await flow.sleep("nap two", 1)
    return command.accept(f"{done} {await opened}")


def case(handler: Changed) -> Entity[Case, Noted]:
    async def flow(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
        return await handler(flow, command)

    return Entity(Case(), decide, evolve, flows=[flow])


def changed_to(handler: Changed) -> Rehearsal[Case, Noted]:
    """The flow that waits at `nap two`, with other code from now on."""
    old = case(first)
    before = Rehearsal(old, old.contracts["try"], Try(), Case(), {}).begun().advanced(1)
    assert before.waits == ("nap two",)
    new = case(handler)
    after = Rehearsal(new, new.contracts["try"], Try(), before.state, {})
    for name in ("version", "now_ms", "records", "emitted", "performed", "waits"):
        setattr(after, name, getattr(before, name))
    return after


# -- what may be changed ------------------------------------------------------------------------
async def more_at_the_end(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
    done = await flow.step("one").run(one)
    await flow.emit(Noted("a"))
    opened = flow.deferred("it", int)
    await flow.sleep("nap", 1)
    await flow.emit(Noted("b"))
    await flow.sleep("nap two", 1)
    more = await flow.step("more").run(one)
    await flow.emit(Noted("c"))
    await flow.sleep("nap three", 1)
    return command.accept(f"{done} {await opened} {more}")


async def another_order(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
    opened = flow.deferred("it", int)
    await flow.emit(Noted("a"))
    done = await flow.step("one").run(one)
    await flow.sleep("nap", 1)
    await flow.emit(Noted("b"))
    await flow.sleep("nap two", 5)
    return command.accept(f"{done} {await opened}")


@pytest.mark.parametrize(
    ("handler", "reply"), [(first, "1 7"), (more_at_the_end, "1 7 1"), (another_order, "1 7")]
)
async def test_what_is_ahead_may_be_changed_and_the_order_within_a_segment(
    handler: Changed, reply: str
) -> None:
    flow = changed_to(handler).resumed("it", 7).advanced(10)
    assert flow.decision is not None
    assert flow.decision.reply == reply


# -- what may not -------------------------------------------------------------------------------
async def new_step(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
    await flow.step("zero").run(one)
    return await first(flow, command)


async def no_step(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
    await flow.emit(Noted("a"))
    flow.deferred("it", int)
    await flow.sleep("nap", 1)
    return command.accept("")


async def new_deferred(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
    await flow.deferred("before", int)
    return command.accept("")


async def no_deferred(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
    await flow.step("one").run(one)
    await flow.emit(Noted("a"))
    await flow.sleep("nap", 1)
    return command.accept("")


async def other_event(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
    await flow.step("one").run(one)
    await flow.emit(Noted("A"))
    return command.accept("")


async def more_events(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
    await flow.step("one").run(one)
    await flow.emit(Noted("a"))
    await flow.emit(Noted("a"))
    return command.accept("")


async def no_event(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
    await flow.step("one").run(one)
    flow.deferred("it", int)
    await flow.sleep("nap", 1)
    return command.accept("")


async def other_wait(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
    await flow.step("one").run(one)
    await flow.emit(Noted("a"))
    await flow.deferred("it", int)
    return command.accept("")


async def ends_early(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
    await flow.step("one").run(one)
    await flow.emit(Noted("a"))
    flow.deferred("it", int)
    return command.accept("")


async def waits_for_more(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
    await flow.step("one").run(one)
    await flow.emit(Noted("a"))
    opened = flow.deferred("it", int)
    await flow.all(flow.sleep("nap", 1), opened)
    return command.accept("")


async def other_type(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
    await flow.step("one").run(text)
    return command.accept("")


async def text() -> str:
    return ""


@pytest.mark.parametrize(
    ("handler", "says"),
    [
        (new_step, "step 'zero' is new, and runs where it had passed already: the first time it"),
        (no_step, "step 'one' was run here, and isn't any more"),
        (new_deferred, "deferred 'before' is new"),
        (no_deferred, "deferred 'it' was opened here, and isn't any more"),
        (other_event, "it emits noted, and emitted something else here the first time"),
        (more_events, "it emits events that it didn't emit"),
        (no_event, "it doesn't emit events that it emitted the first time"),
        (other_wait, "it waits for deferred it, where it waited for timer nap"),
        (ends_early, "it ends where it had passed already: the first time it came to wait for"),
        (waits_for_more, "it waits for timer nap and deferred it, where it waited for timer nap"),
        (other_type, "step 'one': its recorded result can't be read"),
    ],
)
def test_a_change_where_it_passed_is_told(handler: Changed, says: str) -> None:
    with pytest.raises(AssertionError) as caught:
        changed_to(handler).resumed("it", 7).advanced(10)
    assert says in str(caught.value)


# -- the story itself ---------------------------------------------------------------------------
def test_a_story_is_bounded() -> None:
    records: list[Any] = [Began(0), *(Emitted(1, "x") for _ in range(RECORDS - 1))]
    story = Story(records)
    with pytest.raises(Exception, match="a flow has 10000 records at most"):
        story.add(Armed("nap", 1))
    # what it takes to end it, undone
    for record in (Fired("nap"), Cancelled("why"), Waits(PARKED), Began(1), Ran("undo a")):
        story.add(record)


def test_a_story_knows_what_is_stored() -> None:
    story = Story([Began(0), Emitted(1, "x")], stored=1)
    assert story.fresh == [Emitted(1, "x")]
    assert not story.begin_is_fresh
    assert story.open
    assert repr(story) == "Story(2 records, segment 0)"


def test_a_note_is_one() -> None:
    assert decide(Case(), Note("x")).reply == 1
