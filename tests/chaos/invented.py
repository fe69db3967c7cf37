"""Invented histories that are right, from a seed: what the checker of histories must accept.

Clients call at random times; each op takes effect at a moment within its call, or, where its
client gave up, at any later moment or never; tells take effect behind each other, some time after
they were stored. Logs and answers follow from these moments.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from .linear import Call, Recorded, Seen, Way, outcome

LATE = 0.2
"""How often a client gives up."""


@dataclass
class Effect:
    """An op, and when it takes effect."""

    op: int
    key: str | None
    moment: int
    place: tuple[int, int, int] | None = None


@dataclass
class Draft:
    """A call whose answer isn't known yet."""

    client: str
    entity: str
    way: Way
    begin: int
    end: int
    heard: bool
    op: int = 0
    key: str | None = None
    moment: int = 0  # of a read: of what moment it shows the state


@dataclass
class Client:
    """One client, and from when on it is free."""

    name: str
    free: int
    behind: dict[str, int] = field(default_factory=dict[str, int])  # its newest effect
    seen: dict[str, int] = field(default_factory=dict[str, int])  # the newest moment shown


class Invention:
    """One history of some entities."""

    def __init__(self, seed: int, calls: int = 120, clients: int = 5, entities: int = 2) -> None:
        self._random = random.Random(seed)
        self._effects: dict[str, dict[int, Effect]] = {f"e-{n}": {} for n in range(entities)}
        self._drafts: list[Draft] = []
        self._last_tell = dict.fromkeys(self._effects, 0)  # when it takes effect
        self._taken = set[int]()
        self._tells = 0
        crowd = [Client(f"c{n}", self._moment(0, 50)) for n in range(clients)]
        for op in range(1, calls + 1):
            client = min(crowd, key=lambda client: client.free)
            self._call(client, op)
            client.free = self._drafts[-1].end + self._random.randrange(1, 60)
        self.logs = {entity: self._log(entity) for entity in self._effects}
        self.calls = [self._answered(draft) for draft in self._drafts]

    def _moment(self, after: int, within: int) -> int:
        """A moment at which nothing else happens."""
        moment = after + self._random.randrange(1, max(within, 2))
        while moment in self._taken:
            moment += 1
        self._taken.add(moment)
        return moment

    def _call(self, client: Client, op: int) -> None:
        entity = self._random.choice(list(self._effects))
        begin = client.free
        known = [e for e in self._effects[entity].values() if e.moment < begin]
        chance = self._random.random()
        if chance < 0.25:
            self._read(client, entity, begin)
        elif chance < 0.4 and known:
            self._again(client, entity, self._random.choice(known), begin)
        elif chance < 0.65:
            self._tell(client, entity, op, begin)
        else:
            self._ask(client, entity, op, begin)

    def _draft(self, client: Client, entity: str, way: Way, begin: int, end: int) -> Draft:
        draft = Draft(client.name, entity, way, begin, end, True)
        self._drafts.append(draft)
        return draft

    def _ask(self, client: Client, entity: str, op: int, begin: int) -> None:
        moment = self._moment(max(begin, client.behind.get(entity, 0)), 40)
        draft = self._draft(client, entity, "ask", begin, moment + self._random.randrange(20))
        draft.op, draft.key = op, self._key(op)
        if self._random.random() < LATE:
            draft.heard = False
            draft.end = begin + self._random.randrange(1, 30)
            if self._random.random() < 0.5:
                return  # it never comes
            moment = self._moment(moment, 300)
        else:
            client.behind[entity] = client.seen[entity] = moment
        self._effects[entity][op] = Effect(op, draft.key, moment)

    def _tell(self, client: Client, entity: str, op: int, begin: int) -> None:
        stored = begin + self._random.randrange(1, 3)
        draft = self._draft(client, entity, "tell", begin, stored + self._random.randrange(1, 20))
        draft.op, draft.key = op, self._key(op)
        draft.heard = self._random.random() > LATE
        if not draft.heard and self._random.random() < 0.5:
            return  # it was never stored
        self._tells += 1
        behind = max(stored, self._last_tell[entity], client.behind.get(entity, 0))
        moment = self._last_tell[entity] = self._moment(behind, 100)
        if draft.heard:
            client.behind[entity] = moment
        self._effects[entity][op] = Effect(op, draft.key, moment, (1, self._tells, stored))

    def _again(self, client: Client, entity: str, effect: Effect, begin: int) -> None:
        way: Way = self._random.choice(("ask", "result", "tell"))
        draft = self._draft(client, entity, way, begin, begin + self._random.randrange(1, 20))
        draft.op, draft.key = effect.op, effect.key
        if way != "tell":
            client.seen[entity] = max(client.seen.get(entity, 0), effect.moment)

    def _read(self, client: Client, entity: str, begin: int) -> None:
        fresh = self._random.random() < 0.6
        end = begin + self._random.randrange(2, 60)
        draft = self._draft(client, entity, "fresh" if fresh else "query", begin, end)
        seen = client.seen.get(entity, 0)
        draft.moment = self._random.randint(begin if fresh else seen, end)
        client.seen[entity] = max(seen, draft.moment)

    def _key(self, op: int) -> str | None:
        return f"k-{op}" if op % 4 else None

    def _log(self, entity: str) -> list[Recorded]:
        log, state = list[Recorded](), Seen()
        for effect in sorted(self._effects[entity].values(), key=lambda effect: effect.moment):
            seen = outcome(state, effect.op)
            state = state if seen.declined else seen
            name = effect.key or f"made-{effect.op}"
            log.append(Recorded(effect.op, name, seen, effect.place))
        return log

    def _answered(self, draft: Draft) -> Call:
        seen = None
        if draft.heard and draft.way in ("ask", "result"):
            seen = next(r.seen for r in self.logs[draft.entity] if r.op == draft.op)
        elif draft.way in ("query", "fresh"):
            seen = self._state_at(draft.entity, draft.moment)
        return Call(
            draft.client,
            draft.entity,
            draft.way,
            draft.begin,
            draft.end,
            "ok" if draft.heard else "unknown",
            draft.op,
            draft.key,
            seen,
        )

    def _state_at(self, entity: str, moment: int) -> Seen:
        effects = self._effects[entity]
        shown = [r.seen for r in self.logs[entity] if effects[r.op].moment <= moment]
        return Seen(shown[-1].n, shown[-1].digest) if shown else Seen()
