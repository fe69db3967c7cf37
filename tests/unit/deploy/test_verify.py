"""`perdure verify` finds each planted fault on a real server, names it, and exits with 1."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from perdure.deploy.chains import Chains
from perdure.deploy.fault import Fault
from perdure.deploy.server import EmbeddedServer
from perdure.durable import snapshot
from perdure.durable.folded import Folded
from perdure.durable.host import ledger_limits
from perdure.durable.ledger import Ledger
from perdure.entities.address import Address
from perdure.entities.settings import Settings
from perdure.streams.commit import GENESIS, MARK, Commit, Outcome, Stored, seal, unseal
from perdure.streams.jetstream.direct import Record
from perdure.streams.jetstream.scan import scan

from .counter import Counter, counter
from .hosted import Place, hosted, place

OwnServer = Callable[..., Awaitable[EmbeddedServer]]
SNAPSHOTS = {"snapshot_min_commits": 2, "snapshot_max_commits": 2}


async def fill(at: Place, count: int = 4) -> None:
    """Entities a and b, `count` commits each, one after another."""
    for n in range(count):
        for id in ("a", "b"):
            assert (await at.ask(id, "add", '{"n": 1}', "--key", f"k-{n}")).code == 0


async def log_of(at: Place, id: str) -> list[Stored]:
    stream, subject = at.subjects.log_stream("counter"), at.subjects.log("counter", id)
    upto = (await at.bounds(stream)).last_seq
    records = scan(at.session.connection, stream, subject, upto=upto)
    return [record.stored async for record in records]


async def forge(at: Place, id: str, data: bytes, mark: str | None) -> None:
    """Store a message on an entity's log subject."""
    await at.publish(at.subjects.log("counter", id), data, None if mark is None else {MARK: mark})


async def append(at: Place, id: str, event: dict[str, Any], **changes: Any) -> None:
    """A well-formed commit after the entity's last, as only a bug would write it."""
    last = (await log_of(at, id))[-1]
    before = unseal(last)
    assert before is not None
    raw = msgspec.Raw(json.dumps(event).encode())
    outcome = Outcome(
        name="forged", payload_hash="ab" * 16, events=(raw,), reply=msgspec.Raw(b"1")
    )
    commit = msgspec.structs.replace(
        before,
        **{
            "id": "f" * 24,
            "prev": last.mark,
            "version": before.version + 1,
            "outcomes": (outcome,),
            **changes,
        },
    )
    sealed = seal(commit)
    await forge(at, id, sealed.data, sealed.mark)


async def faults(at: Place, *more: str, code: int = 1) -> list[dict[str, Any]]:
    """What is found, each with its line for people; the summary is left out."""
    ran = await at.run("verify", *more, "--json")
    assert (ran.code, ran.err) == (code, ""), ran
    found = [line for line in ran.lines if "fault" in line]
    summary = ran.lines[-1]
    assert summary["faults"] == len(found)
    text = (await at.run("verify", *more)).out.splitlines()
    assert len(text) == len(ran.lines)
    assert all(line["what"] in "\n".join(text) and line["next"] for line in found)
    return found


@pytest.fixture
async def at(nats_server: EmbeddedServer, namespace: str, tmp_path: Path) -> AsyncIterator[Place]:
    """Two counters with four commits each, and no runner any more."""
    async with hosted(nats_server, namespace, tmp_path, **SNAPSHOTS) as at:
        await fill(at)
    async with place(nats_server, namespace, tmp_path, **SNAPSHOTS) as at:
        yield at


async def test_all_is_well(at: Place) -> None:
    for more in ((), ("counter",), ("counter", "--id", "a")):
        assert await faults(at, *more, code=0) == []
    ran = await at.run("verify", "--app", "app", "--json")
    (summary,) = ran.lines
    assert (ran.code, summary) == (
        0,
        {
            "verified": "counter", "messages": 8, "entities": 2, "foreign": 0, "folded": 2,
            "snapshots": 2, "ignored": 0, "faults": 0,
        },
    )  # fmt: skip
    ran = await at.run("verify", "counter", "--app", "app.py:counter", "--sample", "1")
    assert ran.out == (
        "ok        counter: 8 messages, 2 entities, 1 folded, 1 snapshots compared, no faults\n"
    )


async def test_a_live_runner_is_no_fault(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    async with hosted(nats_server, namespace, tmp_path, **SNAPSHOTS) as at:
        await fill(at, 3)
        assert await faults(at, "--app", "app", code=0) == []


async def test_a_foreign_message_is_reported_and_no_fault(at: Place) -> None:
    await forge(at, "a", b"hello", None)
    await at.publish(at.subjects.log("counter", "=61"), b"hello")
    ran = await at.run("verify", "--app", "app", "--json")
    assert ran.code == 0
    assert [line.get("seq") for line in ran.lines if "foreign" in line and "seq" in line] == [
        9,
        10,
    ]
    assert ran.lines[-1]["foreign"] == 2
    text = (await at.run("verify")).out
    assert "log.counter.a at sequence 9: 5 bytes that perdure didn't write" in text


@pytest.mark.parametrize("more", [(), ("counter", "--id", "a"), ("--app", "app")])
async def test_forged_messages(at: Place, more: tuple[str, ...]) -> None:
    first, *_, last = await log_of(at, "a")
    assert last.mark is not None
    await forge(at, "a", last.data.replace(b'"n":1}]', b'"n":9}]'), last.mark)
    await forge(at, "a", last.data, last.mark)
    await forge(at, "a", first.data, first.mark)
    found = await faults(at, *more)
    assert [(f["fault"], f["address"], f["seq"]) for f in found] == [
        ("damaged", "counter/a", 9),
        ("fork", "counter/a", 10),
        ("fork", "counter/a", 11),
    ]
    assert "two histories" in found[1]["what"]
    assert "it begins a history" in found[2]["what"]
    assert "hash" in found[0]["what"]


async def test_a_fork(at: Place) -> None:
    *_, last = await log_of(at, "b")
    before = unseal(last)
    assert before is not None
    sealed = seal(msgspec.structs.replace(before, id="x" * 24))
    await forge(at, "b", sealed.data, sealed.mark)
    (found,) = await faults(at)
    assert (found["fault"], found["address"], found["seq"]) == ("fork", "counter/b", 9)
    assert f"the same commit as sequence {last.sequence} does" in found["what"]


async def test_a_version_and_a_time_that_go_wrong(at: Place) -> None:
    event = {"type": "added", "n": 1}
    await append(at, "a", event, version=9)
    await append(at, "b", event, time=datetime(2020, 1, 1, tzinfo=UTC))
    version, time = await faults(at)
    assert (version["fault"], version["what"]) == ("version", "version 9, expected 5")
    assert (time["fault"], time["address"]) == ("time", "counter/b")
    assert "2020-01-01" in time["what"]


async def test_an_event_that_cannot_be_folded(at: Place) -> None:
    await append(at, "a", {"type": "vanished"})
    assert await faults(at, code=0) == []
    (found,) = await faults(at, "--app", "app")
    assert (found["fault"], found["address"], found["seq"]) == ("fold", "counter/a", 9)
    assert "vanished" in found["what"]


def forged_snapshot(kept: Folded, id: str = "a") -> bytes:
    return snapshot.encode(counter, Address("counter", id), kept)


async def kept_by(at: Place, id: str) -> Folded:
    limits = ledger_limits(Settings())
    address = Address("counter", id)
    body = await snapshot.get(at.session.snapshots, address)
    assert body is not None
    return snapshot.decode(counter, address, body, limits)


async def test_a_snapshot_that_says_something_else(at: Place) -> None:
    kept = await kept_by(at, "a")
    kept.state = Counter(total=99)
    address = Address("counter", "a")
    assert await snapshot.put(at.session.snapshots, address, forged_snapshot(kept))
    (found,) = await faults(at, "--app", "app")
    assert (found["fault"], found["address"]) == ("snapshot", "counter/a")
    assert found["what"] == "its snapshot differs from the fold in its state"
    assert found["next"].endswith(f"--subject {at.subjects.snapshot('counter', 'a')}")
    kept = await kept_by(at, "b")
    kept.ledger = Ledger(ledger_limits(Settings()))
    kept.version += 1
    address = Address("counter", "b")
    assert await snapshot.put(at.session.snapshots, address, forged_snapshot(kept, "b"))
    _, found = sorted(await faults(at, "--app", "app"), key=lambda fault: fault["address"])
    assert "in its version and its ledger" in found["what"]


async def test_a_snapshot_that_is_newer_than_the_log(at: Place) -> None:
    kept = await kept_by(at, "a")
    kept.commit_sequence = kept.sequence = 1_000
    address = Address("counter", "a")
    assert await snapshot.put(at.session.snapshots, address, forged_snapshot(kept))
    (found,) = await faults(at, "--app", "app")
    assert found["fault"] == "snapshot"
    assert "its snapshot ends with sequence 1000, the log with" in found["what"]
    kept.commit_sequence = 2  # a commit of the other entity
    assert await snapshot.put(at.session.snapshots, address, forged_snapshot(kept))
    (found,) = await faults(at, "--app", "app")
    assert "ends with sequence 2, no commit of it" in found["what"]
    await at.publish(at.subjects.snapshot("counter", "a"), b"no snapshot")
    (found,) = await faults(at, "--app", "app")
    assert "its snapshot is unusable" in found["what"]


async def test_a_snapshot_of_other_code_is_no_fault(at: Place) -> None:
    app = at.shell.folder / "app.py"
    old = "class Added(Event):\n    n: int\n"
    app.write_text(app.read_text().replace(old, f"{old}    more: int = 1\n"))
    ran = await at.run("verify", "--app", "app", "--json")
    assert (ran.code, ran.lines[-1]["ignored"], ran.lines[-1]["folded"]) == (0, 2, 2)


async def test_a_flipped_byte_in_the_servers_file(own_server: OwnServer, tmp_path: Path) -> None:
    server = await own_server()
    async with hosted(server, "perdure", tmp_path) as at:
        await fill(at)
    await server.stop()
    (block,) = server.folder.glob("jetstream/*/streams/PERDURE_LOG_counter/msgs/*.blk")
    data = bytearray(block.read_bytes())
    third = [i for i in range(len(data)) if data.startswith(b'"events":[{"type":"added"', i)][2]
    data[third + 20] ^= 0x08
    block.write_bytes(data)
    await server.start()
    async with place(server, "perdure", tmp_path) as at:
        found = await faults(at)
        assert [(f["fault"], f["address"], f["seq"]) for f in found] == [
            ("unreadable", "counter", 3),
            ("hole", "counter/a", 5),
        ]
        unreadable, _ = (await faults(at, "counter", "--id", "a"))[::-1]
        assert unreadable["what"] == "of its 4 messages the server can read 3"
        assert await faults(at, "counter", "--id", "b", code=0) == []


async def test_where_there_is_nothing(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    async with place(nats_server, namespace, tmp_path) as at:
        ran = await at.run("verify")
        assert ran.code == 1
        assert "there is no log of any entity type in namespace" in ran.err
        ran = await at.run("verify", "--url", "nats://127.0.0.1:1", "--json")
        assert (ran.code, ran.lines[0]["error"]["type"]) == (1, "RpcClientError")
    async with hosted(nats_server, namespace, tmp_path) as at:
        ran = await at.run("verify", "other")
        assert ran.code == 1
        assert "no log of 'other'" in ran.err
        assert "only counter" in ran.err


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (["--id", "a"], "--id without TYPE"),
        (["counter", "--sample", "3"], "--sample without --app"),
        (["counter", "--app", "app", "--sample", "0"], "--sample takes at least 1"),
        (["other", "--app", "app"], "app has no entity 'other'; next: it has counter"),
        (["--app", "nope"], "no module 'nope'"),
        (["--url", "memory:"], "memory: has no server"),
    ],
)
async def test_usage(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path, line: list[str], says: str
) -> None:
    async with place(nats_server, namespace, tmp_path) as at:
        ran = await at.run("verify", *line)
        assert (ran.code, ran.out) == (2, "")
        assert says in ran.err


# -- pure ---------------------------------------------------------------------------------------
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def record(sequence: int, token: str, prev: str, version: int = 0, later_s: int = 0) -> Record:
    sealed = seal(
        Commit(
            v=1, id=f"c{sequence}", prev=prev, version=version, runner="r",
            time=NOON + timedelta(seconds=later_s), outcomes=(),
        )
    )  # fmt: skip
    return Record(sequence, 0, f"perdure.log.counter.{token}", sealed.data, sealed.mark)


def found(chains: Chains, *records: Record) -> list[tuple[str, int]]:
    told: list[tuple[str, int]] = []
    for one in records:
        told += [(f.fault, f.seq) for f in chains.take(one) if isinstance(f, Fault)]
    return told


def test_holes_of_the_stream_are_told_as_ranges() -> None:
    chains = Chains("counter", "L")
    first = record(3, "a", GENESIS)
    assert found(chains, first) == [("unreadable", 1)]
    assert found(chains, record(4, "a", first.mark or "")) == []
    (fault,) = chains.end(6)
    assert (fault.seq, fault.address) == (5, "counter")
    assert "sequences 5 to 6 aren't there" in fault.what
    assert list(chains.end(4)) == []
    assert chains.sound == ["a"]


def test_one_fault_is_told_once_and_what_is_behind_it_is_checked() -> None:
    chains = Chains("counter", "L")
    one = record(1, "a", GENESIS)
    two = record(2, "a", "ab" * 16)
    three = record(3, "a", two.mark or "")
    assert found(chains, one, two, three) == [("hole", 2)]
    assert found(chains, record(4, "a", three.mark or "", version=1)) == [("version", 4)]
    assert chains.broken == {"a"}


def test_a_damaged_message_is_of_the_chain_or_beside_it() -> None:
    for follows_it in (True, False):
        chains = Chains("counter", "L")
        one = record(1, "a", GENESIS)
        two = record(2, "a", one.mark or "")
        damaged = Record(2, 0, two.subject, two.data + b" ", two.mark)
        next = record(3, "a", (two if follows_it else one).mark or "", version=7)
        assert found(chains, one, damaged, next) == [("damaged", 2)]
        assert found(chains, record(4, "a", next.mark or "", version=7)) == []


def test_an_entity_takes_few_bytes() -> None:
    chains = Chains("counter", "L")
    list(chains.take(record(1, "a" * 20, GENESIS)))
    (packed,) = vars(chains)["_ends"].values()
    slot = 100  # of a dict that grows
    assert sys.getsizeof(packed) + sys.getsizeof("a" * 20) + slot < 300
