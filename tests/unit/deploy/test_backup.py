"""Backup and restore, on real servers: what comes back, and what is refused."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from perdure import Incompatible, Settings, connect
from perdure.deploy.backup import Backup, Wishes
from perdure.deploy.backupfolder import NoBackup, prepare, read_manifest
from perdure.deploy.cli.restore import interrupted
from perdure.deploy.permissions import Role, backing_up, creating, needs
from perdure.deploy.permissions import restoring as restoring_needs
from perdure.deploy.restoring import Refused, Restore, Wanted
from perdure.deploy.server import EmbeddedServer
from perdure.durable.secret import SECRET_KEY
from perdure.streams.commit import MARK
from perdure.streams.jetstream import resizing
from perdure.streams.jetstream.api import Response, StreamInfo, call
from perdure.streams.jetstream.connection import Publish
from perdure.streams.jetstream.messages import headers_block
from perdure.streams.jetstream.scan import names
from perdure.streams.port import Unreachable
from perdure.streams.subjects import Subjects
from perdure.streams.topology import RESTORING, shared_streams

from ...support.server import PATIENCE_S, nats_session, settings_for
from .commands import MAIN, Shell, plain_client
from .counter import Add, Counter, counter
from .saved import (
    IDS,
    Site,
    dead,
    fill,
    letters,
    open_flows,
    open_token,
    quiet,
    texts,
    told_without_runner,
)
from .test_permissions import configured, granted
from .visiting import Ask, Clerk, Empty, Nap, Note, Open, Stamp, Visit, clerk, visit

OwnServer = Callable[..., Awaitable[EmbeddedServer]]
APP = Path(__file__).with_name("visiting.py").read_text()


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


def later(folder: Path) -> None:
    """As if it had been made on a server whose clock is ahead."""
    parts = json.loads((folder / "manifest.json").read_text())["parts"]
    for part in parts:
        if part["kind"] == "log":
            part["archived"]["state"]["last_ts"] = "2200-01-01T00:00:00.5Z"
    changed(folder, parts=parts)


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
    "a later clock": (later, "newest message is of 2200-01-01T00:00:00.5Z"),
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


async def test_a_clock_that_is_behind_is_noticed_before_anything_is_made(
    saved: tuple[Site, Path], own_server: OwnServer, tmp_path: Path
) -> None:
    """Where streams of the namespace tell the time; elsewhere see "a later clock"."""
    here, folder = saved
    later(folder)
    there = Site(await own_server(), here.namespace, tmp_path)
    async with there.hosting(clerk):
        pass
    made = await plain_client(there.server.url)
    heard = await made.subscribe("$JS.API.STREAM.RESTORE.>")
    ran = await there.run("restore", str(folder))
    assert ran.code == 1, ran
    assert "next: set the server's clock" in ran.err
    await made.flush()
    assert heard.pending_msgs == 0
    await made.close()


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


S2 = b"\xff\x06\x00\x00S2sTwO"
HEAD = b'{"format": 1, "perdure": "1", "namespace": "perdure"}'
FOLDERS: dict[str, tuple[dict[str, bytes], str]] = {
    "logs of others": ({"access.log": b"GET /", "error.log": b""}, "access.log, error.log"),
    "a manifest of others": ({"manifest.json": b'{"name": "app"}'}, "manifest.json"),
    "a batch file with its log": ({"run.cmd": b"@echo", "run.log": b""}, "run.cmd, run.log"),
    "another type's log": ({"a.cmd": S2, "b.log": S2}, "b.log"),
    "no type's name": ({"a.cmd": S2, "a.b.log": S2}, "a.b.log"),
    "one that hardly began": ({"a.cmd": S2[:3]}, ""),
    "one that didn't end": ({"a.cmd": S2, "a.log": S2, "manifest.json.part": b"{"}, ""),
    "one of which little is left": (
        {"manifest.json": HEAD, "a.log": S2, "resume.secret": b""},
        "",
    ),
    "one with half a manifest": ({"a.cmd": S2, "manifest.json": HEAD[:9], "a.dead": b""}, ""),
}


@pytest.mark.parametrize("what", FOLDERS)
def test_only_a_backup_is_replaced(tmp_path: Path, what: str) -> None:
    files, strange = FOLDERS[what]
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    if strange:
        with pytest.raises(NoBackup, match=f"holds what is no backup: {strange}$"):
            prepare(tmp_path, force=True)
    else:
        with pytest.raises(NoBackup, match="holds a backup"):
            prepare(tmp_path, force=False)
        prepare(tmp_path, force=True)
    left = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert left == (files if strange else {})


def test_a_link_is_not_followed_to_what_others_have(tmp_path: Path) -> None:
    (tmp_path / "a.cmd").write_bytes(S2)
    (tmp_path / "a.log").symlink_to("a.cmd")
    with pytest.raises(NoBackup, match=r"no backup: a\.log"):
        prepare(tmp_path, force=True)


async def test_copies_of_streams_are_a_choice(
    saved: tuple[Site, Path], own_server: OwnServer, tmp_path: Path
) -> None:
    here, folder = saved
    parts = json.loads((folder / "manifest.json").read_text())["parts"]
    for part in parts:
        if "archived" in part:
            part["archived"]["config"]["num_replicas"] = 3
    changed(folder, parts=parts)
    there = Site(await own_server(), here.namespace, tmp_path)
    ran = await there.run("restore", str(folder))
    assert ran.code == 1
    assert "replicas > 1 not supported" in ran.err
    assert "--replicas 1 for a server that is alone" in ran.err
    assert of_type(await there.streams()) == []
    assert (await there.run("restore", str(folder), "--replicas", "1")).code == 0
    assert (await there.run("restore", str(folder), "--replicas", "6")).code == 2


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
        await session.connection.publish(Publish(subject, b"{}", headers_block({MARK: "00" * 16})))
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


@pytest_asyncio.fixture
async def two(
    nats_server: EmbeddedServer, own_server: OwnServer, namespace: str, tmp_path: Path
) -> tuple[Site, Path]:
    """A backup of two types, and another server."""
    here, folder = Site(nats_server, namespace, tmp_path), tmp_path / "kept"
    async with here.hosting(counter, clerk) as cluster:
        await cluster.at(Counter, "a").ask(Add(5), key="k")
        await cluster.at(Clerk, "c").ask(Stamp())
    ran = await here.run("backup", str(folder))
    assert ran.code == 0, ran
    return Site(await own_server(), namespace, tmp_path), folder


async def test_all_types_are_set_going_or_none_and_what_is_advised_works(
    two: tuple[Site, Path],
) -> None:
    there, folder = two
    manifest, settings = read_manifest(folder), settings_for(there.server, there.namespace)
    async with nats_session(there.server, there.namespace) as session:
        name = session.subjects.command_stream("counter")

        async def verify(entity: str) -> int:
            """Somebody else is at one of them meanwhile."""
            info = await call(session.connection, f"STREAM.INFO.{name}", None, StreamInfo)
            subject = session.subjects.halted("counter", f"{RESTORING}other")
            config = {**info.config, "subjects": [subject]}
            await call(session.connection, f"STREAM.UPDATE.{name}", config, Response)
            return 0

        work = Restore(
            session, settings, folder, manifest, Wanted(types=manifest.types), quiet, verify
        )
        with pytest.raises(Refused, match=r"\(counter: .*somebody else is at it\)$") as raised:
            await work.run()
    first, second = raised.value.next_step.split(", then ")
    assert {first, second} == {
        f"perdure restore counter {folder} --again",
        "perdure shards resize clerk 4",
    }
    with pytest.raises(Incompatible):
        async with there.hosting(clerk):
            pass
    for line in (first, second):
        ran = await there.run(*line.split()[1:])
        assert ran.code == 0, ran
    async with there.hosting(counter, clerk) as cluster:
        assert await cluster.at(Counter, "a").ask(Add(5), key="k") == 5
        assert await cluster.at(Clerk, "c").ask(Stamp()) == 2


async def test_an_interruption_at_its_end_waits_for_it(
    two: tuple[Site, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    there, folder = two
    manifest, settings = read_manifest(folder), settings_for(there.server, there.namespace)
    gate, recut = Gate(), resizing.recut

    async def slow(*given: Any) -> None:
        await gate("")
        await recut(*given)

    monkeypatch.setattr(resizing, "recut", slow)
    open_gate = Gate()
    open_gate.open.set()
    async with nats_session(there.server, there.namespace) as session:
        wanted = Wanted(types=manifest.types)
        work = Restore(session, settings, folder, manifest, wanted, quiet, open_gate)
        task = asyncio.create_task(work.run())
        await asyncio.wait_for(gate.reached.wait(), PATIENCE_S)
        task.cancel()
        await asyncio.sleep(0)
        gate.open.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert work.phase == "done"
    async with there.hosting(counter, clerk) as cluster:
        assert await cluster.at(Counter, "a").ask(Add(5), key="k") == 5
    assert "all is restored" in str(interrupted(work.phase))


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
    every: dict[str, object] = {"publish": {"allow": [">"]}, "subscribe": {"allow": [">"]}}
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
