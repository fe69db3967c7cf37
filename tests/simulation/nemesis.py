"""The nemesis: what goes wrong beyond single messages, when, and how everything is healed again.

It runs in no process, beside the clients, until they have sent everything and enough went wrong.
Then it heals: faults end, who is frozen wakes up, one runner stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

from perdure.streams.subjects import escape

from .bounds import excesses
from .evidence import Way
from .forgery import forge
from .till import till
from .workload import LONG_SLEEP_S, Workload
from .world import Caller, Member, Owner, World

FAULTS = 20
"""A world has at least this many faults."""

LONGEST_S = 400.0
"""How long faults go on, in virtual seconds, while clients still have commands to send."""

CRASHES = 3
"""Crashes in one world at most: fewer than the marks that make a command poison."""


class Nemesis:
    """See the module."""

    def __init__(self, world: World, workload: Workload) -> None:
        self.world = world
        self.workload = workload
        self.random = Random(f"nemesis {world.scenario.seed}")
        self.crashes = 0
        self.strikes: dict[str, Callable[[], object]] = {
            "crash": self._crash,
            "fuse": self._fuse,
            "freeze": self._freeze,
            "zombie": self._zombie,
            "partition": self._partition,
            "join": self._join,
            "deaf": self._deaf,
            "drain": self._drain,
            "cut": self._cut,
            "rewind": self._rewind,
            "torn log": self._tear,
            "foreign": self._foreign,
            "snapshots": self._snapshots,
            "flipped snapshots": self._flip,
            "forged snapshots": self._forge,
            "skew": self._skew,
            "client freeze": self._client_freeze,
            "client crash": self._client_crash,
            "poison": self._poison,
            "log refuses": self._log_refuses,
            "tells refused": self._tells_refused,
            "batches refused": self._batches_refused,
            "stall": self._stall,
            "dead letters full": self._dead_letters_full,
            "damage": self._damage,
        }

    async def run(self) -> None:
        """Strike until the clients are done."""
        world = self.world
        names = [name for name in self.strikes if name in world.scenario.troubles] or ["freeze"]
        while self.workload.busy or world.weather.faults < FAULTS:
            await asyncio.sleep(self.random.uniform(0.1, 3.0))
            if world.loop.time() > LONGEST_S:  # calls that time out again and again take long
                return
            for owner in world.alive:
                world.evidence.unbounded += excesses(owner, world.scenario)
            name = self.random.choice(names)
            world.say("NEMESIS", name)
            world.weather.note(name)
            self.strikes[name]()

    async def heal(self) -> None:
        """No more faults; who sleeps wakes up; as many runners stay as there should be."""
        world = self.world
        world.say("ALL CALM")
        world.weather.calm = True
        world.log_refuses = world.dead_letters_full = world.tells_refused = False
        world.staging.crowded = False
        world.weather.stalled_until = 0.0
        if self.random.random() < 0.5:
            world.repair()
        members: list[Member] = [*world.owners, *world.callers]
        for member in members:
            member.process.fuse = None
            world.thaw(member)
            world.restore(member)
            member.wire.deaf_until = 0.0
        await asyncio.sleep(2.0)
        alive = [o for o in world.alive if not o.leaving]
        if not alive:
            world.start_runner()
        for extra in alive[: -world.scenario.runners]:
            self._retire(extra)
        await asyncio.sleep(6.0)

    # -- who ------------------------------------------------------------------------------------
    def _victim(self) -> Owner | None:
        alive = [o for o in self.world.alive if not o.leaving]
        return self.random.choice(alive) if alive else None

    def _caller(self) -> Caller | None:
        alive = [c for c in self.world.callers[:-1] if c.process.alive and c.commands_left]
        return self.random.choice(alive) if alive else None

    def _few(self) -> bool:
        """Whether one more runner may start."""
        return len([o for o in self.world.alive if not o.leaving]) < self.world.scenario.runners

    # -- runners --------------------------------------------------------------------------------
    def _crash(self) -> None:
        victim = self._victim()
        if victim is not None and self.crashes < CRASHES:
            self._kill(victim)

    def _kill(self, victim: Owner) -> None:
        if not victim.process.alive:
            return
        self.crashes += 1
        self.world.situations["runner crashed"] += 1
        self.world.crash(victim)
        if self._few():
            self.world.restart_later()

    def _fuse(self) -> None:
        """Crash before one chosen callback: between any two awaits."""
        victim = self._victim()
        if victim is not None and self.crashes < CRASHES:
            victim.process.at_step(self.random.randint(1, 120), lambda: self._kill(victim))

    def _freeze(self) -> None:
        victim = self._victim()
        if victim is not None:
            self.world.freeze(victim, self.random.choice([0.2, 1.0, 3.0, 9.0]))

    def _zombie(self) -> None:
        """An owner freezes for long, others take over, it wakes up and knows nothing."""
        owner = self._victim()
        if owner is None or owner.process.frozen:
            return
        asleep = self.random.choice([self.random.uniform(0.5, 8.0), LONG_SLEEP_S])
        self.world.freeze(owner, asleep)
        self._relieve(self.random.uniform(0.05, min(asleep, 8.0)))
        self.world.situations["zombie"] += 1

    def _partition(self) -> None:
        """An owner is cut off and goes on, others take over, it comes back."""
        owner = self._victim()
        if owner is None or owner.process.frozen:
            return
        away_s = self.random.uniform(1.0, 15.0)
        self.world.cut(owner, away_s)
        self._relieve(self.random.uniform(0.05, min(away_s, 6.0)))
        self.world.situations["partition"] += 1

    def _relieve(self, after_s: float) -> None:
        """Where nobody else could take over, somebody comes."""
        well = [
            o for o in self.world.alive if not (o.leaving or o.process.frozen or not o.wire.up)
        ]
        if not well:
            self.world.at(after_s, self._one_more)

    def _join(self) -> None:
        """One more than there should be, for a while; then any of them goes."""
        if not self._few() and len(self.world.alive) <= self.world.scenario.runners:
            self._one_more()

    def _one_more(self) -> None:
        world = self.world
        if world.weather.calm or len(world.alive) > world.scenario.runners:
            return
        world.start_runner()
        world.situations["one more runner"] += 1
        world.at(self.random.uniform(2.0, 12.0), self._retire_any)

    def _retire_any(self) -> None:
        alive = [o for o in self.world.alive if not o.leaving]
        if len(alive) > self.world.scenario.runners:
            self._retire(self.random.choice(alive))

    def _retire(self, owner: Owner) -> None:
        world = self.world
        others = [o for o in world.alive if o is not owner and not o.leaving]
        if not owner.process.alive or owner.leaving or not others:
            return
        if not world.weather.calm and self.random.random() < 0.4:
            self._kill(owner)
        else:
            self._leave(owner)

    def _drain(self) -> None:
        """A runner leaves in good order, and the next one starts at once, or a little before."""
        owner = self._victim()
        if owner is None or owner.process.frozen:
            return
        if self.random.random() < 0.5:
            self.world.start_runner()
            self.world.at(self.random.uniform(0.0, 3.0), self._leave, owner)
        else:
            self._leave(owner)
            self.world.start_runner()

    def _deaf(self) -> None:
        """Views of the members differ for a while."""
        owner = self._victim()
        if owner is not None:
            self.world.deafen(owner, self.random.choice([0.5, 4.0, 20.0]))
            self.world.situations["deaf"] += 1

    def _leave(self, owner: Owner) -> None:
        if owner.leaving or not owner.process.alive:
            return
        others = [o for o in self.world.alive if o is not owner and not o.leaving]
        if self.world.weather.calm and not others:  # it was to leave later, and is the last one
            return
        owner.leaving = True
        self.world.say(owner.process.name, "LEAVES")
        self.world.situations["runner drained"] += 1

        async def leave() -> None:
            await owner.runner.drain()
            await owner.session.close()
            self.world.at(0.5, self.world.crash, owner)

        owner.process.spawn(leave())

    # -- connections and clocks -------------------------------------------------------------------
    def _cut(self) -> None:
        members: list[Member] = [*self.world.alive, *self.world.callers]
        down = self.random.choice([0.0, 0.01, 0.5, 3.0])
        self.world.cut(self.random.choice(members), down)

    def _skew(self) -> None:
        members: list[Member] = [*self.world.alive, *self.world.callers]
        member = self.random.choice(members)
        member.clock.skew_s = self.random.choice(self.world.scenario.skews_s)
        skew = 2000 * abs(member.clock.skew_s)
        self.world.evidence.skew_ms = max(self.world.evidence.skew_ms, skew)

    def _client_freeze(self) -> None:
        """A client sleeps for a while."""
        caller = self._caller()
        if caller is not None:
            self.world.freeze(caller, self.random.choice([0.5, 2.0, 9.0]))

    def _client_crash(self) -> None:
        caller = self._caller()
        if caller is not None and self.random.random() < 0.3:
            self.world.crash(caller)
            self.workload.crashed(caller)

    # -- what is stored ---------------------------------------------------------------------------
    def _rewind(self) -> None:
        if self.random.random() < 0.3:
            self.world.rewind(self.random.randint(1, 6))

    def _tear(self) -> None:
        """The log loses its tail, as on a disk that wasn't synced when the power went."""
        if self.random.random() < 0.5 and not self.world.evidence.damaged:
            self.world.tear(self.random.randint(1, 8))

    def _foreign(self) -> None:
        """Somebody publishes to a log's subject."""
        subjects = self.world.callers[0].session.subjects
        entity = self.random.choice(self.world.scenario.entities)
        body = self.random.choice([b"{}", b"hello", b'{"stream":"X","seq":1}', b""])
        self.world.foreign(subjects.log(till.name, escape(entity)), body)

    def _snapshots(self) -> None:
        """Snapshots vanish, become another's, are cut off, or become nonsense."""
        stored = self.world.broker.streams("perdure").snapshots
        if not stored or self.random.random() < 0.2:
            self.world.broker.drop_snapshots()
            return
        subject = self.random.choice(list(stored))
        data = stored[subject]
        cut = self.random.randrange(len(data) + 1)
        other = stored[self.random.choice(list(stored))]
        stored[subject] = self.random.choice([other, data[:cut], b"nonsense"])

    def _flip(self) -> None:
        """A bit of a snapshot flips."""
        stored = self.world.broker.streams("perdure").snapshots
        whole = [subject for subject, data in stored.items() if data]
        if whole:
            subject = self.random.choice(whole)
            data = bytearray(stored[subject])
            data[self.random.randrange(len(data))] ^= 1 << self.random.randrange(8)
            stored[subject] = bytes(data)

    def _forge(self) -> None:
        """A snapshot is newer than the log, or of another past."""
        entity = self.random.choice(self.world.scenario.entities)
        ahead = self.random.choice([0, 1, 3, 50])
        self.world.start(forge(self.world.broker.streams("perdure"), entity, ahead))

    def _damage(self) -> None:
        """A bit of a stored commit flips: that entity is lost, its neighbours go on."""
        world = self.world
        evidence = world.evidence
        if evidence.damaged or evidence.torn or len(world.scenario.entities) == 1:
            return
        log = world.broker.streams("perdure").logs[till.name]
        tokens = log.tokens()
        if not tokens:
            return
        token = self.random.choice(tokens)
        stored = self.random.choice(log.between(token, 0, None, 1_000_000))
        if stored.mark is None:
            return
        place = self.random.randrange(len(stored.data))
        data = bytearray(stored.data)
        data[place] ^= 1
        world.damage(token, stored, bytes(data))

    def _log_refuses(self) -> None:
        """No space left, for a while."""
        self.world.log_refuses = True
        self.world.at(self.random.uniform(0.2, 4.0), setattr, self.world, "log_refuses", False)

    def _tells_refused(self) -> None:
        """The command stream is full, for a while."""
        self.world.tells_refused = True
        self.world.at(self.random.uniform(0.1, 2.0), setattr, self.world, "tells_refused", False)

    def _batches_refused(self) -> None:
        """Others have all batches open that the server takes, for a while."""
        staging = self.world.staging
        staging.crowded = True
        self.world.at(self.random.uniform(0.1, 5.0), setattr, staging, "crowded", False)

    def _stall(self) -> None:
        """The streams have no leader for a while: what was sent is stored late, or too late."""
        stalled_s = self.random.choice([0.5, 1.9, 2.1, 5.0])
        self.world.weather.stalled_until = self.world.loop.time() + stalled_s
        self.world.staging.forget()

    def _dead_letters_full(self) -> None:
        self.world.dead_letters_full = True
        self.world.at(5.0, setattr, self.world, "dead_letters_full", False)

    # -- poison -----------------------------------------------------------------------------------
    def _poison(self) -> None:
        caller = self._caller()
        if caller is None or caller.process.frozen or self.workload.poisons:
            return
        entity = self.random.choice(self.world.scenario.entities)
        way: Way = self.random.choice(["ask", "tell", "tell"])
        caller.process.spawn(self.workload.poison(caller, entity, way))
