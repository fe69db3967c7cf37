"""What happened to an entity, as a reader of its log sees it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from msgspec import Raw

from perdure import (
    ClusterError,
    Entity,
    MalformedMessage,
    RpcClientError,
    SerializationError,
    Settings,
)
from perdure.entities.address import Address
from perdure.streams.asks import raw
from perdure.streams.client import Cluster
from perdure.streams.commit import GENESIS, At, Dead, Outcome, Sealed, seal
from perdure.streams.commit import Commit as Stored
from perdure.streams.history import Commit
from perdure.streams.memory.broker import MemoryBroker
from perdure.streams.port import Appended
from tests.bank import Account, AccountEvent, Deposited, Withdrawn, decide, evolve
from tests.unit.streams.virtual import VirtualClock, run

account = Entity(Account(), decide, evolve)
START = datetime(2026, 1, 2, tzinfo=UTC)
A1 = Address("account", "a-1")
ZERO = "0" * 32


def deposited(name: str, *cents: int) -> Outcome:
    events = tuple(raw(Deposited(c)) for c in cents)
    command = Raw(b'{"type":"deposit"}')
    return Outcome(name=name, payload_hash=ZERO, command=command, events=events, reply=Raw(b"5"))


@dataclass
class Log:
    """Writes an entity's log, link by link."""

    settings: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        self.broker = MemoryBroker(VirtualClock(), self.settings)
        self.session = self.broker.session("writer")
        self.reader = self.broker.session("reader")
        self.cluster = Cluster(self.reader, self.settings)
        self.prev, self.version, self.last, self.count = GENESIS, 0, 0, 0

    async def start(self) -> Log:
        await self.session.provision("account")
        return self

    def seal(self, *outcomes: Outcome) -> Sealed:
        version = self.version + sum(len(o.events) for o in outcomes)
        time = START + timedelta(seconds=self.count)
        return seal(
            Stored(
                v=1,
                id=f"c{self.count}",
                prev=self.prev,
                version=version,
                runner="r1",
                time=time,
                outcomes=outcomes,
            )
        )

    async def add(self, *outcomes: Outcome) -> int:
        sealed = self.seal(*outcomes)
        answer = await self.session.log.append(A1, sealed, expected=self.last)
        assert isinstance(answer, Appended)
        self.version += sum(len(o.events) for o in outcomes)
        self.prev, self.last, self.count = sealed.mark, answer.sequence, self.count + 1
        return answer.sequence

    def foreign(self, data: bytes) -> None:
        self.broker.publish_foreign("perdure.log.account.a-1", data)
        self.last += 1

    async def read(self, after: int = 0) -> list[Commit[AccountEvent]]:
        return [c async for c in self.cluster.history(account, "a-1", after=after)]

    async def fails(self) -> ClusterError:
        with pytest.raises(ClusterError) as caught:
            await self.read()
        assert caught.value.address == "account/a-1"
        assert caught.value.request_id
        assert not caught.value.may_have_taken_effect
        return caught.value


def test_each_command_is_one_record() -> None:
    async def main() -> None:
        log = await Log().start()
        refused = Outcome(name="k3", payload_hash=ZERO, failure=Raw(b'{"type":"no"}'))
        await log.add(deposited("k1", 5), deposited("k2", 6, 7))
        await log.add(refused)
        first, second, third = await log.read()
        assert first == Commit(
            1, START, (Deposited(5),), "k1", b'{"type":"deposit"}', b"5", None, None, 1
        )
        assert (second.version, second.at, second.key) == (3, START, "k2")
        assert second.events == (Deposited(6), Deposited(7))
        assert third == Commit(
            3, START + timedelta(seconds=1), (), "k3", failure=b'{"type":"no"}', sequence=2
        )

    run(main())


def test_only_keys_are_told_as_keys() -> None:
    async def main() -> None:
        log = await Log().start()
        dead = Dead("malformed", raw(None), key="k4")
        await log.add(deposited("@1.7.1000.0123456789abcdef", 1))
        await log.add(deposited("_INBOX.abc.1", 1))
        await log.add(deposited("k3", 1))
        await log.add(
            Outcome(
                name="@1.8.1000.0123456789abcdef", payload_hash=ZERO, at=At(1, 8, 1000), dead=dead
            )
        )
        records = await log.read()
        assert [r.key for r in records] == [None, None, "k3", "k4"]
        assert [r.dead for r in records] == [None, None, None, "malformed"]

    run(main())


def test_after_a_version_the_rest() -> None:
    async def main() -> None:
        log = await Log().start()
        for n in range(5):
            await log.add(deposited(f"k{n}", 1), deposited(f"l{n}", 1))
        for after in range(12):
            assert [c.version for c in await log.read(after)] == list(range(after + 1, 11))

    run(main())


def test_an_entity_without_a_log_has_no_history() -> None:
    async def main() -> None:
        assert await (await Log().start()).read() == []

    run(main())


def test_foreign_messages_are_left_out() -> None:
    async def main() -> None:
        log = await Log().start()
        log.foreign(b"hello")
        await log.add(deposited("k1", 1))
        log.foreign(b'{"stream":"PERDURE_CMD_account","seq":5}')
        log.foreign(b"")
        await log.add(deposited("k2", 1))
        log.foreign(b"bye")
        assert [(c.version, c.sequence) for c in await log.read()] == [(1, 2), (2, 5)]

    run(main())


def test_a_flipped_byte_is_never_shown() -> None:
    async def main() -> None:
        log = await Log().start()
        for n in range(3):
            sealed = log.seal(deposited(f"k{n}", 1))
            await log.add(deposited(f"k{n}", 1))
            if n == 1:
                flipped = sealed.data.replace(b'"cents":1', b'"cents":9')
                assert flipped != sealed.data
                log.broker.tamper(A1, 2, flipped)
        told = await log.fails()
        assert isinstance(told, SerializationError)
        assert "sequence 2" in (told.cause or "")

    run(main())


def test_a_fork_and_a_hole_are_never_shown() -> None:
    async def main() -> None:
        for break_it in ("fork", "hole", "version"):
            log = await Log().start()
            await log.add(deposited("k1", 1))
            if break_it == "fork":
                log.prev = "f" * 32
            elif break_it == "hole":
                log.prev = log.seal(deposited("lost", 1)).mark
            else:
                log.version += 1
            await log.add(deposited("k2", 1))
            assert isinstance(await log.fails(), SerializationError), break_it

    run(main())


@pytest.mark.parametrize("event", [{"type": "minted", "cents": 5}, {"type": "deposited"}, 5])
def test_an_event_that_todays_code_does_not_know(event: object) -> None:
    async def main() -> None:
        log = await Log().start()
        await log.add(Outcome(name="k", payload_hash=ZERO, events=(raw(event),)))
        told = await log.fails()
        assert isinstance(told, SerializationError)
        assert "event" in (told.cause or "")

    run(main())


def test_a_log_that_cant_be_reached() -> None:
    async def main() -> None:
        log = await Log().start()
        await log.add(deposited("k1", 1))
        await log.reader.close()
        assert isinstance(await log.fails(), RpcClientError)
        with pytest.raises(MalformedMessage):
            async for _ in log.cluster.history(account, ""):
                pass

    run(main())


def test_watch_goes_on_without_a_gap() -> None:
    async def main() -> None:
        log = await Log().start()
        await log.add(deposited("k0", 1))
        seen: list[int] = []

        async def watcher() -> None:
            async for record in log.cluster.watch(account, "a-1", after=1):
                seen.append(record.version)
                if record.version == 30:
                    return

        task = asyncio.create_task(watcher())
        for n in range(1, 30):
            log.foreign(b"noise")
            await log.add(deposited(f"k{n}", 1))
        await task
        assert seen == list(range(2, 31))

    run(main())


def test_watch_tells_of_damage_too() -> None:
    async def main() -> None:
        log = await Log().start()
        await log.add(deposited("k0", 1))
        log.prev = "f" * 32
        await log.add(deposited("k1", 1))
        records = log.cluster.watch(account, "a-1")
        assert (await anext(records)).version == 1
        with pytest.raises(SerializationError):
            await anext(records)

    run(main())


def test_watch_ends_with_the_connection() -> None:
    async def main() -> None:
        log = await Log().start()

        async def watcher() -> None:
            async for _ in log.cluster.watch(account, "a-1"):
                pass

        task = asyncio.create_task(watcher())
        await asyncio.sleep(1)
        await log.cluster.close()
        with pytest.raises(RpcClientError):
            await task

    run(main())


def test_records_are_plain_data() -> None:
    record = Commit(2, START, (Withdrawn(3),), "k", reply=b"5")
    assert msgspec.json.decode(msgspec.json.encode(record.events)) == [
        {"type": "withdrawn", "cents": 3}
    ]
    assert record == Commit(2, START, (Withdrawn(3),), "k", reply=b"5")
