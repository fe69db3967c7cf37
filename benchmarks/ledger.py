"""What an entity's memory of keys costs: `python -m benchmarks.ledger [--keys 100000]`.

One entity gets that many commands with keys of their own, on the memory backend, so that nothing
but perdure is measured. Printed are the bytes that its ledger takes a key, in memory and stored,
and the bytes that snapshots wrote a command, beside what the log wrote; then a restart, with the
time to the first answer, and repeats of old keys, each of which must get its recorded outcome.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tracemalloc
from time import perf_counter
from typing import Any

import msgspec

from perdure import Settings
from perdure.durable.ledger import Ledger
from perdure.durable.runner import Runner
from perdure.entities.address import Address
from perdure.entities.clock import SystemClock
from perdure.streams.memory.broker import MemoryBroker
from perdure.streams.memory.session import MemorySession
from perdure.streams.port import Message

from .account import account

AT_ONCE = 64
"""Commands on their way: as many as one commit holds."""

REPEATS = 300
"""Old keys that are sent again, spread over all of them."""
address = Address(account.name, "a-1")


class Caller:
    """Sends commands with keys, without a client in between."""

    def __init__(self, session: MemorySession) -> None:
        self._session = session
        self._box = session.asks.inbox(self._receive)
        self._waiting: dict[str, asyncio.Future[bytes]] = {}

    def _receive(self, message: Message) -> None:
        waiting = self._waiting.get(message.subject.rpartition(".")[2])
        if waiting is not None and not waiting.done():
            waiting.set_result(message.data)

    async def ask(self, key: str) -> int:
        waiting = self._waiting[key] = asyncio.get_running_loop().create_future()
        subject = self._session.subjects.ask(account.name, address.id)
        data, headers = b'{"type":"deposit","cents":1}', {"Idempotency-Key": key}
        self._session.asks.send(subject, data, reply=self._box.subject(key), headers=headers)
        answer = msgspec.json.decode(await waiting)
        del self._waiting[key]
        return int(answer["reply"])

    async def fill(self, first: int, last: int) -> None:
        async def some(start: int) -> None:
            for n in range(start, last, AT_ONCE):
                await self.ask(f"k{n}")

        await asyncio.gather(*(some(first + n) for n in range(AT_ONCE)))


class Written:
    """Counts what snapshots write and read."""

    def __init__(self, session: MemorySession) -> None:
        self.puts = self.written = self.gets = self.read = 0
        put, get = session.snapshots.put, session.snapshots.get

        async def counted_put(address: Address, data: bytes, part: str | None = None) -> bool:
            self.puts, self.written = self.puts + 1, self.written + len(data)
            return await put(address, data, part)

        async def counted_get(address: Address, part: str | None = None) -> bytes | None:
            data = await get(address, part)
            self.gets, self.read = self.gets + 1, self.read + len(data or b"")
            return data

        vars(session.snapshots).update(put=counted_put, get=counted_get)


def ledger_of(runner: Runner) -> Ledger:
    """The entity's ledger in that runner."""
    for hosted in vars(runner)["_hosted"]:
        for shard in hosted.shards:
            for activation in shard.activations.values():
                return activation.folded.ledger  # type: ignore[no-any-return]
    raise LookupError("the entity isn't in memory")


async def started(broker: MemoryBroker, settings: Settings) -> tuple[Runner, Written]:
    session = broker.session(name="runner")
    runner, written = Runner(session, [account], settings), Written(session)
    await runner.start()
    return runner, written


async def measure(keys: int) -> dict[str, Any]:
    settings = Settings(shards=1, drain_timeout=5, dedup_keys=keys + 1000)
    broker = MemoryBroker(SystemClock(), settings)
    runner, written = await started(broker, settings)
    caller = Caller(broker.session(name="caller"))
    found: dict[str, Any] = {"keys": keys}
    tenth, began = keys // 10, perf_counter()
    await caller.fill(0, tenth)
    found["commands_s_first_tenth"] = round(tenth / (perf_counter() - began))
    await caller.fill(tenth, keys - tenth)
    began = perf_counter()
    await caller.fill(keys - tenth, keys)
    found["commands_s_last_tenth"] = round(tenth / (perf_counter() - began))
    while runner.busy:  # noqa: ASYNC110 (a snapshot on its way)
        await asyncio.sleep(0.01)
    log = broker.streams("perdure").logs[account.name]
    stored = broker.streams("perdure").snapshots
    commits = log.between(address.id, 0, None, keys)
    found["log_bytes_a_command"] = round(sum(len(c.data) for c in commits) / keys, 1)
    found["snapshot_bytes_written_a_command"] = round(written.written / keys, 1)
    found["snapshot_writes"] = written.puts
    found["stored_bytes_a_key"] = round(sum(map(len, stored.values())) / keys, 1)
    found["memory_bytes_a_key_warm"] = round(ledger_of(runner).memory_bytes / keys, 1)
    await runner.drain()
    await restarted(broker, settings, caller, found)
    return found


async def restarted(
    broker: MemoryBroker, settings: Settings, caller: Caller, found: dict[str, Any]
) -> None:
    """Another runner takes over: its first answer, its memory, its repeats."""
    keys = found["keys"]
    runner, written = await started(broker, settings)
    tracemalloc.start()
    began = perf_counter()
    assert await caller.ask("after-a-restart") == keys + 1
    found["cold_first_answer_ms"] = round((perf_counter() - began) * 1000, 1)
    found["cold_reads"], found["cold_bytes_read"] = written.gets, written.read
    ledger = ledger_of(runner)
    found["memory_bytes_a_key_cold"] = round(ledger.memory_bytes / keys, 1)
    found["memory_bytes_a_key_traced"] = round(tracemalloc.get_traced_memory()[0] / keys, 1)
    tracemalloc.stop()
    began = perf_counter()
    for n in range(0, keys, keys // REPEATS):
        assert await caller.ask(f"k{n}") <= keys
    found["repeat_ms"] = round((perf_counter() - began) * 1000 / REPEATS, 2)
    found["memory_bytes_a_key_after_repeats"] = round(ledger.memory_bytes / keys, 1)
    assert await caller.ask("the-last") == keys + 2  # no repeat was executed
    await runner.drain()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=100_000)
    print(json.dumps(asyncio.run(measure(parser.parse_args().keys)), indent=1))
