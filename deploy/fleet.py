"""Fleet: what all runners of a namespace say at one moment, held against each other. Pure.

Each tells whom it sees, what code it has and which shards are its own; who keeps a record of
itself and doesn't answer is silent. Out of that comes what a person wants to know: do they agree,
and has every shard one owner? Nothing here is needed for safety: between two looks shards move,
so what counts is what a second look finds, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import Literal, TypeAlias

import msgspec

from ..durable.assignment import hosting_of, label_lacked, may_own, owners
from ..durable.stats import RunnerStats, TypeStats
from ..streams.members import Hosting, Member
from ..streams.subjects import Sharding

Whose: TypeAlias = Literal["well", "moves", "unowned", "twice"]
"""`moves`: its owner is about to give it to another."""

FAULTS: frozenset[Whose] = frozenset({"unowned", "twice"})


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """One shard, and who has it."""

    shard: int
    state: Whose
    owners: tuple[str, ...]
    assigned: str
    """Whose it should be, by all the members that are known; empty if nobody may have it."""


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """Where the shards of one type are."""

    entity: str
    generation: int
    """The newest that a runner found."""
    shards: int
    owners: dict[str, int]
    """How many shards each has."""
    imbalance: float
    """By how many shards the one that is farthest from its share is away from it."""
    older: tuple[str, ...] = ()
    """Runners that found an older sharding of it: they can own none of these shards."""
    lacked: str = ""
    """The label for want of which nobody may own them."""
    places: tuple[Place, ...]

    def faulty(self, other: Layout) -> list[Place]:
        """The shards that are wrong here, and were so in the same way at another look."""
        if (other.entity, other.generation) != (self.entity, self.generation):
            return []
        before = {(place.shard, place.state) for place in other.places}
        return [p for p in self.places if p.state in FAULTS and (p.shard, p.state) in before]


class Fleet:
    """All answers of one look; `listed` are the records in the members bucket, if known."""

    def __init__(self, told: Sequence[RunnerStats], listed: Sequence[Member] | None) -> None:
        self.told: dict[str, RunnerStats] = {one.runner: one for one in told}
        self.listed: dict[str, Member] | None = (
            None if listed is None else {member.runner: member for member in listed}
        )

    def __repr__(self) -> str:
        return f"Fleet({len(self.told)} runners, {len(self.silent)} silent)"

    @cached_property
    def silent(self) -> list[Member]:
        """Those with a record that told nothing: dead or frozen, or just gone."""
        return [m for name, m in (self.listed or {}).items() if name not in self.told]

    @property
    def names(self) -> list[str]:
        """All that are known, by their ids."""
        return sorted({*self.told, *(self.listed or {})})

    @cached_property
    def members(self) -> list[Member]:
        """All that are known: by their records, and by what they say themselves."""
        found = dict(self.listed or {})
        for name, one in self.told.items():
            record = found.get(name) or _member(one)
            found[name] = msgspec.structs.replace(record, leaving=one.leaving)
        return [found[name] for name in sorted(found)]

    # -- whether they agree ---------------------------------------------------------------------
    def differs(self, one: RunnerStats) -> list[str]:
        """In what a runner differs from the others, each in some words."""
        return [*self.blind(one), *self.other_code(one)]

    def blind(self, one: RunnerStats) -> list[str]:
        """Whether it sees fewer or more runners than there can be."""
        if len(self.told) <= one.sees <= self.there:
            return []
        return [f"sees {one.sees} of {self.there}"]

    def other_code(self, one: RunnerStats) -> list[str]:
        """Of what types it has other code, or another sharding, than who started last."""
        found: list[str] = []
        for type in one.types:
            newest = self._newest[type.entity]
            if type.generation != newest.generation:
                found.append(f"generation {type.generation} of {type.entity}")
            if type.version != newest.version:
                found.append(f"code of {type.entity}")
        return found

    @cached_property
    def there(self) -> int:
        """How many runners there can be at most, by all that is known."""
        if self.listed is not None:
            return len(self.told) + len(self.silent)
        return max([len(self.told), *(one.sees for one in self.told.values())])

    @cached_property
    def _newest(self) -> dict[str, TypeStats]:
        """Of each type what the runner says that started last: the code that is to be."""
        found: dict[str, TypeStats] = {}
        for one in sorted(self.told.values(), key=lambda one: one.since):
            found |= {type.entity: type for type in one.types}
        return found

    # -- whose the shards are -------------------------------------------------------------------
    @property
    def types(self) -> list[str]:
        """The types that are hosted."""
        return sorted(self._newest)

    def hosts(self, entity: str) -> dict[str, TypeStats]:
        """What each runner that hosts a type says of it."""
        return {
            name: type
            for name, one in self.told.items()
            for type in one.types
            if type.entity == entity
        }

    def able(self, entity: str) -> list[str]:
        """Who answers and may own shards of a type; a runner must host it."""
        sharding = self._sharding(entity)
        return [m.runner for m in self._answering if may_own(m, entity, sharding)]

    def layout(self, entity: str) -> Layout:
        """Where the shards of a type are; a runner must host it."""
        hosts = self.hosts(entity)
        sharding = self._sharding(entity)
        generation, shards = sharding.generation, sharding.shards
        newest = {name: t for name, t in hosts.items() if t.generation == generation}
        members = [m for m in self.members if hosting_of(m, entity) is not None]
        assigned = owners(entity, sharding, members)
        places = tuple(
            _place(number, [name for name, t in newest.items() if number in t.own], owner)
            for number, owner in enumerate(assigned)
        )
        held = Counter({name: len(t.own) for name, t in newest.items() if t.own})
        return Layout(
            entity=entity,
            generation=generation,
            shards=shards,
            owners=dict(sorted(held.items())),
            imbalance=_imbalance(
                held, shards, {m.runner: m.weight for m in members if may_own(m, entity, sharding)}
            ),
            older=tuple(sorted(name for name in hosts if name not in newest)),
            lacked=label_lacked(entity, sharding, members),
            places=places,
        )

    def _sharding(self, entity: str) -> Sharding:
        """The newest that a runner found."""
        hosts = self.hosts(entity).values()
        return Sharding(*max((type.generation, type.shards) for type in hosts))

    @property
    def _answering(self) -> list[Member]:
        return [member for member in self.members if member.runner in self.told]


def _place(number: int, held_by: Sequence[str], assigned: str) -> Place:
    state: Whose = "well" if held_by == [assigned] else "moves"
    if len(held_by) != 1:
        state = "twice" if held_by else "unowned"
    return Place(shard=number, state=state, owners=tuple(sorted(held_by)), assigned=assigned)


def _imbalance(held: Counter[str], shards: int, weights: dict[str, float]) -> float:
    whole = sum(weights.values())
    shares = {name: shards * weight / whole for name, weight in weights.items()}
    away = [abs(held[name] - shares.get(name, 0.0)) for name in {*held, *shares}]
    return round(max(away, default=0.0), 2)


def _member(one: RunnerStats) -> Member:
    """A runner's record, as far as it tells it to operators."""
    return Member(
        runner=one.runner,
        edition=1,
        types=tuple(
            Hosting(entity=t.entity, generation=t.generation, version=t.version, label=t.label)
            for t in one.types
        ),
        weight=one.weight,
        labels=one.labels,
        machine=one.machine,
        leaving=one.leaving,
        host=one.host,
        process=one.process,
        since=one.since,
    )
