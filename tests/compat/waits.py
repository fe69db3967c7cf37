"""The cases of the golden files: how each flow came to where it waits, and how it may go on.

A case's beginning is only for whoever writes a file (writing.py); each of its ends is tried on
each file that has it (test_running_flows.py).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeAlias

import msgspec
import pytest
from msgspec import Raw

from perdure import MalformedMessage, RpcClientError, Settings, Suspended, Token
from perdure.durable.testing import MS, TestCluster
from perdure.entities.address import Address
from perdure.entities.clock import to_datetime
from perdure.streams.asks import Envelope, encode_envelope, raw

from .trips import (
    DAY,
    Alone,
    Approve,
    Book,
    Both,
    Buy,
    Denied,
    Either,
    Expiring,
    Fail,
    Left,
    Nap,
    Note,
    Read,
    Shop,
    Take,
    Trip,
    Twice,
    Walk,
    Within,
    World,
    trip_of,
)

KEY = "trip-1"
"""Of the command that begins the flow, in each case."""

SETTINGS = Settings(
    resume_secrets=("what signed the tokens of the golden files",),
    snapshot_min_commits=1,
    snapshot_max_commits=1,
)

Part: TypeAlias = Callable[[TestCluster, World], Awaitable[None]]


@dataclass
class Case:
    """One flow."""

    begin: Part
    ends: dict[str, Part]
    midway: bool = False
    """Whether it is written while a turn is had, so that it isn't quiet."""
    without_shop: bool = False
    """Whether nobody hosts the shop yet when it is written."""


CASES: dict[str, Case] = {}


def case(
    name: str, *, midway: bool = False, without_shop: bool = False, **ends: Part
) -> Callable[[Part], Part]:
    """Register the beginning of a case, with its ends."""

    def register(begin: Part) -> Part:
        CASES[name] = Case(begin, ends, midway, without_shop)
        return begin

    return register


# -- small things ---------------------------------------------------------------------------------
def trip(cluster: TestCluster) -> Any:
    """The one that the cases are about."""
    return cluster.at(Trip, "t-1")


async def publish(cluster: TestCluster, envelope: Envelope) -> None:
    """As any program may."""
    session = cluster._caller.session  # pyright: ignore[reportPrivateUsage]
    await session.commands.publish(Address("trip", "t-1"), encode_envelope(envelope))


async def begun(cluster: TestCluster, command: Any, deadline_ms: int | None = None) -> None:
    """The flow has begun, and waits."""
    await publish(cluster, Envelope(1, "tell", raw(command), KEY, deadline=deadline_ms))
    await cluster.quiet()


async def resumed(cluster: TestCluster, world: World, name: str, value: int) -> None:
    """A deferred has its value."""
    await cluster.resume(world.tokens[name], value)
    await cluster.quiet()


async def ended(cluster: TestCluster, command: type[Any], reply: str) -> None:
    """The flow has ended so, whoever asks."""
    assert await trip(cluster).result(command, KEY, timeout=5) == reply


async def waits(cluster: TestCluster, command: Any, *names: str) -> Suspended:
    """The flow waits for these, as whoever repeats its command hears."""
    assert (await trip(cluster).status()).status == "suspended"
    with pytest.raises(Suspended) as caught:
        await trip(cluster).ask(command, key=KEY, on_suspend="raise", timeout=5)
    assert caught.value.waits_for == names
    return caught.value


async def noted(cluster: TestCluster, *notes: str) -> None:
    """All that was noted, in order."""
    assert await trip(cluster).query(Read()) == notes


# -- values ---------------------------------------------------------------------------------------
async def _approved(cluster: TestCluster, world: World) -> None:
    await waits(cluster, Approve(), "value")
    await resumed(cluster, world, "value", 7)
    await ended(cluster, Approve, "7: begun | begun,between")
    await noted(cluster, "begun", "between", "ended")
    assert world.calls == []


async def _approval_cancelled(cluster: TestCluster, world: World) -> None:
    await trip(cluster).cancel(KEY)
    with pytest.raises(RpcClientError, match="it was cancelled"):
        await trip(cluster).result(Approve, KEY, timeout=5)
    await resumed(cluster, world, "value", 7)  # answered as ever, and it changes nothing
    await noted(cluster, "begun", "between")


@case("deferred", value=_approved, cancelled=_approval_cancelled)
async def _deferred(cluster: TestCluster, world: World) -> None:
    await begun(cluster, Approve())
    await trip(cluster).ask(Note("between"), key="note-1")


async def _second_value(cluster: TestCluster, world: World) -> None:
    await waits(cluster, Twice(), "two")
    await resumed(cluster, world, "one", 9)  # it has its value
    await resumed(cluster, world, "two", 2)
    every = "x | x,y,one is 1 | x,y,one is 1,z,two is 2"
    await ended(cluster, Twice, every)
    assert world.calls == []


@case("second wait", value=_second_value)
async def _second_wait(cluster: TestCluster, world: World) -> None:
    await trip(cluster).ask(Note("x"), key="note-1")
    await begun(cluster, Twice())
    await trip(cluster).ask(Note("y"), key="note-2")
    await resumed(cluster, world, "one", 1)
    await trip(cluster).ask(Note("z"), key="note-3")


async def _before_it_expires(cluster: TestCluster, world: World) -> None:
    error = await waits(cluster, Expiring(), "value")
    assert error.resume_token == str(world.tokens["value"])
    await cluster.advance(2 * DAY - timedelta(seconds=1))
    await resumed(cluster, world, "value", 5)
    await ended(cluster, Expiring, "5")


async def _after_it_expired(cluster: TestCluster, world: World) -> None:
    await cluster.advance(2 * DAY)
    with pytest.raises(MalformedMessage, match="it has expired"):
        await cluster.resume(world.tokens["value"], 5)
    await cluster.advance(DAY)
    await ended(cluster, Expiring, "None")


@case("expiring", value=_before_it_expires, late=_after_it_expired)
async def _expiring(cluster: TestCluster, world: World) -> None:
    await begun(cluster, Expiring())


async def _both_values(cluster: TestCluster, world: World) -> None:
    await waits(cluster, Both(), "one", "two")
    await resumed(cluster, world, "two", 2)
    await ended(cluster, Both, "(1, 2)")


@case("all", value=_both_values)
async def _all(cluster: TestCluster, world: World) -> None:
    await begun(cluster, Both())
    await resumed(cluster, world, "one", 1)


# -- times ----------------------------------------------------------------------------------------
async def _slept(cluster: TestCluster, world: World) -> None:
    await cluster.advance(DAY - timedelta(seconds=1))
    await waits(cluster, Nap(3), "day 1")
    await cluster.advance(1)
    await waits(cluster, Nap(3), "day 2")
    await cluster.advance(DAY)
    await ended(cluster, Nap, "slept 0,slept 1,slept 2")


@case("sleep", time=_slept)
async def _sleep(cluster: TestCluster, world: World) -> None:
    await begun(cluster, Nap(3))
    await cluster.advance(DAY)


def _value_of(command: Within | Either) -> Part:
    async def end(cluster: TestCluster, world: World) -> None:
        await cluster.advance(DAY - timedelta(seconds=1))
        await resumed(cluster, world, "value", 5)
        await ended(cluster, type(command), "5")

    return end


def _time_of(command: Within | Either) -> Part:
    async def end(cluster: TestCluster, world: World) -> None:
        await cluster.advance(DAY)
        await resumed(cluster, world, "value", 5)
        await ended(cluster, type(command), "None")

    return end


@case("within", value=_value_of(Within()), time=_time_of(Within()))
async def _within(cluster: TestCluster, world: World) -> None:
    await begun(cluster, Within())


@case("first", value=_value_of(Either()), time=_time_of(Either()))
async def _first(cluster: TestCluster, world: World) -> None:
    await begun(cluster, Either())


async def _deadline_passed(cluster: TestCluster, world: World) -> None:
    await cluster.advance(59)
    await waits(cluster, Book(), "paid")
    await cluster.advance(1)
    with pytest.raises(RpcClientError, match="its deadline has passed"):
        await trip(cluster).result(Book, KEY, timeout=5)
    assert world.calls == ["undo car", "undo hotel"]


async def _paid(cluster: TestCluster, world: World) -> None:
    await resumed(cluster, world, "paid", 1)
    await ended(cluster, Book, "paid")
    assert world.calls == []


@case("deadline", time=_deadline_passed, value=_paid)
async def _deadline(cluster: TestCluster, world: World) -> None:
    await begun(cluster, Book(), cluster.clock.now_ns() // MS + 60_000)


async def _later_came(cluster: TestCluster, world: World) -> None:
    await cluster.advance(DAY - timedelta(seconds=1))
    await noted(cluster)
    await cluster.advance(1)
    assert await trip(cluster).result(Note, KEY, timeout=5) == 1
    await noted(cluster, "later")


async def _later_cancelled(cluster: TestCluster, world: World) -> None:
    await trip(cluster).cancel(KEY)
    with pytest.raises(RpcClientError, match="it was cancelled"):
        await trip(cluster).result(Note, KEY, timeout=5)
    await cluster.advance(DAY)
    await noted(cluster)


@case("later", time=_later_came, cancelled=_later_cancelled)
async def _later(cluster: TestCluster, world: World) -> None:
    at = to_datetime(cluster.clock.now_ns()) + DAY
    await trip(cluster).tell(Note("later"), key=KEY, at=at)
    await cluster.quiet()


# -- others ---------------------------------------------------------------------------------------
async def _bought(cluster: TestCluster, world: World) -> None:
    await waits(cluster, Buy(), "sell")
    await cluster.advance(timedelta(hours=1))
    await ended(cluster, Buy, "sold, 7 left")
    await noted(cluster, "bought")
    assert await cluster.at(Shop, "s-1").query(Left()) == 7


@case("ask", answer=_bought)
async def _ask(cluster: TestCluster, world: World) -> None:
    await begun(cluster, Buy())


async def _taken(cluster: TestCluster, world: World) -> None:
    await cluster.quiet()
    await ended(cluster, Take, "6 left")
    assert await cluster.at(Shop, "s-1").query(Left()) == 6


@case("ask that waits", without_shop=True, answer=_taken)
async def _asked(cluster: TestCluster, world: World) -> None:
    await begun(cluster, Take())


async def _alone_ended(cluster: TestCluster, world: World) -> None:
    await waits(cluster, Alone(), "value")
    with pytest.raises(Suspended):
        await trip(cluster).ask(Note("no"), key="note-2", on_suspend="raise")
    await noted(cluster, "begun")
    await resumed(cluster, world, "value", 3)
    await ended(cluster, Alone, "3")
    assert await trip(cluster).result(Note, "note-1", timeout=5) == 3
    await noted(cluster, "begun", "ended", "held")


@case("exclusive", value=_alone_ended)
async def _exclusive(cluster: TestCluster, world: World) -> None:
    await begun(cluster, Alone())
    await trip(cluster).tell(Note("held"), key="note-1")
    await cluster.quiet()


# -- what goes wrong ------------------------------------------------------------------------------
async def _told_all(cluster: TestCluster, world: World) -> None:
    await waits(cluster, Fail(), "value")
    await resumed(cluster, world, "value", 1)
    told = (
        "StepFailed(\"step 'denied False': ValueError: as it happens\")",
        "Denied(why='by the step')",
        "9 left",
        "SoldOut(left=9)",
        "AskFailed('RpcClientError: defect: ValueError: as planned')",
    )
    await ended(cluster, Fail, f"1: {'; '.join(told)}")
    assert world.calls == []


@case("failures", value=_told_all)
async def _failures(cluster: TestCluster, world: World) -> None:
    await begun(cluster, Fail())


async def _retried(cluster: TestCluster, world: World) -> None:
    with pytest.raises(RpcClientError, match="the flow is parked: Mismatch: step 'another' is"):
        await trip(cluster).ask(Approve(), key=KEY, on_suspend="raise", timeout=5)
    await noted(cluster, "begun")
    await publish(cluster, Envelope(1, "tell", Raw(msgspec.json.encode(RETRY))))
    await cluster.quiet()
    await ended(cluster, Approve, "7: begun | begun")
    assert world.calls == []


RETRY = {"type": "$retry", "flow": KEY}


@case("parked", retried=_retried)
async def _parked(cluster: TestCluster, world: World) -> None:
    await begun(cluster, Approve())
    entities: tuple[Any, ...] = vars(cluster)["_entities"]
    vars(cluster)["_entities"] = (trip_of(world, changed=True), *entities[1:])
    await cluster.crash()
    await resumed(cluster, world, "value", 7)


async def _right_value(cluster: TestCluster, world: World) -> None:
    await waits(cluster, Approve(), "value")
    await resumed(cluster, world, "value", 7)
    await ended(cluster, Approve, "7: begun | begun")
    assert world.calls == []


@case("dropped", value=_right_value)
async def _dropped(cluster: TestCluster, world: World) -> None:
    await begun(cluster, Approve())
    entities: tuple[Any, ...] = vars(cluster)["_entities"]
    for changed in (True, False):
        vars(cluster)["_entities"] = (trip_of(world, changed=changed), *entities[1:])
        await cluster.crash()
        await publish(cluster, Envelope(1, "tell", Raw(msgspec.json.encode(RETRY))))
        await cluster.quiet()
        if changed:  # it is parked, so nobody can tell that this is of another type
            text: Token[Any] = Token(str(world.tokens["value"]))
            await cluster.resume(text, "seven")


# -- turns that nobody ended ----------------------------------------------------------------------
async def _walked(cluster: TestCluster, world: World) -> None:
    await cluster.quiet()
    await ended(cluster, Walk, "did left,did right,did left again")
    assert world.calls == ["right", "left again"]


@case("turn", midway=True, turn=_walked)
async def _turn(cluster: TestCluster, world: World) -> None:
    world.stuck = "right"
    await publish(cluster, Envelope(1, "tell", raw(Walk()), KEY))
    await world.called("right")


async def _undone(cluster: TestCluster, world: World) -> None:
    await cluster.quiet()
    with pytest.raises(Denied):
        await trip(cluster).result(Book, KEY, timeout=5)
    assert world.calls == ["undo hotel"]


@case("undoing", midway=True, turn=_undone)
async def _undoing(cluster: TestCluster, world: World) -> None:
    await begun(cluster, Book())
    world.stuck = "undo hotel"
    text = {"type": "$resume", "token": str(world.tokens["paid"]), "value": -1}
    await publish(cluster, Envelope(1, "tell", Raw(msgspec.json.encode(text)), "resume-1"))
    await world.called("undo hotel")


async def _cancelled_end(cluster: TestCluster, world: World) -> None:
    await cluster.quiet()
    with pytest.raises(RpcClientError, match="it was cancelled"):
        await trip(cluster).result(Book, KEY, timeout=5)
    assert world.calls == ["undo hotel"]


@case("cancelled", midway=True, turn=_cancelled_end)
async def _cancelled(cluster: TestCluster, world: World) -> None:
    await begun(cluster, Book())
    world.stuck = "undo hotel"
    text = {"type": "$cancel", "flow": KEY}
    await publish(cluster, Envelope(1, "tell", Raw(msgspec.json.encode(text)), "cancel-1"))
    await world.called("undo hotel")


# -- and one that has ended -----------------------------------------------------------------------
async def _same_outcome(cluster: TestCluster, world: World) -> None:
    assert await trip(cluster).ask(Within(), key=KEY, timeout=5) == "5"
    await resumed(cluster, world, "value", 6)
    assert await trip(cluster).ask(Within(), key=KEY, timeout=5) == "5"
    with pytest.raises(MalformedMessage, match="another payload"):
        await trip(cluster).ask(Approve(), key=KEY, timeout=5)
    await cluster.advance(2 * DAY)
    await ended(cluster, Within, "5")


@case("ended", repeat=_same_outcome)
async def _ended(cluster: TestCluster, world: World) -> None:
    await begun(cluster, Within())
    await resumed(cluster, world, "value", 5)
