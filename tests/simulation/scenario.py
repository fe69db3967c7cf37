"""What one seed is about: settings small enough that every bound is met, and which troubles come.

Swarm testing: each seed switches most troubles off, so that every combination is tried in some
world and no frequent trouble hides a rare one.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

from perdure.durable import (
    chooser,
    claim,
    execution,
    group,
    host,
    pages,
    reading,
    shard,
    snapshot,
    timers,
)
from perdure.entities.duration import seconds
from perdure.entities.retry import Retry
from perdure.entities.settings import Settings

from .checker import Limits
from .weather import Climate

TROUBLES = {
    "crash": 0.6,
    "fuse": 0.5,  # a crash before a chosen callback, not at a chosen time
    "freeze": 0.5,
    "zombie": 0.5,
    "partition": 0.3,
    "join": 0.4,  # one more runner beside healthy ones
    "deaf": 0.4,  # a runner hears nothing of the others: views differ
    "drain": 0.3,
    "cut": 0.5,
    "rewind": 0.2,
    "torn log": 0.1,
    "foreign": 0.3,
    "snapshots": 0.4,
    "flipped snapshots": 0.15,
    "forged snapshots": 0.2,
    "skew": 0.4,
    "client freeze": 0.4,
    "client crash": 0.2,
    "poison": 0.25,
    "garbage": 0.5,
    "burst": 0.5,
    "log refuses": 0.1,
    "tells refused": 0.1,
    "batches refused": 0.15,
    "stall": 0.25,
    "dead letters full": 0.1,
    "damage": 0.08,
    "defects": 0.5,
}
"""Each trouble, and how probable it is that a world knows it."""


CONSTANTS: list[tuple[Any, str, list[float]]] = [
    (execution, "BODIES", [1, 2, 8]),
    (execution, "RECENT", [1, 32]),
    (snapshot, "PART_BYTES", [150, 262_144]),
    (snapshot, "LEAVING_COMMITS", [1, 2, 1_000]),
    (shard, "HELD", [2, 10_000]),
    (claim, "PATIENCE_S", [1.0, 15.0]),
    (claim, "STRANGER_S", [0.1, 1.0]),
    (reading, "READS", [6, 256]),
    (pages, "PAGE_NAMES", [2, 5, 1_000]),
    (pages, "FILTER_PAGES", [2, 16]),
    (pages, "LOADED_PAGES", [2, 8]),
    (pages, "DOOMED_PARTS", [2, 1_000]),
    (host, "RECOVERIES", [1, 64]),
    (timers, "BURIAL_MS", [250, 3_000, 30_000]),
    (group, "BATCH_COMMITS", [2, 3, 256]),
    (group, "BATCH_BYTES", [1_000, 8_388_608]),
    (chooser, "CROWD", [2, 4]),
    (chooser, "SETTLE_S", [0.0, 0.05]),
    (chooser, "LEG_S", [0.01, 0.15]),
    (chooser, "LEGS", [1, 4]),
    (chooser, "VERDICT_S", [0.5, 4.0]),
]
"""Bounds that are no settings, and that a small world would never reach as they are."""

ALWAYS: list[tuple[Any, str, float]] = [(timers, "BURIAL_MAX_MS", 30_000)]
"""The same, of which no world waits for more."""

PINGS = [(0.25, 1.0), (0.8, 2.5), (0.8, 2.5), (1.2, 4.0)]
"""`ping_every` and `frozen_after`, in seconds: as close together as settings allow, so that a few
lost messages are taken for a death. Where they are quick, most of what happens is pings."""

RUNNERS = [1, 1, 1, 2, 2, 2, 3, 4]
"""How many there are: most of what several can do to each other, two can, at half the cost."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """Drawn from a seed before anything runs."""

    seed: int
    settings: Settings
    climate: Climate
    troubles: frozenset[str]
    entities: tuple[str, ...]
    runners: int  # that there are, unless some just died
    clients: int
    commands: int  # of each Python client
    plain_commands: int
    pause_s: float  # between two commands of a client, on average
    open_batches: int  # that the server takes at a time, of all runners
    skews_s: tuple[float, ...]  # by which clocks may be wrong
    constants: tuple[tuple[Any, str, float], ...]  # of modules, and what they are instead

    @property
    def limits(self) -> Limits:
        """What the checker must know."""
        settings = self.settings
        return Limits(
            defect_attempts=settings.defect_retry.attempts,
            poison_marks=settings.poison_marks,
            made_window_s=seconds(settings.made_window),
            made_keys=settings.made_keys,
            ask_timeout_s=seconds(settings.ask_timeout),
        )

    @staticmethod
    def draw(seed: int, *, runners: int = 1, flows: bool = False) -> Scenario:
        """The scenario of a seed, with at least so many runners, with flows or without."""
        random = Random(f"scenario {seed}")
        troubles = frozenset(name for name, p in TROUBLES.items() if random.random() < p)
        ping_every, frozen_after = random.choice(PINGS)
        settings = Settings(
            shards=random.choice([1, 2, 3, 5]),
            ask_timeout=random.choice([3.0, 6.0, 10.0]),
            made_window=random.choice([15.0, 30.0, 900.0]),
            # Few made keys and wrong clocks: whose clock is behind is refused, rightly.
            made_keys=10_000 if "skew" in troubles else random.choice([20, 10_000]),
            ack_wait=random.choice([4.0, 12.0]),
            ack_progress=random.choice([1.0, 2.0]),
            mailbox_capacity=random.choice([4, 8, 100]),
            runner_capacity=random.choice([12, 10_000]),
            term_credit=random.choice([1, 4, 16, 256]),
            commit_outcomes=random.choice([1, 3, 64]),
            commit_bytes=random.choice([1_024, 524_288]),
            askers=random.choice([1, 4, 16]),
            passivate_after=random.choice([0.8, 4.0, 300.0]),
            resident_entities=random.choice([1, 2, 10_000]),
            snapshot_min_commits=random.choice([2, 5, 50]),
            snapshot_max_commits=random.choice([50, 500]),
            defect_retry=Retry(attempts=4, base=0.02, factor=2.0),
            poison_marks=4,
            told_addresses=random.choice([0, 2, 65_536]),
            ask_via=random.choice(["core", "core", "core", "stream"]),
            drain_timeout=3.0,
            timers=flows,
            heartbeat=random.choice([0.5, 3.0]),
            member_ttl=random.choice([6.0, 15.0]),
            ping_every=ping_every,
            frozen_after=frozen_after,
            appends=random.choice(["batch", "batch", "batch", "batch", "auto", "auto", "single"]),
        )
        count = random.choice([1, 3, 4, 6, 8, 8])
        return Scenario(
            seed,
            settings,
            Climate.draw(random),
            troubles,
            tuple(_ids(random, count)),
            runners=max(runners, random.choice(RUNNERS)),
            clients=3,
            commands=64,
            plain_commands=24,
            pause_s=random.choice([0.05, 0.25, 0.6]),
            open_batches=random.choice([1, 2, 50]),
            skews_s=_skews(settings),
            constants=_constants(random, troubles),
        )


def _constants(random: Random, troubles: frozenset[str]) -> tuple[tuple[Any, str, float], ...]:
    drawn = [(module, name, random.choice(values)) for module, name, values in CONSTANTS]
    if "damage" in troubles:  # what a quarantined entity holds may not starve its neighbours here
        drawn = [c for c in drawn if c[1] != "HELD"]
    return (*drawn, *ALWAYS)


def _skews(settings: Settings) -> tuple[float, ...]:
    """Clocks may differ by a sixth of what made keys live; far beyond, these are refused for a
    while, which is unkind but no error."""
    most = seconds(settings.made_window) / 12
    return (0.0, -most, -0.3, 0.3, most)


def _ids(random: Random, count: int) -> list[str]:
    return random.sample(["a", "b-1", "c_2", "dé", "e f", "g.h", "ünï", "x" * 40], count)
