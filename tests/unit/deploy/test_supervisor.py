"""The supervisor, with workers that are small programs."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest

from perdure.deploy import child as child_module
from perdure.deploy.child import Child
from perdure.deploy.process import HARD_EXIT
from perdure.deploy.supervisor import Drained, NotUnderstood, Ready, Supervisor, Why

from ...support.server import PATIENCE_S, until, until_count
from .processes import lives

PROGRAM = """
import json, os, signal, sys
given = json.loads(sys.argv[1])
def say(word):
    os.write(given["socket"], json.dumps(word).encode() + b"\\n")
"""
SERVES = PROGRAM + 'say({"type": "ready"}); signal.pause()'
DEAF = f"{PROGRAM}signal.signal(signal.SIGTERM, signal.SIG_IGN)\nsay({{'type': 'ready'}})\n" + (
    "while True: signal.pause()"
)
NOT_UNDERSTOOD = PROGRAM + (
    'say({"type": "why", "what": "no such thing", "next_step": "name another"}); sys.exit(2)'
)
NOT_UNDERSTOOD_SILENTLY = "import sys; sys.exit(2)"
HOSTED_ONCE = PROGRAM + 'say({"type": "ready"}); sys.exit(2)'
DRAINED = PROGRAM + 'say({"type": "ready"}); say({"type": "drained"}); sys.exit(0)'
FORKED = PROGRAM + "\nif os.fork():\n    sys.exit(7)\nsignal.alarm(20)\nsignal.pause()"
"""Its own child keeps the socket, and outlives it."""


class Given(msgspec.Struct, frozen=True):
    socket: int = -1


class Started:
    """Starts the given programs, one after another, and remembers the processes."""

    def __init__(self, *programs: str | OSError) -> None:
        self._programs = list(programs)
        self.children: list[Child] = []

    async def __call__(self, number: int) -> Child:
        program = self._programs.pop(0) if len(self._programs) > 1 else self._programs[0]
        if isinstance(program, OSError):
            raise program
        child = await Child.start(program, Given(), tied=signal.SIGKILL)
        self.children.append(child)
        return child


@asynccontextmanager
async def supervising(
    count: int, start: Callable[[int], Awaitable[Child]]
) -> AsyncGenerator[tuple[Supervisor, asyncio.Task[int], asyncio.Event]]:
    """A running supervisor, its task and whether it is ready; cancelled on leaving."""
    ready = asyncio.Event()
    supervisor = Supervisor(count, start, drain_s=0.0, on_ready=ready.set)
    task = asyncio.ensure_future(supervisor.run())
    try:
        yield supervisor, task, ready
    finally:
        task.cancel()
        await asyncio.wait({task}, timeout=PATIENCE_S)


def codes(caplog: pytest.LogCaptureFixture) -> list[object]:
    """The exit codes after which a worker was started again."""
    restarts = [r for r in caplog.records if vars(r).get("action") == "worker.restart"]
    return [vars(r)["code"] for r in restarts]


def test_words_are_read_as_they_are_said() -> None:
    for word in (Ready(), Why("what", "next", "trace"), Drained()):
        line = msgspec.json.encode(word)
        assert msgspec.json.decode(line, type=Ready | Why | Drained) == word


async def test_it_is_ready_when_all_are_and_ends_all_of_them() -> None:
    start = Started(SERVES)
    async with supervising(3, start) as (supervisor, task, ready):
        await asyncio.wait_for(ready.wait(), PATIENCE_S)
        assert repr(supervisor) == "<Supervisor 3 of 3 there, 3 ready>"
        assert all(lives(child.pid) for child in start.children)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert repr(supervisor) == "<Supervisor 0 of 3 there, 0 ready>"
    assert [child.ended.result() for child in start.children] == [-signal.SIGTERM] * 3


async def test_one_that_does_not_drain_is_killed_and_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(child_module, "DRAIN_MARGIN_S", 0.1)
    start = Started(SERVES, DEAF)
    async with supervising(2, start) as (_, task, ready):
        await asyncio.wait_for(ready.wait(), PATIENCE_S)
        task.cancel()
        assert await task == HARD_EXIT
    ends = [child.ended.result() for child in start.children]
    assert ends == [-signal.SIGTERM, -signal.SIGKILL]
    killed = [r for r in caplog.records if vars(r).get("action") == "worker.killed"]
    assert [vars(r)["worker"] for r in killed] == [1]


async def test_kill_ends_them_at_once() -> None:
    start = Started(DEAF)
    async with supervising(2, start) as (supervisor, _, ready):
        await asyncio.wait_for(ready.wait(), PATIENCE_S)
        supervisor.kill()
        ends = [await asyncio.shield(child.ended) for child in start.children]
    assert ends[:2] == [-signal.SIGKILL] * 2


async def test_it_gives_up_on_what_nobody_understood() -> None:
    start = Started(NOT_UNDERSTOOD)
    async with supervising(3, start) as (_, task, ready):
        with pytest.raises(NotUnderstood, match="no such thing") as raised:
            await asyncio.wait_for(task, PATIENCE_S)
    assert raised.value.why == Why("no such thing", "name another")
    assert not ready.is_set()
    assert not any(lives(child.pid) for child in start.children)


async def test_it_gives_up_on_one_that_says_nothing_too() -> None:
    async with supervising(2, Started(NOT_UNDERSTOOD_SILENTLY)) as (_, task, _ready):
        with pytest.raises(NotUnderstood, match=r"worker \d ended with exit code 2"):
            await asyncio.wait_for(task, PATIENCE_S)


async def test_what_was_understood_once_is_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    start = Started(HOSTED_ONCE, NOT_UNDERSTOOD, SERVES)
    async with supervising(1, start) as (supervisor, _, ready):
        await asyncio.wait_for(ready.wait(), PATIENCE_S)
        await until_count(start.children, 3)
        await until(lambda: repr(supervisor).endswith("1 ready>"))
    assert codes(caplog) == [2, 2]
    assert "(no such thing; next: name another)" in caplog.text


async def test_one_that_an_operator_drained_stays_away_and_the_last_ends_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    start = Started(DRAINED, SERVES)
    async with supervising(2, start) as (supervisor, task, _):
        await until(lambda: repr(supervisor) == "<Supervisor 1 of 2 there, 1 ready>")
        assert not task.done()
    assert len(start.children) == 2
    assert codes(caplog) == []
    last = Supervisor(1, Started(DRAINED), drain_s=0.0, on_ready=asyncio.Event().set)
    assert await asyncio.wait_for(last.run(), PATIENCE_S) == 0


async def test_one_that_cannot_be_started_is_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    start = Started(BlockingIOError(11, "no more processes"), SERVES)
    async with supervising(1, start) as (_, _task, ready):
        await asyncio.wait_for(ready.wait(), PATIENCE_S)
    assert codes(caplog) == [None]
    assert "worker 0 could not be started (BlockingIOError" in caplog.text


async def test_a_process_that_a_worker_leaves_behind_holds_nothing_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    start = Started(FORKED, SERVES)
    async with supervising(1, start) as (_, _task, ready):
        await asyncio.wait_for(ready.wait(), PATIENCE_S)
    assert codes(caplog) == [7]


async def test_an_announcement_that_fails_ends_it() -> None:
    def announce() -> None:
        raise BrokenPipeError

    start = Started(SERVES)
    supervisor = Supervisor(2, start, drain_s=0.0, on_ready=announce)
    with pytest.raises(BrokenPipeError):
        await asyncio.wait_for(supervisor.run(), PATIENCE_S)
    assert not any(lives(child.pid) for child in start.children)
