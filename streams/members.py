"""Members: what the runners of a namespace tell each other, and what one runner knows of all.

Each runner keeps a record of itself in the members bucket (`member.<runner>`, with a time to live)
and tells every change of it to all on one subject; who hears of a newcomer introduces itself. A
record has an *edition* that grows with each change, so that whatever is heard late, twice or out
of order changes nothing. Nothing here is needed for safety: views may differ for a while, and two
owners of a shard only waste work.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta, Struct

from .codec import Undecodable, digest
from .port import ENTRIES

HEAD = "member"
"""Of the keys of records in the members bucket."""

GONE_KEPT = 10_000
"""Runners that went whose last edition is remembered, so that late news don't bring them back."""

NEWEST = 2**54
"""The highest edition of a record, which its runner reaches only if somebody else speaks as it:
it has to be started again then."""

Runner: TypeAlias = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_=-]+\Z", max_length=255)]
"""A runner's id: a token of a subject and of a key, whoever said it."""


class Hosting(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One entity type that a runner hosts."""

    entity: str
    generation: int
    """Of the sharding that it found."""
    version: str = ""
    """The fingerprint of the type's code: of its state, messages, events and failures, of what
    flows handle, its schedules, and `evolve`'s revision."""
    label: str = ""
    """Only runners with this label may own its shards; empty: any that hosts it."""


class Member(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="member"):
    """A runner, as it describes itself."""

    runner: Runner
    edition: Annotated[int, Meta(ge=1, le=NEWEST)]
    """Grows with each change, and each time that it joins anew."""
    types: tuple[Hosting, ...] = ()
    weight: Annotated[float, Meta(ge=0.01, le=100)] = 1.0
    """Its share of the shards, compared with the others'."""
    labels: tuple[str, ...] = ()
    machine: int | None = None
    """The machine number of its snowflakes, if it leased one."""
    leaving: bool = False
    """It drains: it owns what it still has, and gets nothing more."""
    host: str = ""
    """The name of its machine, for people."""
    process: int = 0
    """Its process id there, for people."""
    since: int = 0
    """When it started, Unix milliseconds."""
    singletons: tuple[str, ...] = ()
    """The names of those that it can run."""


class Gone(Struct, frozen=True, tag="gone"):
    """A runner left, or somebody found that it is dead or frozen; up to that edition."""

    runner: Runner
    edition: Annotated[int, Meta(ge=0, le=NEWEST // 2)]
    """No more than that, so that its runner can join with a higher one."""


class Ping(Struct, frozen=True, tag="ping"):
    """To a member, by who watches it: it answers with its own. `view` is the digest of what the
    sender knows of all; where they differ, each lists the bucket."""

    view: str


class Release(Struct, frozen=True, tag="release"):
    """To an owner: the sender has a shard by its view, and waits for it to be given back."""

    entity: str
    generation: int
    shard: int
    runner: Runner


class HandOver(Struct, frozen=True, tag="hand_over"):
    """To whom a singleton's record names: the sender is to run it by its view, and waits."""

    singleton: str
    runner: Runner


class Drain(Struct, frozen=True, tag="drain"):
    """To a runner, by an operator: give your shards to the others, and leave."""


class Released(Struct, frozen=True, tag="released"):
    """The shard, or the singleton, isn't held here (any more)."""


class Kept(Struct, frozen=True, tag="kept"):
    """By this runner's view the shard is its own; or the singleton is, or still ends here."""


class Draining(Struct, frozen=True, tag="draining"):
    """The runner leaves."""


Word: TypeAlias = Member | Gone | Ping | Release | HandOver | Drain | Released | Kept | Draining

_words: msgspec.json.Decoder[Word] = msgspec.json.Decoder(Word)
_encoder = msgspec.json.Encoder()


def encode_word(word: Word) -> bytes:
    """The body of a message between runners."""
    return _encoder.encode(word)


def decode_word(data: bytes) -> Word:
    """What a runner said. Raises Undecodable."""
    try:
        return _words.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Undecodable(str(error)) from None


def member_key(runner: str) -> str:
    """The key of a runner's record."""
    return f"{HEAD}.{runner}"


class View:
    """What one runner knows of all the members, itself included."""

    def __init__(self) -> None:
        self._members: dict[str, Member] = {}
        self._gone: OrderedDict[str, int] = OrderedDict()  # the last edition that went
        self._missed: frozenset[str] = frozenset()  # not in the last listing
        self._digest = ""  # of it all, once it was asked for

    def __repr__(self) -> str:
        return f"View({', '.join(sorted(self._members))})"

    def __contains__(self, runner: object) -> bool:
        return runner in self._members

    @property
    def digest(self) -> str:
        """The same for two views that know the same."""
        if not self._digest:
            known = [(name, self._members[name].edition) for name in sorted(self._members)]
            self._digest = digest(_encoder.encode(known))
        return self._digest

    def members(self) -> list[Member]:
        """All that are there, by their names."""
        return [self._members[name] for name in sorted(self._members)]

    def get(self, runner: str) -> Member | None:
        """What is known of one."""
        return self._members.get(runner)

    def gone(self, runner: str) -> int:
        """The last edition of a runner that is known to have gone; 0 if none is."""
        return self._gone.get(runner, 0)

    def add(self, member: Member) -> bool:
        """Somebody is there; whether that is news."""
        known = self._members.get(member.runner)
        newest = max(self.gone(member.runner), known.edition if known is not None else 0)
        if member.edition <= newest or (known is None and len(self._members) >= ENTRIES):
            return False
        self._members[member.runner] = member
        self._digest = ""
        self._missed -= {member.runner}
        return True

    def remove(self, gone: Gone) -> bool:
        """Somebody went; whether that is news."""
        if gone.edition > self.gone(gone.runner):
            self._gone[gone.runner] = gone.edition
            self._gone.move_to_end(gone.runner)
            if len(self._gone) > GONE_KEPT:
                self._gone.popitem(last=False)
        known = self._members.get(gone.runner)
        if known is None or known.edition > gone.edition:
            return False
        del self._members[gone.runner]
        self._digest = ""
        return True

    def compare(self, listed: Iterable[Member], own: str) -> bool:
        """Take over a listing of the bucket; whether anything changed.

        A listing may be stale, so only who is missing in two that follow each other has gone; and
        since both may have been, the next one that has it brings it back.
        """
        found = {member.runner: member for member in listed}
        added = [self.add(member) for member in found.values()]
        missing = frozenset(self._members) - frozenset(found) - {own}
        went = sorted(missing & self._missed)
        for runner in went:
            del self._members[runner]
            self._digest = ""
        self._missed = missing
        return any(added) or bool(went)
