"""Assignment: which member owns which shard of a type. Pure, so that all who know the same members
agree without a word.

Rendezvous hashing with shares (Thaler and Ravishankar, "A name-based mapping scheme for
rendezvous", 1998; bounded as in Mirrokni et al., "Consistent hashing with bounded loads", 2016):
each pair of a shard and a member has a score that depends on nothing else, and the best pairs come
first, as long as the member's share isn't used up. Shares are equal, or as the weights say, to
within one shard. So a member that joins or leaves moves little more than its own share.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import blake2b
from math import log

from ..streams.members import Hosting, Member
from ..streams.subjects import Sharding

SCORES_KEPT = 65_536
"""Scores kept in memory, some 10 MB: one costs two microseconds, and each change of the members
needs one for each pair of a shard and a member."""


def owners(entity: str, sharding: Sharding, members: Iterable[Member]) -> tuple[str, ...]:
    """Who owns each shard; empty strings where nobody can.

    Who leaves owns nothing; nor does who found another sharding, or lacks the label that the type
    asks for.
    """
    shares = {m.runner: m.weight for m in members if may_own(m, entity, sharding)}
    return assign(f"{entity}.{sharding.generation}", sharding.shards, shares)


def may_own(member: Member, entity: str, sharding: Sharding) -> bool:
    """Whether a member can own shards of a type."""
    hosting = hosting_of(member, entity)
    if hosting is None or member.leaving or hosting.generation != sharding.generation:
        return False
    return not hosting.label or hosting.label in member.labels


def label_lacked(entity: str, sharding: Sharding, members: Iterable[Member]) -> str:
    """The label for want of which nobody can own a type's shards.

    Empty if somebody can, and if nobody that stays hosts the type as it is cut.
    """
    label = ""
    for member in members:
        hosting = hosting_of(member, entity)
        if hosting is None or member.leaving or hosting.generation != sharding.generation:
            continue
        if may_own(member, entity, sharding):
            return ""
        label = label or hosting.label
    return label


def singleton_owner(name: str, members: Iterable[Member]) -> str:
    """Who runs a singleton: one of those that declare it and don't leave; empty if none does."""
    shares = {m.runner: m.weight for m in members if name in m.singletons and not m.leaving}
    return assign(f"singleton.{name}", 1, shares)[0]


def hosting_of(member: Member, entity: str) -> Hosting | None:
    """How a member hosts a type, if it does."""
    return next((hosting for hosting in member.types if hosting.entity == entity), None)


def assign(what: str, shards: int, weights: Mapping[str, float]) -> tuple[str, ...]:
    """An owner for each of `shards`, by members with their weights; empty strings if there is
    none. `what` is a part of every score, so that types differ in who gets one shard more.
    """
    found = [""] * shards
    if not weights:
        return tuple(found)
    whole = sum(weights.values())
    room = {name: int(shards * weight / whole) for name, weight in weights.items()}
    more = shards - sum(room.values())  # beyond everybody's share: fewer than there are members
    extended: set[str] = set()
    left = shards
    for _, shard, name in _by_score(what, shards, weights):
        if found[shard] or left == 0:
            continue
        if room[name] == 0:
            if more == 0 or name in extended:
                continue
            extended.add(name)
            more -= 1
            room[name] = 1
        room[name] -= 1
        found[shard] = name
        left -= 1
    return tuple(found)


def _by_score(
    what: str, shards: int, weights: Mapping[str, float]
) -> list[tuple[float, int, str]]:
    """All pairs of a shard and a member, the best first."""
    return sorted(
        (_draw(what, shard, name) / weight, shard, name)
        for name, weight in weights.items()
        for shard in range(shards)
    )


@lru_cache(maxsize=SCORES_KEPT)
def _draw(what: str, shard: int, name: str) -> float:
    """Exponentially distributed, the same in every process: divided by weights, the smallest is a
    member's as often as its weight says."""
    digest = blake2b(f"{what}\0{shard}\0{name}".encode(), digest_size=8).digest()
    return -log((int.from_bytes(digest, "big") + 1) / (2**64 + 1))
