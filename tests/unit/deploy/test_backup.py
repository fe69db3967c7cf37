"""Backup and restore, on real servers: what comes back, and what is refused."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from perdure import Cluster, Incompatible, Settings, Suspended, Suspension, Token, connect
from perdure.deploy.backup import Backup, Wishes
from perdure.deploy.backupfolder import read_manifest
from perdure.deploy.openflows import OpenFlows
from perdure.deploy.permissions import Role, backing_up, creating, needs
from perdure.deploy.permissions import restoring as restoring_needs
from perdure.deploy.restoring import Refused, Restore, Wanted
from perdure.deploy.server import EmbeddedServer
from perdure.durable.secret import SECRET_KEY
from perdure.streams.commit import MARK
from perdure.streams.jetstream.api import Response, call
from perdure.streams.jetstream.connection import Publish
from perdure.streams.jetstream.scan import names, scan
from perdure.streams.port import Unreachable
from perdure.streams.subjects import Subjects
from perdure.streams.topology import shared_streams

from ...support.server import PATIENCE_S, nats_session, settings_for, until
from .commands import MAIN, Ran, Shell
from .counter import Add, Counter, counter
from .test_permissions import configured, granted
from .visiting import Ask, Clerk, Empty, Nap, Note, Open, Stamp, Visit, clerk, visit

OwnServer = Callable[..., Awaitable[EmbeddedServer]]
IDS = ("v-0", "v-1", "=ü/v 2")
NAP_MS = 2_500
"""Longer than it takes to stop the runner; shorter than anybody wants to wait."""

APP = Path(__file__).with_name("visiting.py").read_text()


class Site:
    """A namespace of a server, and a shell there."""

    def __init__(self, server: EmbeddedServer, namespace: str, folder: Path) -> None:
        self.server, self.namespace = server, namespace
        self.shell = Shell(folder, PERDURE_URL=server.url, PERDURE_NAMESPACE=namespace)

    async def run(self, *arguments: str) -> Ran:
        return await asyncio.to_thread(self.shell.type, *arguments)

    @asynccontextmanager
    async def hosting(self, *entities: Any) -> AsyncGenerator[Cluster]:
        settings = settings_for(self.server, self.namespace)
        async with connect(settings=settings, serving=entities or (visit, clerk)) as cluster:
            yield cluster

    async def streams(self) -> list[str]:
        """The streams of the namespace."""
        own = self.namespace.upper()
        async with nats_session(self.server, self.namespace) as session:
            found = await names(session.connection, ">")
        return sorted(name for name in found if name.startswith((f"{own}_", f"KV_{own}_")))


async def open_token(cluster: Cluster, id: str) -> Token[int]:
    """The token of a flow that waits for an answer."""
    with pytest.raises(Suspended) as raised:
        await cluster.at(Visit, id).ask(Open(), key="open", on_suspend="raise")
    assert raised.value.resume_token is not None
    return Token(raised.value.resume_token)


async def fill(cluster: Cluster) -> dict[str, Token[int]]:
    """Something of everything, in each visit; their tokens."""
    tokens: dict[str, Token[int]] = {}
    at = datetime.now(UTC) + timedelta(milliseconds=NAP_MS)
    for n, id in enumerate(IDS):
        ref = cluster.at(Visit, id)
        assert await ref.ask(Note(f"first {n}"), key="first") == 1
        with pytest.raises(Empty):
            await ref.ask(Note(""), key="empty")
        await ref.tell(Nap(NAP_MS), key="nap")
        await ref.tell(Note("later"), at=at, key="later")
        tokens[id] = await open_token(cluster, id)
        with pytest.raises(Suspended):  # nobody hosts the clerk
            await ref.ask(Ask(), key="ask", on_suspend="raise")
    return tokens


async def open_flows(cluster: Cluster) -> set[tuple[str, str]]:
    found: list[Suspension] = [flow async for flow in cluster.suspended(Visit)]
    return {(flow.address.partition("/")[2], flow.key) for flow in found}


async def texts(cluster: Cluster, id: str) -> list[str]:
    commits = [commit async for commit in cluster.history(visit, id)]
    return sorted(event.text for commit in commits for event in commit.events)


async def told_without_runner(site: Site) -> None:
    """Commands that wait: with a key, without one, and one that can't be decoded."""
    async with connect(settings=settings_for(site.server, site.namespace)) as caller:
        for id in IDS:
            await caller.at(Visit, id).tell(Note("waits"), key="waits")
        await caller.at(Visit, IDS[0]).tell(Note("bare"))


async def letters(site: Site) -> list[Any]:
    """What the copies of dead letters say; their places and times are the stream's own."""
    ran = await site.run("dead", "list", "--json")
    return [{k: v for k, v in line.items() if k not in ("seq", "time")} for line in ran.lines]


async def test_all_of_it_comes_back(
    nats_server: EmbeddedServer, own_server: OwnServer, namespace: str, tmp_path: Path
) -> None:
    here = Site(nats_server, namespace, tmp_path)
    (tmp_path / "visiting_app.py").write_text(APP)
    async with here.hosting(visit) as cluster:
        async with here.hosting(clerk):
            pass  # its streams are there
        tokens = await fill(cluster)
        waiting = await open_flows(cluster)
        assert {key for _, key in waiting} >= {"nap", "later", "open", "ask"}
        await cluster.at(Visit, "v-1").tell(Note("dies"), key="dies")
        async with nats_session(nats_server, namespace) as session:
            to = session.subjects.to("visit", "v-1")
            assert session.connection.send(to, b'{"type":"nonsense"}')
        ids = [id async for id in cluster.ids(Visit)]
        await dead(here, 1)
    await told_without_runner(here)
    dead_letters = await letters(here)
    folder = tmp_path / "kept"
    ran = await here.run("backup", str(folder), "--json")
    assert ran.code == 0, ran
    assert {(line["saved"], line["tells"]) for line in ran.lines if "saved" in line} == {
        ("visit", 4),
        ("clerk", 3),
    }
    assert ran.lines[-1]["one_instant"]
    assert ran.lines[-1]["secret"] == "saved"
    for path in (folder, *folder.iterdir()):
        assert not path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO), path

    there = Site(await own_server(), namespace, tmp_path)
    ran = await there.run("restore", str(folder), "--app", "visiting_app.py", "--json")
    assert ran.code == 0, ran
    done = {line["restored"]: line for line in ran.lines if "restored" in line}
    assert (done["visit"]["tells"], done["visit"]["dead_letters"]) == (4, 1)
    assert done["visit"]["timers"] >= len(waiting)
    assert await letters(there) == dead_letters
    async with there.hosting() as cluster:
        assert [id async for id in cluster.ids(Visit)] == ids
        for n, id in enumerate(IDS):
            ref = cluster.at(Visit, id)
            assert await ref.ask(Note(f"first {n}"), key="first") == 1
            with pytest.raises(Empty):
                await ref.ask(Note(""), key="empty")
            assert await open_token(cluster, id) == tokens[id]
            await cluster.resume(tokens[id], n)
            assert await ref.result(Open, "open") == f"told {n}"
            assert await ref.result(Nap, "nap") == "slept"
            assert await ref.result(Note, "later") > 1
            assert (await ref.result(Ask, "ask")).startswith("stamp ")
            assert await ref.result(Note, "waits") > 1
        assert await cluster.at(Clerk, "c-1").ask(Stamp()) == len(IDS) + 1  # each once
        for n, id in enumerate(IDS):
            wanted = [f"answer {n}", "awake", f"first {n}", "later", "stamped", "waits"]
            more = {"v-0": ["bare"], "v-1": ["dies"]}.get(id, [])
            assert await texts(cluster, id) == sorted([*wanted, *more])
        left = {key.partition(":")[0] for _, key in await open_flows(cluster)}
        assert left == {"schedule"}
    assert (await there.run("verify", "--app", "visiting_app.py")).code == 0


async def dead(site: Site, count: int) -> None:
    """Wait for that many dead letters."""
    async with asyncio.timeout(PATIENCE_S):
        while len(await letters(site)) < count:
            pass


# -- what is refused ------------------------------------------------------------------------------
@pytest_asyncio.fixture
async def saved(nats_server: EmbeddedServer, namespace: str, tmp_path: Path) -> tuple[Site, Path]:
    """A backup of a counter with one entity, and where it is from."""
    site, folder = Site(nats_server, namespace, tmp_path), tmp_path / "kept"
    async with site.hosting(counter) as cluster:
        await cluster.at(Counter, "a").ask(Add(5), key="k")
    ran = await site.run("backup", str(folder))
    assert ran.code == 0, ran
    return site, folder


def changed(folder: Path, **changes: Any) -> None:
    """Another manifest."""
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def flipped(folder: Path) -> None:
    path = folder / "counter.log"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(folder: Path) -> None:
    path = folder / "counter.log"
    path.write_bytes(path.read_bytes()[:-1])


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit": (flipped, "damaged: its SHA-256"),
    "a file cut short": (cut, "bytes, written were"),
    "a file that is gone": (lambda folder: (folder / "counter.cmd").unlink(), "is missing"),
    "one that didn't end": (lambda folder: (folder / "manifest.json").unlink(), "didn't end"),
    "half a manifest": (
        lambda folder: (folder / "manifest.json").write_text('{"format": 1'),
        "manifest.json is damaged",
    ),
    "a part that isn't listed": (lambda folder: changed(folder, parts=[]), "lists no counter.cmd"),
    "a newer format": (lambda folder: changed(folder, format=2), "of format 2"),
    "a newer server": (lambda folder: changed(folder, server="3.0.0"), "of nats-server 3.0.0"),
    "another namespace": (
        lambda folder: changed(folder, namespace="other"),
        "of the namespace 'other'",
    ),
}


@pytest.mark.parametrize("what", SPOILED)
async def test_a_spoiled_backup_is_refused(
    saved: tuple[Site, Path], empty_server: EmbeddedServer, tmp_path: Path, what: str
) -> None:
    spoil, says = SPOILED[what]
    spoil(saved[1])
    there = Site(empty_server, saved[0].namespace, tmp_path)
    ran = await there.run("restore", str(saved[1]))
    assert ran.code == 1, ran
    assert says in ran.err
    assert "; next: " in ran.err
    assert await there.streams() == []


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def empty_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedServer]:
    """A server on which nothing may ever be made."""
    async with EmbeddedServer(tmp_path_factory.mktemp("empty"), fsync=False) as server:
        yield server


async def test_a_type_that_is_there_or_hosted_is_left_alone(saved: tuple[Site, Path]) -> None:
    here, folder = saved
    before = await here.streams()
    ran = await here.run("restore", str(folder))
    assert ran.code == 1
    assert "counter is there already" in ran.err
    assert await here.streams() == before
    async with here.hosting(counter) as cluster, nats_session(here.server, here.namespace) as s:
        for name in of_type(await names(s.connection, f"{here.namespace}.>")):
            await call(s.connection, f"STREAM.DELETE.{name}", None, Response)
        ran = await here.run("restore", str(folder))
        assert ran.code == 1, ran
        assert f"a runner hosts counter, or wants to: {cluster.runner_id}" in ran.err
        assert not of_type(await here.streams())
    ran = await here.run("restore", str(folder))
    assert ran.code == 0, ran
    async with here.hosting(counter) as cluster:
        assert await cluster.at(Counter, "a").ask(Add(5), key="k") == 5


async def test_another_secret_is_not_replaced(
    saved: tuple[Site, Path], own_server: OwnServer, tmp_path: Path
) -> None:
    here, folder = saved
    async with nats_session(here.server, here.namespace) as session:
        assert await session.members.put(SECRET_KEY, b"aa" * 32, expected=0)
    assert (await here.run("backup", str(folder), "--force")).code == 0
    assert (folder / "resume.secret").read_bytes() == b"aa" * 32
    there = Site(await own_server(), here.namespace, tmp_path)
    async with there.hosting(clerk), nats_session(there.server, there.namespace) as session:
        assert await session.members.put(SECRET_KEY, b"bb" * 32, expected=0)
        before = await there.streams()
        ran = await there.run("restore", str(folder))
        assert ran.code == 1, ran
        assert "with another secret" in ran.err
        assert await there.streams() == before
        assert (await there.run("restore", str(folder), "--keep-secret")).code == 0
        entry = await session.members.get(SECRET_KEY)
        assert entry is not None
        assert entry.value == b"bb" * 32


async def test_where_a_backup_may_be_written(saved: tuple[Site, Path], tmp_path: Path) -> None:
    here, folder = saved
    ran = await here.run("backup", str(folder))
    assert ran.code == 1
    assert "holds a backup; next: give another folder, or --force" in ran.err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    ran = await here.run("backup", str(tmp_path / "mine"), "--force")
    assert ran.code == 1
    assert "holds what is no backup: letter.txt" in ran.err
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"
    ran = await here.run("backup", "nothing", str(folder), "--force")
    assert ran.code == 1
    assert "no log of nothing" in ran.err
    assert (await here.run("restore", str(folder), "--rehearse")).code == 0
    assert (await here.run("backup")).code == 2
    assert (await here.run("restore", "hotel", str(folder))).code == 2


FULL = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200)); {MAIN}"
"""Files of 200 bytes at most: what a full disk is to who writes."""


async def test_a_full_disk_is_told_and_leaves_no_backup(saved: tuple[Site, Path]) -> None:
    here, folder = saved
    ran = await asyncio.to_thread(here.shell.run, "backup", str(folder), "--force", program=FULL)
    assert ran.code == 1, ran
    assert "error: " in ran.err
    assert "File too large; next: " in ran.err
    assert "is no backup" in (await here.run("restore", str(folder))).err
    assert (await here.run("backup", str(folder), "--force")).code == 0


async def test_a_log_with_faults_is_only_restored_on_request(
    saved: tuple[Site, Path], own_server: OwnServer, tmp_path: Path
) -> None:
    here, folder = saved
    async with nats_session(here.server, here.namespace) as session:
        subject = session.subjects.log("counter", "b")
        await session.connection.publish(Publish(subject, b"{}", {MARK: "00" * 16}))
    ran = await here.run("backup", str(folder), "--force", "--json")
    assert ran.code == 1
    assert [line["faults"] for line in ran.lines if "saved" in line] == [1]
    there = Site(await own_server(), here.namespace, tmp_path)
    ran = await there.run("restore", str(folder))
    assert ran.code == 1
    assert "the log of counter has faults (1)" in ran.err
    assert not of_type(await there.streams())
    assert (await there.run("restore", str(folder), "--accept-faults")).code == 1
    async with there.hosting(counter) as cluster:
        assert await cluster.at(Counter, "a").ask(Add(5), key="k") == 5


# -- what is interrupted --------------------------------------------------------------------------
def quiet(what: str, bytes: int) -> None:
    """Progress that nobody looks at."""


class Gate:
    """A verification that waits."""

    def __init__(self) -> None:
        self.reached, self.open = asyncio.Event(), asyncio.Event()

    async def __call__(self, entity: str) -> int:
        self.reached.set()
        await self.open.wait()
        return 0


@asynccontextmanager
async def restoring(site: Site, folder: Path, gate: Gate) -> AsyncGenerator[asyncio.Task[Any]]:
    """A restore that has come as far as the verification."""
    manifest = read_manifest(folder)
    settings = settings_for(site.server, site.namespace)
    wanted = Wanted(types=manifest.types)
    async with nats_session(site.server, site.namespace) as session:
        work = Restore(session, settings, folder, manifest, wanted, quiet, gate)
        task = asyncio.create_task(work.run())
        await asyncio.wait_for(gate.reached.wait(), PATIENCE_S)
        yield task


def of_type(streams: list[str]) -> list[str]:
    return [name for name in streams if name.endswith("_counter")]


async def test_nobody_can_use_what_is_half_restored_and_it_goes_again(
    saved: tuple[Site, Path], own_server: OwnServer, tmp_path: Path
) -> None:
    here, folder = saved
    there = Site(await own_server(), here.namespace, tmp_path)
    async with restoring(there, folder, Gate()) as task:
        with pytest.raises(Incompatible, match="being restored"):
            async with there.hosting(counter):
                pass
        ran = await there.run("shards", "resize", "counter", "4")
        assert ran.code == 1
        assert "being restored, or that didn't end" in ran.err
        ran = await there.run("tell", "counter", "a", "add", '{"n": 1}')
        assert ran.code == 1
        ran = await there.run("restore", str(folder))
        assert ran.code == 1
        assert "next: if nobody is at it, the same with --again" in ran.err
        assert "perdure restore counter FOLDER --again" in (await there.run("check")).out
        assert len(of_type(await there.streams())) == 4
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert of_type(await there.streams()) == []
    assert (await there.run("restore", str(folder))).code == 0


async def test_what_a_killed_restore_left_is_removed_on_request(
    saved: tuple[Site, Path], own_server: OwnServer, tmp_path: Path
) -> None:
    here, folder = saved
    there = Site(await own_server(), here.namespace, tmp_path)
    gate = Gate()
    async with restoring(there, folder, gate) as task:
        await there.server.kill()
        gate.open.set()
        with pytest.raises((Refused, Unreachable)) as raised:
            await task
        assert isinstance(raised.value, Refused)
        assert raised.value.next_step == "the same with --again, which removes it first"
    await there.server.start()
    ran = await there.run("restore", str(folder))
    assert ran.code == 1, ran
    assert "a restore of counter didn't end" in ran.err
    ran = await there.run("restore", str(folder), "--again")
    assert ran.code == 0, ran
    async with there.hosting(counter) as cluster:
        assert await cluster.at(Counter, "a").ask(Add(5), key="k") == 5


async def test_a_backup_that_is_interrupted_is_none(saved: tuple[Site, Path]) -> None:
    here, folder = saved
    gate = Gate()
    async with nats_session(here.server, here.namespace) as session:
        wishes = Wishes(["counter"], force=True)
        task = asyncio.create_task(Backup(session, folder, wishes, quiet, gate).make())
        await asyncio.wait_for(gate.reached.wait(), PATIENCE_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    ran = await here.run("restore", str(folder), "--rehearse")
    assert ran.code == 1
    assert "it is no backup, or one that didn't end" in ran.err


# -- while others write ---------------------------------------------------------------------------
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
    """They wait when the backup begins, and are done as soon as its first part is taken."""
    here, folder = Site(nats_server, namespace, tmp_path), tmp_path / "kept"
    async with here.hosting():
        pass
    await told_without_runner(here)
    loop, first = asyncio.get_running_loop(), list[str]()

    async def work_off() -> None:
        async with here.hosting() as cluster:
            for id in IDS:
                await cluster.at(Visit, id).result(Note, "waits")

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
        await cluster.at(Visit, IDS[0]).tell(Note("last"), key="last")
        assert await cluster.at(Visit, IDS[0]).result(Note, "last") == 3
        assert await texts(cluster, IDS[0]) == ["bare", "last", "waits"]


# -- permissions ----------------------------------------------------------------------------------
async def test_an_operator_needs_these_rights_and_no_more(
    own_server: OwnServer, tmp_path: Path
) -> None:
    subjects = Subjects()
    operator = needs("operator", subjects, "counter")
    shared = [stream.name for stream in shared_streams(Settings(), subjects)]
    saves = [*operator, *backing_up(subjects, "counter")]
    lent = [*restoring_needs(subjects, "counter"), *creating(shared, "CREATE")]
    restores = [*operator, *lent]
    every = {"publish": {"allow": [">"]}, "subscribe": {"allow": [">"]}}
    users = {"saves": granted(saves), "restores": granted(restores), "all": every}
    servers = [await own_server(extra=configured(users)) for _ in range(2)]
    here, there = (
        Shell(tmp_path, PERDURE_URL=server.url, PERDURE_USER=user, PERDURE_PASSWORD="p")
        for server, user in zip(servers, ("saves", "restores"), strict=True)
    )
    everything = Settings(url=servers[0].url, user="all", password="p", shards=4)
    async with connect(serving=[counter], settings=everything) as cluster:
        await cluster.at(Counter, "a").ask(Add(5), key="k")
    ran = await asyncio.to_thread(here.type, "backup", "counter", str(tmp_path / "kept"))
    assert ran.code == 0, ran
    ran = await asyncio.to_thread(there.type, "restore", "counter", str(tmp_path / "kept"))
    assert ran.code == 0, ran
    for server in servers:
        assert "Violation" not in server.log_file.read_text()


def test_an_archive_can_be_had_by_nobody_else() -> None:
    """To save a stream is to send it to any subject, and to restore is to make and remove."""
    roles: tuple[Role, ...] = ("caller", "reader", "runner", "operator")
    for role in roles:
        for need in needs(role, Subjects(), "counter"):
            assert not any(
                word in need.subject for word in ("SNAPSHOT", "RESTORE", "STREAM.DELETE")
            )
