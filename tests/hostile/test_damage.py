"""What is stored is damaged, forged or lost: nothing of it is ever taken for the truth."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

from .client import escape
from .harness import NAMESPACE, TROUBLE, World, world

ADD = {"type": "add", "n": 1}
TOTAL = {"type": "total"}


async def ask_error(w: World, id: str, message: object) -> dict[str, Any]:
    error: dict[str, Any] = (await w.client.ask(id, message))["error"]
    return error


async def tell_waits(w: World, id: str) -> None:
    """A tell to a quarantined entity is accepted, stays un-acked, and is no dead letter."""
    dead, waiting = await w.client.count("DEAD"), await w.client.count("CMD")
    await w.client.tell(id, ADD)
    await w.client.tell("neighbour", ADD, Idempotency_Key="k")
    assert (await w.client.ask("neighbour", ADD, Idempotency_Key="k"))["reply"] == 1
    async with asyncio.timeout(5):
        while await w.client.count("CMD") > waiting + 1:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert await w.client.count("CMD") == waiting + 1
    assert await w.client.count("DEAD") == dead


def store(w: World, kind: str) -> Path:
    """Where the server keeps a stream."""
    (found,) = (w.folder / "nats").glob(f"jetstream/*/streams/{w.client.stream(kind)}")
    return found


def flip(w: World, what: bytes, occurrence: int) -> None:
    """Change one bit of the log's file: in the last byte of the n-th occurrence of some text."""
    (block,) = store(w, "LOG").glob("msgs/*.blk")
    data = bytearray(block.read_bytes())
    at = -1
    for _ in range(occurrence):
        at = data.index(what, at + 1)
    data[at + len(what) - 1] ^= 0x08
    block.write_bytes(data)


async def test_a_flipped_byte_in_the_servers_file(tmp_path: Path) -> None:
    """The server drops a message whose checksum is wrong; the chain shows the hole."""
    async with world(tmp_path) as w:
        for _ in range(5):
            for id in ("one", "two", "three"):
                await w.client.ask(id, ADD)
        await w.host.stop()
        await w.stop_server()
        flip(w, b'"events":[{"type":"added","n":1', 8)  # the third commit of "two"
        await w.start_server()
        await w.host.start()
        await w.ready()
        error = await ask_error(w, "two", TOTAL)
        assert error["type"] == "SerializationError"
        assert "chain" in error["cause"]
        assert (await ask_error(w, "two", ADD))["type"] == "SerializationError"
        await tell_waits(w, "two")
        for id in ("one", "three"):
            assert (await w.client.ask(id, ADD))["reply"] == 6


async def publish_to_log(w: World, id: str, data: bytes, headers: dict[str, str] | None) -> None:
    """What only somebody with too many rights can do."""
    subject = w.client.log_subject(escape(id))
    ack = await w.client.nc.request(subject, data, headers=headers, timeout=5)
    assert "error" not in json.loads(ack.data)


async def forged(w: World, id: str, change: str) -> None:
    """Append a copy of the entity's last commit, changed in one way, with our header."""
    last = (await w.client.log(id))[-1]
    mark, data = last.headers["Perdure-Commit"], last.data
    match change:
        case "a flipped bit":
            data = data.replace(b'"n":1}]', b'"n":9}]')
            assert data != last.data
        case "a wrong hash":
            mark = mark[::-1]
        case "no hash":
            await publish_to_log(w, id, data, None)
            return
        case _:
            assert change == "the same again"
    await publish_to_log(w, id, data, {"Perdure-Commit": mark})


async def test_a_forged_commit_quarantines_its_entity_alone(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        for change in ("a flipped bit", "a wrong hash", "no hash", "the same again"):
            id = escape(change)
            await w.client.ask(id, ADD)
            await forged(w, id, change)
            error = await ask_error(w, id, ADD)
            assert error["type"] == "SerializationError", change
            assert error["may_have_taken_effect"] is True
            assert (await ask_error(w, id, TOTAL))["type"] == "SerializationError"
            assert len(await w.client.log(id)) == 2, "nothing was written behind it"
            control = await w.client.ask(id, [1, "state", None])
            assert control["error"]["type"] == "SerializationError"
        await tell_waits(w, id)
        assert len(w.host.actions("entity.quarantined")) == 4
        assert w.host.actions(*TROUBLE) == []


async def test_an_event_that_evolve_raises_on(tmp_path: Path) -> None:
    """Today's code can't fold what yesterday's wrote: it waits for a third that can."""
    bomb = {"type": "misbehave", "how": "bomb"}
    async with world(tmp_path, env={"PERDURE_DEFUSED": "1"}) as w:
        await w.client.ask("one", ADD)
        await w.client.ask("one", bomb)
        await w.client.tell("two", bomb)
        await w.client.settled()
        await w.host.stop()
        await w.host.start(PERDURE_DEFUSED="")
        await w.ready()
        for id in ("one", "two"):
            error = await ask_error(w, id, ADD)
            assert error["type"] == "SerializationError"
            assert "a bomb" in error["cause"]
        await tell_waits(w, "one")
        await w.host.stop()
        await w.host.start(PERDURE_DEFUSED="1")
        await w.ready()
        await w.client.settled()
        assert (await w.client.ask("one", TOTAL))["reply"] == 2, "the tell that waited, too"
        assert (await w.client.ask("two", ADD))["reply"] == 1
        assert await w.client.count("DEAD") == 0


async def test_a_flipped_byte_in_the_last_message(tmp_path: Path) -> None:
    """The server then knows no last message, nor its sequence: no new entity for all that."""
    async with world(tmp_path) as w:
        for _ in range(3):
            for id in ("one", "two"):
                await w.client.ask(id, ADD)
        await w.host.stop()
        await w.stop_server()
        flip(w, b'"events":[{"type":"added","n":1', 6)
        await w.start_server()
        await w.host.start()
        await w.ready()
        assert (await w.client.ask("one", ADD))["reply"] == 4
        assert (await ask_error(w, "two", TOTAL))["type"] == "SerializationError"
        assert (await ask_error(w, "two", ADD))["type"] == "SerializationError"


async def test_foreign_messages_by_a_reply_subject(tmp_path: Path) -> None:
    """A caller who may only tell has the server's acknowledgement stored in a log."""
    async with world(tmp_path) as w:
        await w.client.ask("victim", ADD)
        log = w.client.log_subject("victim")
        for n in range(5):
            await w.client.nc.publish(
                w.client.to_subject("other"), json.dumps(ADD).encode(), reply=log
            )
            await w.client.settled()
            assert len(await w.client.log("victim")) == 2 * (n + 1), "the trick works"
            assert (await w.client.ask("victim", ADD))["reply"] == n + 2
        assert (await w.client.ask("other", TOTAL))["reply"] == 5
        await w.client.nc.publish(w.client.to_subject("other"), b"{}", reply=log)
        await w.client.settled()
        await w.host.stop()
        await w.host.start()
        await w.ready()
        assert (await w.client.ask("victim", ADD))["reply"] == 7
        assert len(w.host.actions("log.foreign")) >= 6


async def test_a_snapshot_newer_than_the_log_is_ignored(tmp_path: Path) -> None:
    """As after a disaster from which the log came back older than the snapshots."""
    async with world(tmp_path, snapshot_min_commits=2, snapshot_max_commits=2) as w:
        for id in ("poor", "rich"):
            for _ in range(4 if id == "rich" else 1):
                await w.client.ask(id, {"type": "add", "n": 100})
        async with asyncio.timeout(5):
            while not await w.client.count("SNAP"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await w.host.stop()
        stream = w.client.stream("SNAP")
        rich = await w.client.js.get_last_msg(stream, f"{NAMESPACE}.snap.victim.rich")
        for data in (rich.data, rich.data[:-3], b"", b"garbage"):
            await w.client.nc.request(f"{NAMESPACE}.snap.victim.poor", data, timeout=5)
            await w.client.nc.request(f"{NAMESPACE}.snap.victim.none", data, timeout=5)
            await w.host.start()
            await w.ready()
            assert (await w.client.ask("poor", TOTAL))["reply"] == 100
            assert (await w.client.ask("none", TOTAL))["reply"] == 0
            assert (await w.client.ask("rich", TOTAL))["reply"] == 400
            await w.host.stop()
        assert len(w.host.actions("snapshot.ignored")) >= 8
        assert len(w.host.actions("snapshot.loaded")) >= 4
        assert w.host.actions(*TROUBLE) == []


async def test_a_command_stream_that_lost_its_tail(tmp_path: Path) -> None:
    """Its sequences are given out again: new tells are executed, old ones not a second time."""
    async with world(tmp_path) as w:
        for n in range(5):
            await w.client.tell("a", ADD, Idempotency_Key=f"before-{n}")
        await w.client.settled()
        await w.host.stop()
        await w.client.tell("a", ADD, Idempotency_Key="kept")  # sequence 6
        await w.stop_server()
        copy = tmp_path / "older"
        shutil.copytree(store(w, "CMD"), copy)
        await w.start_server()
        for n in range(3):
            await w.client.tell("a", ADD, Idempotency_Key=f"lost-{n}")  # 7, 8, 9
        await w.host.start()
        await w.ready()
        await w.client.settled()
        assert (await w.client.ask("a", TOTAL))["reply"] == 9

        await w.stop_server()  # under a living runner
        shutil.rmtree(store(w, "CMD"))
        shutil.copytree(copy, w.folder / "nats/jetstream/$G/streams" / w.client.stream("CMD"))
        await w.start_server()
        acks = [await w.client.tell("a", ADD, Idempotency_Key=f"after-{n}") for n in range(5)]
        assert [ack["seq"] for ack in acks] == [7, 8, 9, 10, 11], "given out again"
        await w.client.tell("a", ADD)
        await w.ready()
        await w.client.settled()
        assert (await w.client.ask("a", TOTAL))["reply"] == 15, "each once, the old ones not again"
        assert (await w.client.ask("a", ADD, Idempotency_Key="kept"))["reply"] == 6
        assert (await w.client.ask("a", ADD, Idempotency_Key="after-0"))["reply"] == 10
        assert w.host.actions("stream.rewound")
        assert await w.client.count("DEAD") == 0
        assert w.host.actions(*TROUBLE) == []
