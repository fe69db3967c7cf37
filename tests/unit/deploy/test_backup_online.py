"""A backup that is made while others write: consistent all the same."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from errno import ENOSPC
from pathlib import Path

import msgspec
import pytest

from perdure import Cluster, Command, Decision, Entity, Flow
from perdure.deploy.backup import Backup, Wishes
from perdure.deploy.openflows import OpenFlows
from perdure.deploy.server import EmbeddedServer
from perdure.streams.commit import At, Dead, Outcome
from perdure.streams.jetstream.scan import bounds, scan

from ...support.server import PATIENCE_S, nats_session, until
from .saved import IDS, Site, dead, letters, texts, told_without_runner
from .visiting import Clerk, Nap, Note, Noted, Stamp, Visit, decide, evolve

OwnServer = Callable[..., Awaitable[EmbeddedServer]]


class Writers:
    """Callers that go on: what each of them was acknowledged, in order."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.acknowledged: list[str] = []
        self.naps: list[str] = []
        self._stop = False

    async def write(self, id: str) -> None:
        """Asks and tells by turns, and naps that are over before the backup is."""
        number = 0
        ref = self._cluster.at(Visit, id)
        while not self._stop:
            text = f"{id}:{number}"
            if number % 3 == 0:
                await ref.ask(Note(text), key=text)
            else:
                await ref.tell(Note(text), key=text)
            self.acknowledged.append(text)
            await ref.tell(Nap(30 + 90 * (number % 4)), key=f"nap:{text}")
            self.naps.append(f"nap:{text}")
            number += 1

    def stop(self) -> None:
        self._stop = True


async def test_it_is_consistent_while_others_write(
    nats_server: EmbeddedServer, own_server: OwnServer, namespace: str, tmp_path: Path
) -> None:
    """Each part waits until something was acknowledged since the one before: what is in the
    command stream has its outcome in the log, timers came and went in between."""
    here, folder = Site(nats_server, namespace, tmp_path), tmp_path / "kept"
    async with here.hosting() as cluster, nats_session(nats_server, namespace) as session:
        writers = Writers(cluster)
        tasks = [asyncio.create_task(writers.write(f"w-{n}")) for n in range(4)]
        await until(lambda: len(writers.acknowledged) > 40, "40 acknowledgements")
        before, naps = list(writers.acknowledged), list(writers.naps)
        loop, files = asyncio.get_running_loop(), set[str]()

        def told(what: str, bytes: int) -> None:  # in a thread, but for dead letters
            if what.endswith((".dead", "clerk.ids")) or what in files:
                return
            files.add(what)
            more = len(writers.acknowledged) + 8
            waiting = until(lambda: len(writers.acknowledged) >= more, "more")
            asyncio.run_coroutine_threadsafe(waiting, loop).result(PATIENCE_S)

        making = Backup(session, folder, Wishes(["visit", "clerk"]), told)
        manifest = await making.make()
        writers.stop()
        await asyncio.gather(*tasks)
    assert not manifest.one_instant
    there = Site(await own_server(), namespace, tmp_path)
    ran = await there.run("restore", str(folder))
    assert ran.code == 0, ran
    async with there.hosting() as cluster:
        for text in before:
            assert await cluster.at(Visit, text.partition(":")[0]).result(Note, text) > 0
        for nap in naps:
            assert await cluster.at(Visit, nap.split(":")[1]).result(Nap, nap) == "slept"
        await until_ended(there)
        for n in range(4):
            found = [text for text in await texts(cluster, f"w-{n}") if text != "awake"]
            assert len(found) == len(set(found)), "each at most once"


async def until_ended(site: Site) -> None:
    """Wait until no flow is open, by the log itself, but schedules."""
    async with nats_session(site.server, site.namespace) as session, asyncio.timeout(PATIENCE_S):
        stream, subject = session.subjects.log_stream("visit"), session.subjects.log("visit", "*")
        while True:
            flows = OpenFlows("visit")
            async for message in scan(session.connection, stream, subject, upto=2**63 - 1):
                flows.take(message)
            fired = [msgspec.json.decode(timer.data) for timer in flows.timers(0)]
            if all(one["flow"].startswith("schedule:") for one in fired):
                return


async def test_tells_that_are_done_meanwhile_are_neither_lost_nor_done_twice(
    nats_server: EmbeddedServer, own_server: OwnServer, namespace: str, tmp_path: Path
) -> None:
    """They wait when the backup begins, and are done as soon as its first part is taken, others
    after them: so the log knows places that the restored stream gives out again."""
    here, folder = Site(nats_server, namespace, tmp_path), tmp_path / "kept"
    async with here.hosting():
        pass
    await told_without_runner(here)
    loop, first = asyncio.get_running_loop(), list[str]()

    async def work_off() -> None:
        async with here.hosting() as cluster:
            for id in IDS:
                await cluster.at(Visit, id).result(Note, "waits")
                await cluster.at(Visit, id).tell(Note("during"), key="during")
                await cluster.at(Visit, id).result(Note, "during")

    def told(what: str, bytes: int) -> None:
        if not first:
            first.append(what)
            asyncio.run_coroutine_threadsafe(work_off(), loop).result(PATIENCE_S)

    async with nats_session(nats_server, namespace) as session:
        manifest = await Backup(session, folder, Wishes(["visit"]), told).make()
    assert not manifest.one_instant
    there = Site(await own_server(), namespace, tmp_path)
    ran = await there.run("restore", str(folder))
    assert ran.code == 0, ran
    async with there.hosting() as cluster:
        for id in IDS:
            assert await cluster.at(Visit, id).result(Note, "waits") > 0
            await cluster.at(Visit, id).tell(Note("during"), key="during")
        first_visit = cluster.at(Visit, IDS[0])
        await first_visit.tell(Note("bare"))
        await first_visit.tell(Note("last"), key="last")
        assert await first_visit.result(Note, "last") == 5
        assert await texts(cluster, IDS[0]) == ["bare", "bare", "during", "last", "waits"]


async def test_logs_of_all_types_are_cut_together(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    """What is committed while one of them is written is in none of them."""
    here = Site(nats_server, namespace, tmp_path)
    loop, both = asyncio.get_running_loop(), threading.Barrier(2, timeout=PATIENCE_S)
    async with here.hosting() as cluster, nats_session(nats_server, namespace) as session:

        async def commit() -> list[int]:
            """Where the logs ended before."""
            streams = [session.subjects.log_stream(name) for name in ("visit", "clerk")]
            found = [await bounds(session.connection, stream) for stream in streams]
            await cluster.at(Visit, "v").ask(Note("late"))
            await cluster.at(Clerk, "c").ask(Stamp())
            return [0 if one is None else one.last_seq for one in found]

        ends: list[int] = []

        def told(what: str, bytes: int) -> None:
            if what.endswith(".log") and both.wait() == 0:
                ends[:] = asyncio.run_coroutine_threadsafe(commit(), loop).result(PATIENCE_S)

        await commit()
        wishes = Wishes(["visit", "clerk"])
        manifest = await Backup(session, tmp_path / "kept", wishes, told).make()
        states = [part.archived for part in manifest.parts if part.kind == "log"]
        cuts = [0 if one is None else one.state.last_seq for one in states]
        assert all(1 <= cut <= end for cut, end in zip(cuts, ends, strict=True)), (cuts, ends)
        assert not manifest.one_instant

        def full(what: str, bytes: int) -> None:
            if what == "clerk.log":
                raise OSError(ENOSPC, "No space left on device")

        with pytest.raises(OSError, match="No space left"):  # itself, in no group
            await Backup(session, tmp_path / "full", wishes, full).make()
        assert not (tmp_path / "full" / "manifest.json").exists()


async def test_a_copy_of_a_dead_letter_comes_back_only_with_its_verdict(
    nats_server: EmbeddedServer, own_server: OwnServer, namespace: str, tmp_path: Path
) -> None:
    """Its verdict comes when the log is cut already, its copy is saved after that. One without an
    id has no other record."""
    here, folder = Site(nats_server, namespace, tmp_path), tmp_path / "kept"
    loop, first = asyncio.get_running_loop(), list[str]()
    async with here.hosting():
        pass
    at, error = At(0, 1, 1), msgspec.Raw(b'{"type":"MalformedMessage"}')
    lonely = Outcome(name="@", payload_hash="ab" * 16, at=at, dead=Dead("malformed", error))
    async with nats_session(nats_server, namespace) as session:
        assert session.connection.send(session.subjects.to("visit", "v"), b'{"type":"nonsense"}')
        assert await session.dead.put_raw("visit", "?", msgspec.json.encode(lonely))

        async def bury() -> None:
            async with here.hosting():
                await dead(here, 2)

        def told(what: str, bytes: int) -> None:
            if what == "visit.log" and not first:
                first.append(what)
                asyncio.run_coroutine_threadsafe(bury(), loop).result(PATIENCE_S)

        await Backup(session, folder, Wishes(["visit"]), told).make()
    before = {letter["address"] for letter in await letters(here)}
    assert before == {"visit/v", "visit/="}
    there = Site(await own_server(), namespace, tmp_path)
    ran = await there.run("restore", str(folder), "--json")
    assert ran.code == 0, ran
    (done,) = [line for line in ran.lines if "restored" in line]
    assert (done["dead_letters"], done["undecided"]) == (1, 1)
    assert [letter["address"] for letter in await letters(there)] == ["visit/="]
    async with there.hosting():
        await dead(there, 2)
    assert {letter["address"] for letter in await letters(there)} == before


class Work(Command[Visit, str]):
    """Two steps, the second of which takes as long as it must."""


def worker(begun: asyncio.Event, go: asyncio.Event) -> Entity[Visit, Noted]:
    """Visits that work."""

    async def first() -> int:
        return 1

    async def second() -> int:
        begun.set()
        await go.wait()
        return 2

    async def works(flow: Flow[Visit, Noted], command: Work) -> Decision[Noted]:
        await flow.step("first").run(first)
        await flow.step("second").run(second)
        return command.accept("worked", Noted("worked"))

    return Entity(Visit(), decide, evolve, flows=[works])


async def test_a_flow_that_works_goes_on_though_its_tell_is_lost(
    nats_server: EmbeddedServer, own_server: OwnServer, namespace: str, tmp_path: Path
) -> None:
    """It begins after the command stream was saved, and is in the midst of it when the log is."""
    here, folder = Site(nats_server, namespace, tmp_path), tmp_path / "kept"
    loop, first = asyncio.get_running_loop(), list[str]()
    begun, go, gone = asyncio.Event(), asyncio.Event(), asyncio.Event()
    gone.set()
    async with (
        here.hosting(worker(begun, go)) as cluster,
        nats_session(nats_server, namespace) as session,
    ):

        async def begin() -> None:
            await cluster.at(Visit, "busy").tell(Work(), key="work")
            await begun.wait()

        def told(what: str, bytes: int) -> None:
            if not first:
                first.append(what)
                asyncio.run_coroutine_threadsafe(begin(), loop).result(PATIENCE_S)

        manifest = await Backup(session, folder, Wishes(["visit"]), told).make()
        go.set()
    commands = manifest.part("cmd", "visit")
    assert commands is not None
    assert commands.archived is not None
    assert commands.archived.state.last_seq == 0
    there = Site(await own_server(), namespace, tmp_path)
    assert (await there.run("restore", str(folder))).code == 0
    async with there.hosting(worker(asyncio.Event(), gone)) as cluster:
        await until_ended(there)  # which asks no entity anything
        assert await texts(cluster, "busy") == ["worked"]
