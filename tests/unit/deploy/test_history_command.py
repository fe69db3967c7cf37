"""`perdure history --follow --after`: what comes, live, on a real server."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any
from unittest import mock

from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from perdure.deploy.probe import Probe
from perdure.deploy.server import EmbeddedServer
from perdure.streams.commit import MARK

from .commands import Process
from .hosted import hosted


async def entry(process: Process) -> dict[str, Any]:
    return dict(json.loads(await asyncio.to_thread(process.line)))


async def test_follow_prints_what_comes_until_ctrl_c(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    async with hosted(nats_server, namespace, tmp_path) as at:
        for n in (1, 2, 3):
            await at.ask("a", "add", f'{{"n": {n}}}')
        follow = ("history", "counter", "a", "--follow", "--after", "2", "--json")
        with at.shell.running(*follow) as process:
            assert (await entry(process))["version"] == 3
            await at.ask("a", "add", '{"n": 4}', "--key", "k-4")
            new = await entry(process)
            assert (new["version"], new["key"]) == (4, "k-4")
            process.popen.send_signal(signal.SIGINT)
            ended = await asyncio.to_thread(process.end)
        assert (ended.code, ended.out, ended.err) == (0, "", "")
        after = (await at.run("history", "counter", "a", "--after", "3", "--json")).lines
        assert [one["version"] for one in after] == [4]
        assert len((await at.run("history", "counter", "a")).out.splitlines()) == 4


async def test_follow_waits_for_the_first_event_and_ends_on_damage(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    async with hosted(nats_server, namespace, tmp_path) as at:
        with at.shell.running("history", "counter", "b", "--follow") as process:
            await at.ask("b", "add", '{"n": 1}')
            assert (await asyncio.to_thread(process.line)).endswith('added {"n":1}')
            await at.publish(at.subjects.log("counter", "b"), b"hello")
            assert "foreign message" in await asyncio.to_thread(process.line)
            await at.publish(at.subjects.log("counter", "b"), b"forged", {MARK: "ab" * 16})
            ended = await asyncio.to_thread(process.end)
        assert ended.code == 1
        said = ended.err.splitlines()
        assert said[0] in ("counter/b has no history yet", said[-1])
        assert "the log is damaged: sequence 3: the bytes don't match their hash" in said[-1]
        assert said[-1].endswith("perdure verify counter tells all of it; compare with a backup")


async def test_usage(nats_server: EmbeddedServer, namespace: str, tmp_path: Path) -> None:
    async with hosted(nats_server, namespace, tmp_path) as at:
        ran = await at.run("history", "counter", "a", "--after", "-1")
        assert (ran.code, ran.out) == (2, "")
        with mock.patch.object(Probe, "open", side_effect=AssertionError("another connection")):
            ran = await at.run("history", "conter", "a", "--follow")
        assert ran.code == 1
        assert "there is no entity type 'conter'" in ran.err


async def test_events_as_cloudevents(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    id = "ann/a b"
    async with hosted(nats_server, namespace, tmp_path) as at:
        for n in (1, 2, 3):
            await at.ask(id, "add", f'{{"n": {n}}}')
        await at.ask(id, "take", '{"n": 100}')  # refused: nothing happened
        cloud = ("history", "counter", id, "--format", "cloudevents")
        ran = await at.run(*cloud)
        assert (ran.code, ran.err) == (0, "")
        assert (await at.run(*cloud, "--json")).out == ran.out
        later = await at.run(*cloud, "--after", "2")
    lines = ran.out.splitlines()
    assert later.out.splitlines() == lines[2:]
    read = JSONFormat().read
    events = [read(CloudEvent, line) for line in lines]
    assert [event.get_data() for event in events] == [{"type": "added", "n": n} for n in (1, 2, 3)]
    assert [event.get_id() for event in events] == [f"counter/{id}/{n}" for n in (1, 2, 3)]
    assert [event.get_extension("entityversion") for event in events] == [1, 2, 3]
    assert {event.get_type() for event in events} == {f"{namespace}.counter.added"}
    assert {event.get_source() for event in events} == {f"/{namespace}/counter/ann%2Fa%20b"}
    assert {event.get_subject() for event in events} == {id}
    assert {event.get_datacontenttype() for event in events} == {"application/json"}
    times = [event.get_time() for event in events if event.get_time() is not None]
    assert len(times) == 3
    assert times == sorted(times, key=str)
