"""Whether everything stays bounded: what a runner and a client hold, looked at again and again.

The only place that looks inside the code under test, through what it shows of itself
(`statistics`) where it does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from perdure.durable.phase import Running
from perdure.durable.reading import RESULT_S

from .scenario import Scenario
from .world import Caller, Owner

SWEEP_S = 5.1
"""How long after its time a question may still wait: a clock that was put back after a timer was
set leaves it to the next sweep, which comes every 5 s."""

IDLE_TASKS = 3
"""Tasks that an idle process may have: timers, sweeps, a watcher."""

MEMBER_TASKS = 4
"""The same of a runner, besides one for each shard: heartbeats, the ring, its pings."""


def excesses(owner: Owner, scenario: Scenario) -> Iterator[str]:
    """What is beyond its bound in a runner right now."""
    settings, statistics = scenario.settings, owner.runner.statistics()
    name = owner.process.name
    if statistics.asks > settings.runner_capacity:
        yield f"{name}: {statistics.asks} asks wait, allowed are {settings.runner_capacity}"
    if statistics.asks < 0 or statistics.bytes < 0:
        yield f"{name}: {statistics.asks} asks of {statistics.bytes} bytes wait"
    if not 0 <= suspended(owner) <= settings.runner_capacity:
        yield f"{name}: {suspended(owner)} asks wait for suspended flows"
    for activation in activations(owner):
        mailbox = activation.mailbox.statistics()
        if mailbox.asks > settings.mailbox_capacity:
            yield f"{activation.address}: {mailbox.asks} asks in its mailbox"
        # The server bounds what one term is given. What an earlier one was, and a rival settled in
        # its terms between ours, waits until the log says so.
        terms = Counter(item.consumer for item in activation.mailbox if item.way == "tell")
        most = 2 * settings.mailbox_capacity  # some may be acknowledged, and the ack on its way
        for term, tells in terms.items():
            if tells > most:
                yield f"{activation.address}: {tells} tells of {term} in its mailbox"
        if isinstance(activation.phase, Running):
            ledger = activation.phase.folded.ledger.statistics()
            if ledger.made > settings.made_keys or ledger.given > settings.dedup_keys:
                yield f"{activation.address}: {ledger}"


def leaving(owner: Owner) -> int:
    """Bytes of last snapshots, of entities that left its memory, which are on their way."""
    return owner.runner._load.leaving  # pyright: ignore[reportPrivateUsage]


def suspended(owner: Owner) -> int:
    """Asks that wait for suspended flows, by its count."""
    return owner.runner._load.suspended  # pyright: ignore[reportPrivateUsage]


def leftovers(owners: list[Owner], scenario: Scenario) -> Iterator[str]:
    """What idle runners still hold and should not; together they have all shards, each once."""
    types = len(owners[0].runner._hosted) if owners else 1  # pyright: ignore[reportPrivateUsage]
    shards, terms = scenario.settings.shards * types, 0
    for owner in owners:
        statistics, name = owner.runner.statistics(), owner.process.name
        terms += statistics.terms
        parked = [read for a in activations(owner) for read in _parked(owner, a)]
        waits = [read for read in parked if not read.suspended]
        if suspended(owner) != len(parked) - len(waits):
            yield f"{name} is idle, but {suspended(owner)} asks wait for suspended flows"
        if (statistics.asks, statistics.bytes) != (len(waits), sum(r.size for r in waits)):
            yield (
                f"{name} is idle, but {statistics.asks} asks of {statistics.bytes} bytes wait, "
                f"{len(waits)} of them for a result"
            )
        tasks = owner.process.loop.pending(owner.process)
        if tasks > IDLE_TASKS + MEMBER_TASKS + types + shards:
            yield f"{name} is idle, but has {tasks} tasks"
        if leaving(owner):
            yield f"{name} is idle, but stores last snapshots of {leaving(owner)} bytes"
    if terms != shards:
        yield f"{len(owners)} idle runners have {terms} terms of {shards}"
    views = {tuple(m.runner for m in owner.runner.membership.view.members()) for owner in owners}
    if len(views) > 1:
        yield f"{len(owners)} idle runners don't see the same members: {sorted(views)}"


def _parked(owner: Owner, activation: Any) -> Iterator[Any]:
    """Questions for a result that nothing is known of, whose time isn't over by that clock.

    They may wait in an idle world: a client with a wrong clock told a deadline that is far ahead.
    """
    now, now_ms = owner.process.loop.time(), owner.clock.now_ns() / 1e6
    for read in activation.reading._waiting:
        deadline_ms = read.envelope.deadline or now_ms
        late_s = max(now - read.since - RESULT_S, (now_ms - deadline_ms) / 1000)
        if read.kind == "result" and read.checked and late_s <= SWEEP_S:
            yield read


def forgotten(caller: Caller) -> Iterator[str]:
    """What an idle client still holds and should not."""
    tasks = caller.process.loop.pending(caller.process)
    if tasks > IDLE_TASKS:
        yield f"{caller.process.name} is idle, but has {tasks} tasks"


def activations(owner: Owner) -> Iterator[Any]:
    """Everything that a runner has in memory."""
    runner: Any = owner.runner
    for hosted in runner._hosted:
        for shard in hosted.shards:
            yield from shard.activations.values()
