"""OpenFlows: which timers there must be, by a log alone.

Timers are armed before they are recorded, so all that `PERDURE_TIME` holds of a type follows from
its log: what a flow waits for, that a question is to be asked again, that a flow is open at all.
Hence a backup has no timers; where it missed the burial of a dead letter that has no copy yet,
this is in the log alone (`perdure dead list --settled`). Pure: it is fed a log, and remembers the
open flows without the values in their records.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from ..durable.openflow import OpenFlow
from ..durable.timers import Timing, listed
from ..durable.waker import OPEN, TimerFired, timer_token
from ..entities.address import Address
from ..entities.record import Answered, Armed, Asked, Began, Ran, Record, Resolved
from ..streams.asks import NULL
from ..streams.commit import Damaged, Outcome, is_open, unseal
from ..streams.jetstream.direct import Record as Message
from ..streams.subjects import unescape


@dataclass(frozen=True, slots=True)
class Timer:
    """One timer, as `Schedules.arm` takes it."""

    address: Address
    name: str
    due_ms: int
    data: bytes


class OpenFlows:
    """The flows of one type that have begun and not ended."""

    def __init__(self, entity: str) -> None:
        self._entity = entity
        self._flows: dict[str, dict[str, OpenFlow]] = {}  # by escaped id, then by name

    def __len__(self) -> int:
        return sum(map(len, self._flows.values()))

    def take(self, message: Message) -> None:
        """The next message of the log. One that can't be read says nothing: its entity is
        quarantined, and whoever mends that goes on with its flows."""
        try:
            commit = unseal(message.stored)
        except Damaged:
            return
        for outcome in () if commit is None else commit.outcomes:
            if outcome.flow is not None:
                self._add(message.token, outcome)

    def _add(self, token: str, outcome: Outcome) -> None:
        part = outcome.flow
        assert part is not None
        flows = self._flows.setdefault(token, {})
        flow = flows.get(part.key)
        if flow is None and is_open(outcome):
            flow = OpenFlow(outcome.name, outcome.payload_hash, NULL, outcome.birth, 0)
            flows[part.key] = flow
        if flow is not None:
            records = tuple(map(_without_value, part.records))
            flow.add(msgspec.structs.replace(part, records=records), 0)
        if not is_open(outcome) and outcome.name == part.key:
            flows.pop(part.key, None)
        if not flows:
            del self._flows[token]

    def timers(self, now_ms: int) -> Iterator[Timer]:
        """All that there must be. Who was there before gets the same ones again, which changes
        nothing; and one that fires for nobody is passed over."""
        for token, flows in self._flows.items():
            address = _address(self._entity, token)
            for flow in flows.values() if address is not None else ():
                assert address is not None
                for armed in _armed(flow, now_ms):
                    fired = TimerFired(flow.name, armed.name, armed.due_ms)
                    name = timer_token(flow.name, armed)
                    yield Timer(address, name, armed.due_ms, msgspec.json.encode(fired))


def _armed(flow: OpenFlow, now_ms: int) -> Iterator[Armed]:
    """What a flow has armed. A question is asked again at once: its answer may be lost."""
    for armed in Timing(flow.records).armed(was_parked=flow.was_parked):
        if armed.name == OPEN:
            yield listed(now_ms)
        else:
            yield armed if armed.due_ms else Armed(armed.name, now_ms)
    if flow.runs:  # the tell that would bring its entity back to memory may be lost
        yield Armed(OPEN, now_ms)


def _address(entity: str, token: str) -> Address | None:
    try:
        return Address(entity, unescape(token))
    except ValueError:
        return None


def _without_value(record: Record) -> Record:
    match record:
        case Began():
            return Began(record.version)
        case Ran():
            return Ran(record.name)
        case Answered():
            return Answered(record.name)
        case Asked():
            return msgspec.structs.replace(record, command=NULL)
        case Resolved():
            return msgspec.structs.replace(record, value=NULL)
        case _:
            return record
