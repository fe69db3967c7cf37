"""The ledger: which commands have an outcome, and where in the log it is.

It maps a 128-bit hash of an outcome's name to its place, so that a repeated command finds the
recorded reply (read back from the log, where the name itself is compared). It is a pure function
of the entity's log: only the log's own times move it, so every runner has the same one.

Two kinds of names age differently. Keys that a client made for its own repeats are needed for
minutes only; they carry their time of birth, and are forgotten once nothing can repeat them any
more. All others stay for the dedup window. Causes need no entry beyond that: the watermark
covers them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

from ..streams.codec import HASH_BYTES, name_hash

_PACKED = struct.Struct(f">{HASH_BYTES}s{HASH_BYTES}sQqQ")


class Seen(NamedTuple):
    """A recorded outcome's place."""

    sequence: int  # of its commit in the log
    payload: bytes  # hash of the command
    birth: int  # Unix ms for a made key, else -1
    time: int  # of its commit, Unix ms


@dataclass(frozen=True, slots=True)
class LedgerLimits:
    """How long and how much is remembered."""

    window_ms: int  # given keys
    keys: int
    made_window_ms: int
    made_keys: int


@dataclass(frozen=True, slots=True)
class LedgerStatistics:
    """A ledger at one moment."""

    given: int  # names kept for the dedup window
    made: int  # keys that clients made for their repeats
    forgotten_birth: int  # the newest birth of a made key dropped for lack of room, Unix ms


class Ledger:
    """Names with an outcome. Changed only by folding a commit."""

    def __init__(self, limits: LedgerLimits) -> None:
        self._limits = limits
        self._given: dict[bytes, Seen] = {}
        self._made: dict[bytes, Seen] = {}
        self._forgotten_birth = -1
        self.evicted_early: int = 0  # given names dropped before their time, for lack of room

    def __len__(self) -> int:
        return len(self._given) + len(self._made)

    def __repr__(self) -> str:
        return f"Ledger({self.statistics()})"

    def statistics(self) -> LedgerStatistics:
        """Sizes, for metrics and operators."""
        return LedgerStatistics(len(self._given), len(self._made), self._forgotten_birth)

    def find(self, name: str) -> Seen | None:
        """The place of a name's outcome."""
        key = name_hash(name)
        return self._given.get(key) or self._made.get(key)

    def add(self, name: str, seen: Seen) -> None:
        """Record an outcome. The first one stays: a name has one outcome only."""
        key = name_hash(name)
        if key not in self._given and key not in self._made:
            (self._given if seen.birth < 0 else self._made)[key] = seen

    def too_old(self, birth: int, log_time_ms: int) -> bool:
        """Whether an unknown made key may be a forgotten one, so that it must not be executed."""
        expired = birth + self._limits.made_window_ms < log_time_ms
        return expired or birth <= self._forgotten_birth

    def prune(self, *, log_time_ms: int, watermark_ms: int) -> None:
        """Forget what is past its time, by the log's own clock, and what is too much."""
        self._prune_made(min(log_time_ms, watermark_ms) - self._limits.made_window_ms)
        excess = len(self._given) - self._limits.keys
        doomed: list[bytes] = []
        for key, seen in self._given.items():
            expired = seen.time < log_time_ms - self._limits.window_ms
            if not expired and len(doomed) >= excess:
                break
            self.evicted_early += not expired
            doomed.append(key)
        for key in doomed:
            del self._given[key]

    def _prune_made(self, horizon_ms: int) -> None:
        """Collected first, then deleted: looking for a dict's front after each is quadratic."""
        excess = len(self._made) - self._limits.made_keys
        doomed: list[bytes] = []
        for key, seen in self._made.items():
            if max(seen.birth, seen.time) >= horizon_ms:
                if len(doomed) >= excess:
                    break
                self._forgotten_birth = max(self._forgotten_birth, seen.birth)
            doomed.append(key)
        for key in doomed:
            del self._made[key]

    # -- snapshots --------------------------------------------------------------------------------
    def pack(self) -> tuple[bytes, int]:
        """Everything as bytes, in log order, and the newest forgotten birth."""
        both = (*self._given.items(), *self._made.items())
        packed = b"".join(
            _PACKED.pack(key, seen.payload, seen.sequence, seen.birth, seen.time)
            for key, seen in both
        )
        return packed, self._forgotten_birth

    def unpack(self, packed: bytes, forgotten_birth: int) -> None:
        """The reverse of `pack`. Raises ValueError for bytes of another length."""
        if len(packed) % _PACKED.size:
            raise ValueError("a ledger of another format")
        self._forgotten_birth = forgotten_birth
        for key, payload, sequence, birth, time in _PACKED.iter_unpack(packed):
            entries = self._given if birth < 0 else self._made
            entries[key] = Seen(sequence, payload, birth, time)
