"""Subjects and names: how an entity's id becomes a NATS subject, and which stream holds what.

Everything that writes or reads a subject goes through here, so that no id can reach another
entity or another subject. `escape` is injective: each id has exactly one token, and `unescape`
refuses any token that `escape` would not have written (else one id would have two logs).
The shard is the same number that the server's `partition()` gives (FNV-1a, 32 bits, of the
token), so that a client and the server's subject transform agree without talking.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

ID_BYTES = 255
"""The longest id, in UTF-8 bytes: escaped it is at most 765 bytes, far below the server's 4 KiB
limit of a control line, beyond which the server closes the connection for good."""

SHARDS_KEPT = 16_384
"""Ids whose shard is kept in memory: 4 MB. Computing one takes some microseconds."""

_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
_CLEAN = re.compile(r"[A-Za-z0-9_-]+")
_HEX = "0123456789ABCDEF"


def escape(id: str) -> str:
    """The subject token of an id: bytes outside `A-Za-z0-9_-` are written `=XX`.

    Raises ValueError for an id that isn't 1 to 255 bytes of UTF-8 text.
    """
    if len(id) <= ID_BYTES and _CLEAN.fullmatch(id):
        return id
    try:
        raw = id.encode()
    except UnicodeEncodeError:
        raise ValueError("not an id: it isn't encodable as UTF-8") from None
    if not 1 <= len(raw) <= ID_BYTES:
        raise ValueError(f"not an id: {len(raw)} bytes, allowed are 1 to {ID_BYTES}")
    return "".join(chr(b) if b in _PLAIN else f"={_HEX[b >> 4]}{_HEX[b & 15]}" for b in raw)


def unescape(token: str) -> str:
    """The id of a token. Raises ValueError unless it is just what `escape` writes."""
    if len(token) <= ID_BYTES and _CLEAN.fullmatch(token):
        return token
    try:
        raw = bytearray()
        rest = iter(token)
        for char in rest:
            raw.append(int(next(rest) + next(rest), 16) if char == "=" else ord(char))
        id = raw.decode()
    except (ValueError, StopIteration, UnicodeDecodeError):
        raise ValueError(f"not an escaped id: {token[:60]!r}") from None
    if escape(id) != token:
        raise ValueError(f"not an escaped id: {token[:60]!r}")
    return id


def fnv1a32(data: bytes) -> int:
    """FNV-1a, 32 bits: the hash behind the server's `partition()`."""
    value = 2166136261
    for byte in data:
        value = ((value ^ byte) * 16777619) & 0xFFFFFFFF
    return value


@lru_cache(maxsize=SHARDS_KEPT)
def shard_of(token: str, shards: int) -> int:
    """The shard of an escaped id, the same as the server's `{{partition(shards,1)}}`."""
    return fnv1a32(token.encode()) % shards


@dataclass(frozen=True, slots=True)
class Sharding:
    """How an entity type is cut: a generation (new with each resize) and its number of shards."""

    generation: int
    shards: int

    def shard(self, token: str) -> int:
        """The shard of an escaped id."""
        return shard_of(token, self.shards)


@dataclass(frozen=True, slots=True)
class Subjects:
    """The subjects and stream names of one namespace. Tokens are escaped ids."""

    namespace: str = "perdure"

    # -- tells --------------------------------------------------------------------------------
    def to(self, entity: str, token: str) -> str:
        """Where anybody publishes a tell."""
        return f"{self.namespace}.to.{entity}.{token}"

    def command(self, entity: str, generation: int | str, shard: int | str, token: str) -> str:
        """Where the server's transform stores a tell."""
        return f"{self.namespace}.cmd.{entity}.{generation}.{shard}.{token}"

    # -- asks ---------------------------------------------------------------------------------
    def ask(self, entity: str, token: str) -> str:
        """A plain ask: heard by every runner of the type, taken by the shard's owner."""
        return f"{self.namespace}.ask.{entity}.{token}"

    def ask_shard(self, entity: str, generation: int, shard: int, token: str) -> str:
        """An ask that goes straight to the owner of the shard."""
        return f"{self.namespace}.ask.{entity}.{generation}.{shard}.{token}"

    def info(self, entity: str) -> str:
        """Asks the type's runners for shards, generation and schemas."""
        return f"{self.namespace}.info.{entity}"

    def signal(self, entity: str) -> str:
        """What all runners of a type are told at once."""
        return f"{self.namespace}.signal.{entity}"

    def member(self, runner: str) -> str:
        """A runner's own subject: a ping there tells whether its process lives."""
        return f"{self.namespace}.member.{runner}"

    def resize(self, entity: str) -> str:
        """Asks who hosts a type, or begins to: while anybody does, it isn't cut anew."""
        return f"{self.namespace}.resize.{entity}"

    def halted(self, entity: str, token: str) -> str:
        """What a type's command stream takes instead of tells while it is cut anew.

        `token` says by whom; nobody else publishes there.
        """
        return f"{self.namespace}.resize.{entity}.{token}"

    @property
    def members(self) -> str:
        """What all runners are told of each other."""
        return f"{self.namespace}.members"

    @property
    def stats(self) -> str:
        """Asks every runner for its statistics."""
        return f"{self.namespace}.stats"

    # -- what is kept -------------------------------------------------------------------------
    def log(self, entity: str, token: str) -> str:
        """The commits of one entity."""
        return f"{self.namespace}.log.{entity}.{token}"

    def snapshot(self, entity: str, token: str, part: str | None = None) -> str:
        """An entity's snapshot, or one part of it."""
        head = f"{self.namespace}.snap.{entity}.{token}"
        return head if part is None else f"{head}.{part}"

    def ids(self, entity: str, page: str) -> str:
        """One page of the registry of a type's ids."""
        return f"{self.namespace}.ids.{entity}.{page}"

    def dead(self, entity: str, token: str) -> str:
        """Copies of dead-letter verdicts, for operators."""
        return f"{self.namespace}.dead.{entity}.{token}"

    def later(self, entity: str, token: str, timer: str) -> str:
        """Where a timer waits for its time."""
        return f"{self.namespace}.later.{entity}.{token}.{timer}"

    def due(self, entity: str, token: str, timer: str) -> str:
        """Where it goes then."""
        return f"{self.namespace}.due.{entity}.{token}.{timer}"

    # -- streams ------------------------------------------------------------------------------
    def command_stream(self, entity: str) -> str:
        """The work queue of tells of one type."""
        return f"{self.namespace.upper()}_CMD_{entity}"

    def log_stream(self, entity: str) -> str:
        """The log of one type."""
        return f"{self.namespace.upper()}_LOG_{entity}"

    def snapshot_stream(self, entity: str) -> str:
        """The snapshots of one type."""
        return f"{self.namespace.upper()}_SNAP_{entity}"

    def ids_stream(self, entity: str) -> str:
        """The registry of ids of one type."""
        return f"{self.namespace.upper()}_IDS_{entity}"

    @property
    def time_stream(self) -> str:
        """The timers of all types."""
        return f"{self.namespace.upper()}_TIME"

    @property
    def dead_stream(self) -> str:
        """Dead letters of all types."""
        return f"{self.namespace.upper()}_DEAD"

    @property
    def members_bucket(self) -> str:
        """The key-value bucket of members, attempt marks and term numbers."""
        return f"{self.namespace.upper()}_MEMBERS"
