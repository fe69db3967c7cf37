"""What a log says of flows, read with nothing but nats-py: it shares no code with the runner.

Everything that happened in a flow stands in the outcomes of its entity, in the order of the log.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any

from .oracle import Message

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass
class Entry:
    """One record of a flow, and the message that has it."""

    kind: str
    record: dict[str, Any]
    stored: datetime
    """By the server."""
    runner: str
    """Who wrote it."""
    told: datetime | None = None
    """When the command stream stored the tell that says so; also by the server."""


@dataclass
class FlowEntry:
    """One flow, as its entity's log has it."""

    id: str
    key: str
    entries: list[Entry] = field(default_factory=list[Entry])
    outcomes: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """Those with a reply, a failure or a verdict: one, if all is well."""
    events: list[str] = field(default_factory=list[str])
    """What its own events say."""

    def all(self, kind: str) -> list[Entry]:
        """Its records of a kind."""
        return [entry for entry in self.entries if entry.kind == kind]

    @property
    def waits(self) -> bool:
        """Whether it waits, by the log."""
        return not self.outcomes and bool(self.entries) and self.entries[-1].kind == "waits"

    @property
    def due(self) -> datetime:
        """When its timer was to fire."""
        [armed] = self.all("armed")
        return EPOCH + timedelta(milliseconds=armed.record["due_ms"])


def flows(messages: Sequence[Message]) -> dict[str, FlowEntry]:
    """All flows by their keys, which are unique in these tests. Raises AssertionError where the
    log isn't what a log has to be: each commit follows the one before, and is whole."""
    found: dict[str, FlowEntry] = {}
    last: dict[str, str] = {}
    for message in messages:
        mark = blake2b(message.data, digest_size=16).hexdigest()
        assert message.headers.get("Perdure-Commit") == mark, f"{message.id}: not its hash"
        commit = json.loads(message.data)
        assert commit["prev"] == last.get(message.id, ""), f"{message.id}: the chain is broken"
        last[message.id] = mark
        for outcome in commit["outcomes"]:
            _add(found, message, commit["runner"], outcome)
    return found


def _add(
    found: dict[str, FlowEntry], message: Message, runner: str, outcome: dict[str, Any]
) -> None:
    """What one outcome says of a flow."""
    part = outcome.get("flow")
    key = outcome["name"] if part is None else part["key"]
    if part is None and key not in found:
        return  # a command without a flow
    entry = found.setdefault(key, FlowEntry(message.id, key))
    assert entry.id == message.id, f"{key} is of {entry.id} and {message.id}"
    records: list[dict[str, Any]] = [] if part is None else part.get("records", [])
    told = EPOCH + timedelta(microseconds=outcome["at"][2] // 1000) if "at" in outcome else None
    for record in records:
        entry.entries.append(Entry(record["type"], record, message.stored, runner, told))
    if part is not None and part.get("parked"):
        entry.entries.append(Entry("parked", part, message.stored, runner))
    entry.events += [event["what"] for event in outcome.get("events", [])]
    if key == outcome["name"] and {"reply", "failure", "dead"} & outcome.keys():
        entry.outcomes.append(
            {k: outcome[k] for k in ("reply", "failure", "dead") if k in outcome}
        )


def steps_twice(found: dict[str, FlowEntry]) -> list[str]:
    """Steps that were recorded more than once: of which flow, and which."""
    wrong: list[str] = []
    for key, flow in found.items():
        names = Counter(entry.record["name"] for entry in flow.all("ran"))
        wrong += [f"{key}: {name} {count} times" for name, count in names.items() if count > 1]
    return wrong
