"""FlowLog: what happened in one flow, told in order from its entity's log.

It knows no user's types, like the chronicle, which checks the log's chain on the way. Nonces are
left out, and whatever looks like a resume token is hidden: who may read logs may not decide flows.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import msgspec
from msgspec import UNSET, Raw, UnsetType

from ...durable.flow import DEADLINE
from ...entities.clock import of_ms
from ...entities.later import TIME
from ...entities.record import (
    Answered,
    Armed,
    Asked,
    Began,
    Cancelled,
    Dropped,
    Emitted,
    Fired,
    Opened,
    Ran,
    Record,
    Resolved,
    Waits,
)
from ...entities.story import PARKED
from ...streams.commit import FlowPart, Outcome, Stored, is_open
from ...streams.token import BadToken, read_body, without_tokens
from .chronicle import Chronicle, shortened, tagged
from .output import stamp
from .trouble import one_line

OURS = {TIME: "its time", DEADLINE: "its deadline"}
"""Timers that no code has named, and what people call them."""


class Happening(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that happened, as `perdure flows show --json` prints it."""

    time: datetime
    """Of its commit, by the runner's clock."""
    what: str
    """The record's `type`; besides `command` (it begins), `parked`, `unparked` and `ended`."""
    name: str | None = None
    """Of the step, deferred, timer or question."""
    waits_for: tuple[str, ...] = ()
    to: str | None = None
    """Who was asked, as `type/id`; of `command`: which flow asked."""
    command: Raw | UnsetType = UNSET
    events: tuple[Raw, ...] = ()
    value: Raw | UnsetType = UNSET
    """A step's result, a deferred's value, a reply."""
    failure: Raw | UnsetType = UNSET
    error: str | None = None
    """Why a step or a question failed, a value was dropped, the flow is parked, was cancelled or
    broke."""
    due: datetime | None = None
    """When a timer fires, a token expires."""
    version: int
    """Of the entity, after the outcome that it is part of; of `began`: that its lines see."""
    seq: int
    """Of the commit in its stream."""
    runner: str


class FlowLog:
    """Reads an entity's log from its beginning, for the flow of one key."""

    def __init__(self, key: str) -> None:
        self.found: bool = False
        """Whether there is such a flow."""
        self.plain: bool = False
        """Whether there is a command of that key which was none."""
        self._key = key
        self._chronicle = Chronicle()
        self._open = False
        self._parked: str | None = None
        self._seq, self._time, self._runner = 0, of_ms(0), ""

    def read(self, stored: Stored) -> Iterator[Happening]:
        """What the next message says of it. Raises Damaged."""
        commit = self._chronicle.commit(stored)
        if commit is None:
            return
        self._seq, self._time, self._runner = stored.sequence, commit.time, commit.runner
        for outcome in commit.outcomes:
            self._chronicle.version += len(outcome.events)
            part = outcome.flow
            if part is not None and part.key == self._key:
                yield from self._part(outcome, part)
            elif outcome.name == self._key:
                self.plain = True

    def _part(self, outcome: Outcome, part: FlowPart) -> Iterator[Happening]:
        own, self.found = outcome.name == self._key, True
        if own and not self._open:
            self._open, self._parked = True, None
            yield self._made("command", command=_safe(outcome.command), to=_asker(part))
        if self._parked is not None and part.parked is None:
            yield self._made("unparked")
        left = list(outcome.events)
        for record in part.records:
            if not (isinstance(record, Waits) and record.on == PARKED):  # that is told below
                yield self._record(record, left)
        if part.parked is not None and part.parked != self._parked:
            yield self._made("parked", error=without_tokens(part.parked))
        self._parked = part.parked
        if own and not is_open(outcome):
            self._open = False
            yield self._ended(outcome, left)

    def _ended(self, outcome: Outcome, left: list[Raw]) -> Happening:
        if outcome.dead is None:
            return self._made(
                "ended",
                value=_safe(outcome.reply),
                failure=_safe(outcome.failure),
                events=tuple(_hidden(event) for event in left),
            )
        cause = msgspec.json.decode(outcome.dead.error, type=_Told).cause
        why = f"{outcome.dead.reason}: {cause or '?'}"
        return self._made("ended", error=without_tokens(why))

    def _record(self, record: Record, left: list[Raw]) -> Happening:
        made = self._made
        match record:
            case Began(version):
                return made("began", version=version)
            case Emitted(count):
                events = tuple(_hidden(event) for event in left[:count])
                del left[:count]
                return made("emitted", events=events)
            case Ran(name, value, failure, error):
                return made(
                    *("ran", name),
                    value=_safe(value),
                    failure=_safe(failure),
                    error=None if error is None else without_tokens(error),
                )
            case Opened():
                return made("opened", record.name, due=_time(record.expires_ms))
            case Armed(name, due_ms):
                return made("armed", name, due=_time(due_ms))
            case Asked():
                to = f"{record.entity}/{record.id}"
                return made("asked", record.name, to=to, command=_hidden(record.command))
            case Waits(on):
                return made("waits", waits_for=on)
            case Resolved(name, value):
                return made("resolved", name, value=_hidden(value))
            case Dropped(name, why):
                return made("dropped", name, error=without_tokens(why))
            case Fired(name):
                return made("fired", name)
            case Answered(name, value, failure, error):
                return made(
                    *("answered", name),
                    value=_safe(value),
                    failure=_safe(failure),
                    error=None if error is None else without_tokens(error),
                )
            case Cancelled(why):
                return made("cancelled", error=without_tokens(why))

    def _made(
        self,
        what: str,
        name: str | None = None,
        *,
        waits_for: tuple[str, ...] = (),
        to: str | None = None,
        command: Raw | UnsetType = UNSET,
        events: tuple[Raw, ...] = (),
        value: Raw | UnsetType = UNSET,
        failure: Raw | UnsetType = UNSET,
        error: str | None = None,
        due: datetime | None = None,
        version: int | None = None,
    ) -> Happening:
        return Happening(
            time=self._time,
            what=what,
            name=name,
            waits_for=waits_for,
            to=to,
            command=command,
            events=events,
            value=value,
            failure=failure,
            error=error,
            due=due,
            version=self._chronicle.version if version is None else version,
            seq=self._seq,
            runner=self._runner,
        )


class _Told(msgspec.Struct):
    """The part of a cluster error that says why."""

    cause: str | None = None


def _hidden(raw: Raw) -> Raw:
    """JSON without the tokens in it: none of their characters is written in another way there."""
    return Raw(without_tokens(bytes(raw).decode()).encode())


def _safe(raw: Raw | UnsetType) -> Raw | UnsetType:
    return UNSET if raw is UNSET else _hidden(raw)


def _time(unix_ms: int | None) -> datetime | None:
    return None if unix_ms is None else of_ms(unix_ms)


def _asker(part: FlowPart) -> str | None:
    """Which flow asked for one that begins, as `type/id key`."""
    if part.asker is None:
        return None
    try:
        body = read_body(part.asker)
    except BadToken:
        return None
    return f"{body.entity}/{body.id} {body.flow}"


# -- for people -----------------------------------------------------------------------------------
def line_of(happening: Happening) -> str:
    """What happened, as one line."""
    return shortened(f"{stamp(happening.time)}  {happening.what:<9}  {_details(happening)}")


def _details(happening: Happening) -> str:
    """The rest of the line."""
    what, name = happening.what, named(happening.name or "")
    came = _came(happening)
    match what:
        case "command":
            asked = f", asked by {happening.to}" if happening.to else ""
            return f"{tagged(happening.command)}{asked}"
        case "began":
            return f"at version {happening.version}"
        case "emitted":
            return _events(happening)
        case "opened":
            until = f", until {stamp(happening.due)}" if happening.due else ""
            return f"{name}{until}"
        case "armed":
            return f"{name}, for {stamp(happening.due)}" if happening.due else name
        case "asked":
            return f"{name}: {happening.to} {tagged(happening.command)}"
        case "waits":
            return f"for {' and '.join(map(waited, happening.waits_for))}"
        case "ended":
            return f"{came}; {_events(happening)}" if happening.events else came
        case _:
            return f"{name}: {came}" if name and came else name or came


def _came(happening: Happening) -> str:
    if happening.error is not None:
        return one_line(happening.error)
    if happening.failure is not UNSET:
        return f"refused: {tagged(happening.failure)}"
    return tagged(happening.value)


def _events(happening: Happening) -> str:
    return ", ".join(tagged(event) for event in happening.events)


def named(name: str) -> str:
    """A name as its code gave it, or what people call what no code has named."""
    return OURS.get(name, name)


def waited(what: str) -> str:
    """What is waited for, with its kind: `deferred approval`."""
    kind, _, name = what.partition(" ")
    return OURS[name] if kind == "timer" and name in OURS else what
