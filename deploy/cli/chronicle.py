"""Chronicle: what a log holds, told outcome by outcome, for people and for programs.

It reads commits and knows no user's types: events and replies stay the JSON that they are. The
hash chain is checked on the way, as whoever looks at a log wants to know that it is the one that
was written. Messages that are no commits of ours are told and passed over, as a runner does.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec
from msgspec import UNSET, Raw, UnsetType

from ...entities.address import Address
from ...entities.key import is_key
from ...streams.commit import GENESIS, Commit, Damaged, Outcome, Stored, check_link, unseal
from ...streams.outgoing import birth_of
from .output import stamp
from .trouble import Failed, one_line

SHOWN = 400
"""Characters of one line for people; programs get everything."""


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What came of one command, as `perdure history --json` prints it."""

    version: int
    """Of the entity, after it."""
    time: datetime
    """Of its commit, by the runner's clock."""
    key: str | None = None
    """Its idempotency key; None where it had none."""
    name: str
    """What names it in the log: the key, a reply subject or a place in the command stream."""
    command: Raw | UnsetType = UNSET
    events: tuple[Raw, ...] = ()
    reply: Raw | UnsetType = UNSET
    failure: Raw | UnsetType = UNSET
    dead: str | None = None
    """The reason of a dead-letter verdict."""
    error: Raw | UnsetType = UNSET
    """The cluster error of a dead-letter verdict."""
    seq: int
    """Of the commit in its stream."""
    commit: str
    """The commit's id: outcomes of one commit share it."""
    runner: str
    request: str | None = None
    trace: str | None = None
    """W3C traceparent of the command."""


class Foreign(msgspec.Struct, frozen=True, kw_only=True):
    """A message on the entity's subject that perdure did not write; it changes nothing."""

    foreign: bool = True
    seq: int
    time: datetime
    bytes: int


class Chronicle:
    """Reads one entity's log from its beginning."""

    def __init__(self) -> None:
        self.version: int = 0
        """Of the entity, after what was read."""
        self._prev = GENESIS

    def read(self, stored: Stored) -> Iterator[Entry | Foreign]:
        """The entries of the next message. Raises Damaged."""
        commit = self.commit(stored)
        if commit is None:
            time = datetime.fromtimestamp(stored.time_ns // 1_000_000_000, UTC)
            yield Foreign(seq=stored.sequence, time=time, bytes=len(stored.data))
            return
        for outcome in commit.outcomes:
            self.version += len(outcome.events)
            yield _entry(commit, outcome, self.version, stored.sequence)

    def commit(self, stored: Stored) -> Commit | None:
        """The commit in the next message, None if that is foreign. Who asks counts its events in
        `version`. Raises Damaged."""
        commit = unseal(stored)
        if commit is None:
            return None
        check_link(commit, prev=self._prev, version=self.version, sequence=stored.sequence)
        if stored.mark is None:  # unseal refuses it, so this can't be
            raise Damaged(f"sequence {stored.sequence}: a commit without its hash")
        self._prev = stored.mark
        return commit


def _entry(commit: Commit, outcome: Outcome, version: int, sequence: int) -> Entry:
    dead = outcome.dead
    key = outcome.name if is_key(outcome.name) else None
    return Entry(
        version=version,
        time=commit.time,
        key=key if dead is None or dead.key is None else dead.key,
        name=outcome.name,
        command=outcome.command,
        events=outcome.events,
        reply=outcome.reply,
        failure=outcome.failure,
        dead=None if dead is None else dead.reason,
        error=UNSET if dead is None else dead.error,
        seq=sequence,
        commit=commit.id,
        runner=commit.runner,
        request=outcome.request,
        trace=outcome.trace,
    )


def damaged(address: Address, error: Damaged) -> Failed:
    """What to say of a log that isn't what was written."""
    return Failed(
        f"{address}: the log is damaged: {error}",
        f"perdure verify {address.entity} tells all of it; compare with a backup",
    )


def told(entry: Entry | Foreign) -> str:
    """An entry as one line for people. Keys that a client made for itself are left out."""
    at = stamp(entry.time)
    if isinstance(entry, Foreign):
        return f"{'-':>6}  {at}  foreign message of {entry.bytes} bytes, sequence {entry.seq}"
    events = ", ".join(tagged(event) for event in entry.events)
    if entry.dead is not None:
        what = f"dead letter: {entry.dead}"
    elif entry.failure is not UNSET:
        what = f"refused: {tagged(entry.failure)}"
    else:
        what = events or "no events"
    key = entry.key if entry.key is not None and birth_of(entry.key) is None else "-"
    return shortened(f"{entry.version:>6}  {at}  {key}  {what}")


def shortened(line: str) -> str:
    """A line for people, cut if need be."""
    return line if len(line) <= SHOWN else f"{line[: SHOWN - 1]}…"


def tagged(raw: Raw | UnsetType) -> str:
    """A tagged object as `tag {"other": "fields"}`; anything else as it is."""
    if raw is UNSET:
        return ""
    text = one_line(bytes(raw).decode())
    try:
        fields = msgspec.json.decode(raw, type=dict[str, Raw])
    except msgspec.DecodeError:
        return text
    tag = fields.pop("type", None)
    if tag is None:
        return text
    name = bytes(tag).decode().strip('"')
    return f"{name} {msgspec.json.encode(fields).decode()}" if fields else name
