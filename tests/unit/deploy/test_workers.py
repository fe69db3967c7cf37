"""`perdure run --workers`: several runner processes on a real server, as a user starts them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from perdure.deploy.cli.trouble import UsageError
from perdure.deploy.cli.workers import MOST_WORKERS, how_many, machine_of
from perdure.deploy.process import HARD_EXIT
from perdure.deploy.server import EmbeddedServer

from ...support.server import PATIENCE_S, until
from .commands import APP, Process, Shell
from .probing import free_ports, until_probe
from .processes import argument, children, gone, lives, variable

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")

OwnServer = Callable[..., Awaitable[EmbeddedServer]]
WORKER = "cli.worker"
NEXT = "Next, in another terminal:"


class Running:
    """A `perdure run --workers` that goes on."""

    def __init__(self, shell: Shell, process: Process) -> None:
        self.shell, self.process = shell, process
        self.ready: dict[str, Any] = {}

    @property
    def pid(self) -> int:
        """The supervisor."""
        return self.process.popen.pid

    def workers(self) -> dict[int, int]:
        """Each worker that is there by its number: its process."""
        pids = [pid for pid in children(self.pid, WORKER) if lives(pid)]
        return {json.loads(argument(pid))["worker"]: pid for pid in pids}

    def records(self, action: str) -> list[dict[str, Any]]:
        """What was logged under this action."""
        lines = self.process.err.read_text().splitlines(keepends=True)
        logged = [json.loads(line) for line in lines if line.endswith("\n")]
        return [record for record in logged if record["action"] == action]

    async def logged(self, action: str, count: int = 1, **fields: Any) -> None:
        """Wait until so many records of this action have these fields."""

        def there() -> bool:
            found = self.records(action)
            return sum(fields.items() <= record.items() for record in found) >= count

        await until(there, f"{count} of {action} {fields}")

    async def add(self, n: int) -> str:
        """Ask the counter; what it printed."""
        add = ("ask", "counter", "a", "add", json.dumps({"n": n}))
        return (await asyncio.to_thread(self.shell.type, *add)).out

    async def end(self) -> int:
        """Wait for its end; its exit code."""
        return (await asyncio.to_thread(self.process.end)).code


@asynccontextmanager
async def running(
    server: EmbeddedServer, namespace: str, folder: Path, *arguments: str, **variables: str
) -> AsyncGenerator[Running]:
    """Workers that are ready, on that server; they are killed with it."""
    env = {"PERDURE_URL": server.url, "PERDURE_NAMESPACE": namespace, "PERDURE_SHARDS": "4"}
    env["PERDURE_COMMAND_STREAM_BYTES"] = str(2**24)
    shell = Shell(folder, **{**env, **variables})
    command = ("run", "app", *(arguments or ("--workers", "2")), "--json", "--log-json")
    with shell.running(*command) as process:
        made = Running(shell, process)
        made.ready = await asyncio.to_thread(process.ready)
        yield made


async def test_one_that_is_killed_comes_back_and_sigterm_ends_all(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    port = free_ports(2)
    variables = {"PERDURE_MACHINE_ID": "7", "PERDURE_HEALTH_PORT": str(port)}
    async with running(nats_server, namespace, tmp_path, "--workers", "2", **variables) as run:
        contracts = ["add", "take", "get_total"]
        assert run.ready == {
            "ready": True,
            "url": nats_server.url,
            "entities": {"counter": contracts},
        }
        first = run.workers()
        assert sorted(first) == [0, 1]
        machines = [variable(first[number], "PERDURE_MACHINE_ID") for number in (0, 1)]
        assert machines == ["7", "8"]
        assert await run.add(1) == "1\n"
        for at in (port, port + 1):
            await until_probe(at, "/readyz", lambda got: got.status == 200, PATIENCE_S)
        for number, pid in sorted(first.items()):
            os.kill(pid, signal.SIGKILL)
            await run.logged("worker.restart", worker=number, code=-signal.SIGKILL)
            await run.logged("worker.ready", count=2, worker=number)
            assert run.workers()[number] != pid
        assert await run.add(2) == "3\n"
        last = run.workers()
        assert sorted(last) == [0, 1]
        assert not {*first.values()} & {*last.values()}
        run.process.terminate()
        ended = await asyncio.to_thread(run.process.end)
        assert (ended.code, ended.out) == (0, "")  # it announced once
        assert not any(map(lives, last.values()))
        assert sorted(record["worker"] for record in run.records("runner.stop")) == [0, 1]
        assert len(run.records("worker.restart")) == 2


async def test_killed_it_leaves_workers_that_drain(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    async with running(nats_server, namespace, tmp_path) as run:
        workers = run.workers()
        assert len(workers) == 2
        run.process.popen.kill()
        await gone(run.pid, *workers.values())
        assert sorted(record["worker"] for record in run.records("runner.stop")) == [0, 1]


async def test_one_that_an_operator_drains_is_not_started_again_and_the_last_ends_it(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    async with running(nats_server, namespace, tmp_path) as run:
        assert await run.add(1) == "1\n"
        rows = (await asyncio.to_thread(run.shell.type, "runners", "--json")).lines
        runner_of = {row["process"]: row["runner"] for row in rows}
        first, second = (runner_of[pid] for _, pid in sorted(run.workers().items()))
        drained = await asyncio.to_thread(run.shell.type, "drain", first)
        assert drained.code == 0
        await run.logged("worker.drained", worker=0)
        assert list(run.workers()) == [1]
        assert await run.add(2) == "3\n"
        drained = await asyncio.to_thread(run.shell.type, "drain", second)
        assert drained.code == 0
        assert await run.end() == 0
        assert run.records("worker.restart") == []


@pytest.mark.parametrize("how", ["SIGTERM", "Ctrl-C"])
async def test_a_second_signal_kills_them(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path, how: str
) -> None:
    async with running(nats_server, namespace, tmp_path) as run:
        end = run.process.terminate if how == "SIGTERM" else run.process.interrupt
        workers = run.workers()
        for pid in workers.values():
            os.kill(pid, signal.SIGSTOP)  # they will not drain
        end()
        await run.logged("drain")
        assert all(map(lives, workers.values()))
        end()
        assert await run.end() == HARD_EXIT
        await gone(*workers.values())
        assert len(run.records("hard_exit")) == 1


async def test_a_worker_that_hears_two_signals_drains_once(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    """As under systemd, which signals all processes of a service."""
    async with running(nats_server, namespace, tmp_path) as run:
        pid = run.workers()[0]
        os.kill(pid, signal.SIGSTOP)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCONT):
            os.kill(pid, number)  # the first two are heard together
        await run.logged("runner.stop", worker=0)
        await run.logged("worker.restart", worker=0, code=0)
        assert run.records("hard_exit") == []
        run.process.terminate()
        assert await run.end() == 0


async def test_code_that_is_broken_meanwhile_costs_one_worker_until_it_is_mended(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    app = tmp_path / "app.py"
    async with running(nats_server, namespace, tmp_path) as run:
        app.unlink()
        os.kill(run.workers()[1], signal.SIGKILL)
        await run.logged("worker.restart", worker=1, code=2)
        assert "no module 'app', in " in run.records("worker.restart")[-1]["message"]
        assert await run.add(1) == "1\n"
        app.write_text("1 / 0\n")
        await run.logged("worker.restart", worker=1, code=1)
        assert "ZeroDivisionError" in run.records("worker.restart")[-1]["message"]
        await run.logged("worker.traceback", worker=1)
        assert 'app.py", line 1, in <module>' in run.records("worker.traceback")[0]["message"]
        app.write_text(APP)
        await run.logged("worker.ready", count=2, worker=1)
        assert await run.add(2) == "3\n"
        run.process.terminate()
        assert await run.end() == 0


async def test_they_wait_for_a_server_that_is_not_there_yet(
    own_server: OwnServer, namespace: str, tmp_path: Path
) -> None:
    server = await own_server()
    await server.stop()
    shell = Shell(tmp_path, PERDURE_URL=server.url, PERDURE_NAMESPACE=namespace)
    with shell.running("run", "app", "--workers", "2", "--json", "--log-json") as process:
        run = Running(shell, process)
        await run.logged("worker.restart", code=1)
        told = run.records("worker.restart")[0]["message"]
        assert f"RpcClientError: can't connect to {server.url}" in told
        assert "next: start a server (perdure dev APP), or correct --url" in told
        await server.start()
        assert (await asyncio.to_thread(process.ready))["ready"] is True
        assert await run.add(5) == "5\n"
        process.terminate()
        assert await run.end() == 0


async def test_people_are_told_once_and_logs_tell_the_worker(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    env = {"PERDURE_URL": nats_server.url, "PERDURE_NAMESPACE": namespace}
    shell = Shell(tmp_path, PERDURE_COMMAND_STREAM_BYTES=str(2**24), **env)
    with shell.running("run", "app", "--workers", "2") as process:
        lines = [await asyncio.to_thread(process.line)]
        assert lines == [f"perdure run app, 2 workers, on {nats_server.url}"]
        while lines[-1] != NEXT:
            lines.append(await asyncio.to_thread(process.line))
        process.interrupt()
        ended = await asyncio.to_thread(process.end)
    assert ended.code == 0
    assert NEXT not in ended.out
    hosts = [line for line in ended.err.splitlines() if " hosts counter " in line]
    assert sorted(line.rpartition(" ")[2] for line in hosts) == ["worker=0", "worker=1"]


async def test_one_worker_is_this_process(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    async with running(nats_server, namespace, tmp_path, "--workers", "1") as run:
        assert run.workers() == {}
        assert await run.add(1) == "1\n"
        run.process.terminate()
        assert await run.end() == 0
        (stop,) = run.records("runner.stop")
        assert "worker" not in stop


# -- what isn't understood ----------------------------------------------------------------------
def test_what_none_of_them_can_do_is_told_once(tmp_path: Path) -> None:
    run = ("run", "app", "--workers", "2", "--log-level", "warning")
    ran = Shell(tmp_path).run(*run, "--url", "http://127.0.0.1:1")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: settings: argument: url: http:// isn't one of nats://, ")
    assert ran.err.count("\n") == 1


def test_an_app_that_cannot_be_loaded_is_told_once(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    ran = shell.run("run", "nope", "--workers", "2")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: no module 'nope', in ")
    assert ran.err.count("\n") == 1
    (tmp_path / "bug.py").write_text("1 / 0\n")
    ran = shell.run("run", "bug.py", "--workers", "2", "--json")
    assert ran.code == 1
    assert len(ran.lines) == 1
    assert ran.err.count("ZeroDivisionError") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--workers", "2", "--url", "memory:"), "memory: has no server"),
        (("--workers", "2", "--namespace", "A B"), "namespace: 'A B'"),
    ],
)
def test_settings_are_looked_at_before_any_worker(
    tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    ran = Shell(tmp_path).run("run", "app", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(f"error: {says}") or says in ran.err
    assert ran.err.count("\n") == 1


def test_without_machine_numbers_for_all_none_starts(tmp_path: Path) -> None:
    shell = Shell(tmp_path, PERDURE_MACHINE_ID="1020", PERDURE_URL="nats://127.0.0.1:1")
    ran = shell.run("run", "app", "--workers", "5")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == (
        "error: machine_id 1020 and 5 workers: the last number is 1023; "
        "next: set machine_id to 1019 or less, or take fewer --workers\n"
    )


# -- how many -----------------------------------------------------------------------------------
def test_machine_numbers_count_on() -> None:
    assert [machine_of(1020, worker, 4) for worker in range(4)] == [1020, 1021, 1022, 1023]
    with pytest.raises(UsageError, match="machine_id 1021 and 4 workers"):
        machine_of(1021, 0, 4)
    assert machine_of(None, 3, 4) is None


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (3, 3), (500, MOST_WORKERS)])
def test_auto_is_one_for_each_usable_core(
    monkeypatch: pytest.MonkeyPatch, cores: int, workers: int
) -> None:
    def affinity(_pid: int) -> set[int]:
        return set(range(7, 7 + cores))

    monkeypatch.setattr(os, "sched_getaffinity", affinity)
    assert how_many("auto") == workers


@pytest.mark.parametrize(("cores", "workers"), [(6, 6), (None, 1)])
def test_auto_where_the_system_cannot_say(
    monkeypatch: pytest.MonkeyPatch, cores: int | None, workers: int
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert how_many("auto") == workers


def test_the_bounds_can_be_reached() -> None:
    assert [how_many(1), how_many(MOST_WORKERS)] == [1, MOST_WORKERS]
