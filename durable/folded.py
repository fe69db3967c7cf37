"""What an entity's log folds to: state, version, ledger, watermark, and its end.

It changes only by a commit that is in the log: read back while recovering, or acknowledged after
an append. `sequence` and `end` are those of the last message on the subject, foreign ones too,
since that is what the next append must expect; `commit_sequence` and `hash` are those of the last
commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from ..entities.entity import Entity
from ..streams.codec import digest
from ..streams.commit import (
    GENESIS,
    At,
    Commit,
    Damaged,
    FlowPart,
    Outcome,
    Stored,
    check_link,
    is_open,
)
from .defect import ENDS, described
from .ledger import Ledger, Seen
from .openflow import OpenFlow, begun

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NO_TELL = At(0, 0, 0)
"""The watermark of an entity that no tell reached: below any real one."""


REFUSED = "!"
"""Before a key: a tell with it was refused, and the key is still free. No name begins with it."""


def milliseconds(time: datetime) -> int:
    """Unix time in milliseconds."""
    return int(time.timestamp() * 1000)


@dataclass(slots=True)
class Folded:
    """One entity as its log has it."""

    state: Any
    ledger: Ledger
    version: int = 0
    sequence: int = 0
    commit_sequence: int = 0
    hash: str = GENESIS
    end: str = GENESIS  # the hash of the last message, a commit or a foreign one
    time: datetime = EPOCH
    watermark: At = NO_TELL
    tail_commits: int = 0  # since the snapshot that it was loaded from, or was last written
    tail_bytes: int = 0
    snapshot_bytes: int = 0  # of that snapshot
    flows: dict[str, OpenFlow] = field(default_factory=dict[str, OpenFlow])  # by their names

    @property
    def running(self) -> OpenFlow | None:
        """A flow whose turn isn't over: the entity is held until it is."""
        return next((flow for flow in self.flows.values() if flow.runs), None)

    @property
    def exclusive(self) -> OpenFlow | None:
        """A flow that waits, and has the entity for itself meanwhile."""
        return next((f for f in self.flows.values() if f.waits and f.waits.exclusive), None)

    def adopt(self, commit: Commit, mark: str, size: int, sequence: int, state: Any) -> None:
        """Take over a commit that is in the log, and the state after it."""
        self.state = state
        self.version = commit.version
        self.sequence = self.commit_sequence = sequence
        self.hash = self.end = mark
        self.time = commit.time
        now_ms = milliseconds(commit.time)
        self.tail_commits += 1
        self.tail_bytes += size
        for outcome in commit.outcomes:
            if outcome.at is not None:
                self.watermark = newest(self.watermark, outcome.at)
            if outcome.flow is not None and self._flow_goes_on(outcome, outcome.flow, now_ms):
                continue
            entry = seen(outcome, sequence, now_ms)
            self.ledger.add(outcome.name, entry, mark)
            if outcome.dead is not None and outcome.dead.key is not None:
                self.ledger.add(REFUSED + outcome.dead.key, entry, mark)
        self.ledger.prune(log_time_ms=now_ms, watermark_ms=self.watermark.time_ns // 1_000_000)

    def _flow_goes_on(self, outcome: Outcome, part: FlowPart, now_ms: int) -> bool:
        """Take over what happened in a flow; whether the outcome leaves that open."""
        flow = self.flows.get(part.key)
        if flow is None and is_open(outcome):
            flow = self.flows[part.key] = begun(outcome, now_ms)
        if flow is not None:
            flow.add(part, now_ms)
        if is_open(outcome):
            return True
        if outcome.name == part.key:
            self.flows.pop(part.key, None)
        return False

    def pass_by(self, stored: Stored) -> None:
        """A foreign message: it counts for the next append's condition, and for nothing else."""
        self.sequence, self.end = stored.sequence, digest(stored.data)


def newest(one: At, two: At) -> At:
    """The later of two places: by timestamp, then by sequence."""
    return max(one, two, key=lambda at: (at.time_ns, at.sequence))


def seen(outcome: Outcome, sequence: int, time_ms: int) -> Seen:
    """The ledger's entry of an outcome."""
    birth = -1 if outcome.birth is None else outcome.birth
    return Seen(sequence, bytes.fromhex(outcome.payload_hash), birth, time_ms)


def evolve_all(entity: Entity[Any, Any], state: Any, events: Sequence[Any]) -> Any:
    """The state after some events. What `evolve` raises is raised; a wrong type is a TypeError."""
    for event in events:
        state = entity.evolve(state, event)
        if type(state) is not type(entity.initial):
            raise TypeError(
                f"evolve returned {type(state).__name__}, not {type(entity.initial).__name__}"
            )
    return state


def fold(
    entity: Entity[Any, Any], folded: Folded, commit: Commit, mark: str, size: int, sequence: int
) -> None:
    """Fold one commit that was read from the log. Raises Damaged if it can't be."""
    check_link(commit, prev=folded.hash, version=folded.version, sequence=sequence)
    try:
        events = [entity.log.decode(raw) for o in commit.outcomes for raw in o.events]
        state = evolve_all(entity, folded.state, events)
    except ENDS:
        raise
    except BaseException as error:  # user code, or an event that today's code doesn't know
        raise Damaged(f"sequence {sequence}: {described(error)}") from error
    folded.adopt(commit, mark, size, sequence, state)
