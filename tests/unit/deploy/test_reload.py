"""`perdure dev` replaces its runner when code changes, and leaves nothing behind when killed."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from perdure import deploy
from perdure.deploy.cli.devrunner import PROGRAM, Given, Loaded
from perdure.deploy.tied import tie
from perdure.deploy.watch import Watch
from perdure.durable.connect import connect

from ...support.server import PATIENCE_S
from .commands import APP, Process, Shell
from .counter import Add, Counter
from .processes import children, gone, lives

NEGATIVE = APP.replace("command.answer(state.total)", "command.answer(-state.total)")
WRONG = APP.replace("def evolve(state", "def evolve(state state")


@contextmanager
def developing(folder: Path) -> Generator[tuple[Shell, Process, str]]:
    """A `perdure dev` of its own, and where its server is."""
    shell = Shell(folder, PERDURE_MAILBOX_CAPACITY="10000")  # a busy machine takes its time
    with shell.running("dev", "app.py", "--port", "0", "--store", "s", "--json") as process:
        url = process.ready()["url"]
        yield shell.at(PERDURE_URL=url), process, url


async def reloaded(process: Process) -> list[str]:
    """Wait for a new runner; the files for which it came."""
    ready = await asyncio.to_thread(process.ready)
    return list(ready["reloaded"])


async def told(process: Process, text: str) -> None:
    """Wait until standard error has the text."""
    async with asyncio.timeout(PATIENCE_S):
        while text not in process.err.read_text():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def runner_of(process: Process) -> int:
    """The runner's process."""
    (runner,) = children(process.popen.pid, "devrunner")
    return runner


def test_perdures_own_files_are_not_watched(tmp_path: Path) -> None:
    """Where the current folder is a checkout of perdure, they lie in it."""
    checkout = Path(deploy.__file__).resolve().parents[1]
    app = tmp_path / "app.py"
    app.write_text(APP)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        given = Given(str(app), theirs.fileno(), None, True, "warning", False)
        arguments = [sys.executable, "-c", PROGRAM, msgspec.json.encode(given).decode()]
        with subprocess.Popen(arguments, cwd=checkout, pass_fds=[theirs.fileno()]) as runner:
            theirs.close()
            loaded = msgspec.json.decode(ours.makefile("rb").readline(), type=Loaded)
            ours.shutdown(socket.SHUT_RDWR)  # it isn't wanted any more
            assert runner.wait(PATIENCE_S) == 0
    assert loaded.files == (str(app),)


async def test_changed_code_runs_and_nothing_is_lost(tmp_path: Path) -> None:
    with developing(tmp_path) as (shell, process, url):
        asked = told_count = 0
        over = asyncio.Event()
        async with connect(url) as cluster:
            a = cluster.at(Counter, "a")

            async def ask() -> None:
                nonlocal asked
                while not over.is_set():
                    assert await a.ask(Add(1)) > 0
                    asked += 1

            async def tell() -> None:
                nonlocal told_count
                while not over.is_set():
                    await cluster.at(Counter, "b").tell(Add(1))
                    told_count += 1
                    await asyncio.sleep(0.01)

            work = asyncio.gather(ask(), ask(), tell())
            for code in (NEGATIVE, APP, NEGATIVE):
                (tmp_path / "app.py").write_text(code)
                assert await reloaded(process) == ["app.py"]
            over.set()
            await work
            await cluster.at(Counter, "b").ask(Add(0))  # behind this client's tells
        for id, count in (("a", asked), ("b", told_count)):
            assert count > 3
            query = ("ask", "counter", id, "get_total")
            assert (await asyncio.to_thread(shell.type, *query)).out == f"{-count}\n"
        process.interrupt()
        ended = await asyncio.to_thread(process.end)
    assert (ended.code, ended.err) == (0, "")


async def test_a_mistake_is_told_in_a_line_and_the_old_runner_goes_on(tmp_path: Path) -> None:
    with developing(tmp_path) as (shell, process, _):
        (tmp_path / "app.py").write_text(WRONG)
        error = (await asyncio.to_thread(process.ready))["error"]
        assert "app.py:" in error["message"]
        assert "SyntaxError: invalid syntax: def evolve(state state" in error["message"]
        await told(process, "the changed code isn't used: the old runner goes on")
        assert (await asyncio.to_thread(shell.type, "ask", "counter", "a", "add", '{"n":4}')).out
        (tmp_path / "helper.py").write_text("x = 1\n")
        assert "error" in await asyncio.to_thread(process.ready)
        (tmp_path / "app.py").write_text(NEGATIVE)
        assert await reloaded(process) == ["app.py"]
        ran = await asyncio.to_thread(shell.type, "ask", "counter", "a", "get_total")
        assert ran.out == "-4\n"
        process.terminate()
        ended = await asyncio.to_thread(process.end)
    assert ended.code == 0
    assert ended.err.count("\n") == 2, ended.err


async def test_a_runner_that_ends_by_itself_comes_back_with_the_next_change(
    tmp_path: Path,
) -> None:
    with developing(tmp_path) as (shell, process, _):
        os.kill(runner_of(process), signal.SIGKILL)
        await told(process, "the runner ended by itself with code -9: there is no runner, until")
        (tmp_path / "app.py").write_text(NEGATIVE)
        assert await reloaded(process) == ["app.py"]
        add = ("ask", "counter", "a", "add", '{"n":4}')
        assert (await asyncio.to_thread(shell.type, *add)).out == "4\n"
        process.interrupt()
        assert (await asyncio.to_thread(process.end)).code == 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody ends them")
@pytest.mark.parametrize("how", ["kill -9", "Ctrl-C twice"])
async def test_killed_it_leaves_nothing_behind(tmp_path: Path, how: str) -> None:
    with developing(tmp_path) as (_, process, _url):
        server, runner = int((tmp_path / "s" / "lock").read_text()), runner_of(process)
        assert lives(server)
        if how == "kill -9":
            process.popen.kill()
        else:
            os.kill(runner, signal.SIGSTOP)  # it will not drain
            # Two signals that come together are one: so a second one is sent until it is heard.
            while lives(process.popen.pid):
                process.interrupt()
                await asyncio.sleep(0.2)
        await gone(process.popen.pid, server, runner)
    with developing(tmp_path) as (_, process, _url):  # the store is free
        process.interrupt()
        assert (await asyncio.to_thread(process.end)).code == 0


# -- parts --------------------------------------------------------------------------------------
def test_a_watch_sees_new_changed_and_removed_files(tmp_path: Path) -> None:
    one, two, other = (tmp_path / name for name in ("one.py", "two.py", "other.txt"))
    one.write_text("1")
    other.write_text("1")
    watch = Watch(folders=[tmp_path])
    assert watch.changed() == []
    one.write_text("22")
    other.write_text("22")
    two.write_text("2")
    assert watch.changed() == [one, two]
    assert watch.changed() == []
    watch.add([other])
    two.unlink()
    other.write_text("333")
    assert watch.changed() == [other, two]
    watch.add([tmp_path / "never.py"])
    assert watch.changed() == []
    assert repr(watch) == "Watch(2 files)"


def test_a_change_between_two_additions_is_not_forgotten(tmp_path: Path) -> None:
    file = tmp_path / "one.py"
    file.write_text("1")
    watch = Watch([file])
    file.write_text("22")
    watch.add([], [tmp_path])
    assert watch.changed() == [file]


def test_elsewhere_than_on_linux_nothing_is_tied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert tie(signal.SIGTERM) is None
