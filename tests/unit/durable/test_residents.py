"""Who is in memory: bounds in number and bytes, and that the estimate is one."""

from __future__ import annotations

import asyncio
import tracemalloc
from typing import Any

import pytest

from perdure import Settings
from perdure.durable.activation import Activation
from perdure.durable.answers import Answers
from perdure.durable.folded import Folded
from perdure.durable.host import Host, Load
from perdure.durable.ledger import MADE_BYTES, ROW_BYTES, Ledger, Seen
from perdure.durable.phase import Running
from perdure.durable.residents import (
    BASE_BYTES,
    CROWDED,
    LOOKS,
    STATE_FACTOR,
    Residents,
)
from perdure.entities.address import Address
from perdure.entities.clock import SystemClock
from perdure.streams.memory.broker import MemoryBroker

from .keeper import Keeper, add, keeper
from .world import world


class Fake:
    """A resident that notes its leaving."""

    def __init__(self, residents: Residents, *, idle: bool = True) -> None:
        self.residents, self.idle, self.left = residents, idle, False
        residents.use(self)

    def leave(self) -> None:
        self.left = True


def test_the_least_recently_used_leaves_first() -> None:
    residents = Residents(3, 10**9)
    a, b, c = (Fake(residents) for _ in range(3))
    residents.use(a)
    d = Fake(residents)
    assert [r.left for r in (a, b, c, d)] == [False, True, False, False]
    assert (len(residents), residents.evicted) == (3, 1)
    assert residents.bytes == 3 * BASE_BYTES


def test_bytes_are_a_bound_too_and_known_at_once() -> None:
    residents = Residents(100, 20 * BASE_BYTES)
    few = [Fake(residents) for _ in range(10)]
    residents.weigh(few[9], 15 * BASE_BYTES)
    assert [r.left for r in few] == [True] * 4 + [False] * 6
    assert residents.bytes == 20 * BASE_BYTES
    residents.forget(few[9])
    assert residents.bytes == 5 * BASE_BYTES
    residents.weigh(few[9], 10**9)  # it is gone
    assert residents.bytes == 5 * BASE_BYTES


def test_who_is_at_work_stays_and_a_crowd_is_told() -> None:
    residents = Residents(2, 10**9)
    busy = [Fake(residents, idle=False) for _ in range(int(2 * CROWDED) + LOOKS + 1)]
    assert residents.crowded
    assert not any(r.left for r in busy)
    for resident in busy:
        resident.idle = True
    residents.shed()
    assert len(residents) == max(2, len(busy) - LOOKS)
    assert not residents.crowded


def test_a_newcomer_is_not_let_go_before_it_could_begin() -> None:
    residents = Residents(1, 10**9)
    busy = Fake(residents, idle=False)
    assert not Fake(residents).left
    assert (len(residents), busy.left) == (2, False)


async def test_more_entities_at_work_than_may_be_in_memory() -> None:
    async with world(keeper, resident_entities=1) as w:
        asks = [w.ask(f"e{n}", add(n)) for n in range(20)]
        replies = [answer["reply"] for answer in await asyncio.gather(*asks)]
        assert replies == list(range(20))
        await w.until(lambda: w.runners[0][0].statistics().entities <= 1)


async def test_entities_leave_at_once_and_come_back_as_they_were() -> None:
    async with world(keeper, resident_entities=3) as w:
        runner = w.runners[0][0]
        for turn in range(3):
            for n in range(10):
                assert (await w.ask(f"e{n}", add(2)))["reply"] == 2 * (turn + 1)
                await w.until(lambda: runner.statistics().entities <= 3)


async def test_in_a_crowd_only_known_entities_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(keeper) as w:
        assert (await w.ask("known", add(1)))["reply"] == 1
        monkeypatch.setattr(Residents, "crowded", property(lambda self: True))
        assert (await w.ask("known", add(1)))["reply"] == 2
        error = (await w.ask("new", add(1)))["error"]
        assert error["type"] == "MailboxFull"


async def test_a_large_state_and_large_answers_are_counted() -> None:
    async with world(keeper) as w:
        runner = w.runners[0][0]
        await w.ask("a", add(1))
        await w.until(lambda: runner.statistics().cached > BASE_BYTES + ROW_BYTES)
        w.runners[0][0].passivate_all()
        assert runner.statistics().cached == 0


def measured(entries: int, count: int, *, made_keys: bool) -> float:
    """Bytes that an activation really holds."""
    settings = Settings()
    session = MemoryBroker(SystemClock(), settings).session(name="x")
    host = Host(session, keeper, settings, "r", Load(10, Residents(10**6, 10**12)))
    answers = Answers(session.asks, settings.reply_prefixes)

    def made(n: int) -> Activation:
        shard: Any = None
        activation = Activation(host, shard, answers, Address("keeper", f"a-{n}"))
        host.load.residents.use(activation)
        ledger = Ledger(host.ledger_limits)
        for k in range(entries):
            time = 1_790_000_000_000 + k
            seen = Seen(k * 7 + n, n.to_bytes(16, "big"), time if made_keys else -1, time + 5)
            ledger.add(f"m-{n}-{k}", seen, "f" * 32)
        activation.phase = Running(Folded(Keeper(n + 1000), ledger))
        return activation

    tracemalloc.start()
    try:
        kept = [made(n) for n in range(count)]
        return tracemalloc.get_traced_memory()[0] / len(kept)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("entries", "count"), [(0, 2000), (20, 500), (500, 20)])
@pytest.mark.parametrize("made_keys", [True, False])
async def test_the_estimate_is_above_what_is_held_by_little(
    entries: int, count: int, made_keys: bool
) -> None:
    state = len(b'{"type":"keeper","n":1000}')
    entry = MADE_BYTES if made_keys else ROW_BYTES
    estimate = BASE_BYTES + entries * entry + state * STATE_FACTOR
    held = measured(entries, count, made_keys=made_keys)
    assert 0.4 * estimate < held < estimate
