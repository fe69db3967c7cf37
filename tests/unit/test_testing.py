"""`perdure.testing`, as somebody else's tests use it: in a pytest of their own."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from perdure import Settings, connect, memory, testing
from perdure.deploy.namespace import forget
from perdure.deploy.server import EmbeddedServer, ServerMissing
from perdure.durable.testing import VirtualClock
from tests.bank import Account, Balance, Deposit, account

CONFTEST = 'pytest_plugins = ["perdure.testing"]\n'
TESTS = """
import asyncio

import pytest

from perdure import Command, Decision, Entity, Event, Settings, State, connect


class Counter(State):
    n: int = 0


class Add(Command[Counter, int]):
    n: int


class Added(Event):
    n: int


def decide(state: Counter, command: Add) -> Decision[Added]:
    return command.accept(state.n + command.n, Added(command.n))


def evolve(state: Counter, event: Added) -> Counter:
    return state.replace(n=state.n + event.n)


counter = Entity(Counter(), decide, evolve)
seen = set()


@pytest.mark.parametrize("again", [False, True])
def test_each_has_a_namespace_of_its_own(perdure_settings: Settings, again: bool) -> None:
    async def main() -> None:
        async with connect(settings=perdure_settings, serving=[counter]) as cluster:
            assert await cluster.at(Counter, "c").ask(Add(2)) == 2

    asyncio.run(main())
    seen.add(perdure_settings.namespace)
    assert len(seen) == 1 + again
"""


def run(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """pytest over these tests, with no other configuration than these variables."""
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_theirs.py").write_text(TESTS)
    environment = {n: v for n, v in os.environ.items() if not n.startswith(("PERDURE", "NATS"))}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"],
        cwd=folder,
        env={**environment, "HOME": str(folder), **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_it_starts_a_server_where_none_is_given(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


async def test_it_takes_the_one_that_is_given_and_leaves_nothing(
    own_server: Any, tmp_path: Path
) -> None:
    server: EmbeddedServer = await own_server()
    other = Settings(url=server.url, namespace="t_other", shards=1, command_stream_bytes=2**24)
    async with connect(settings=other, serving=[account]) as cluster:
        assert await cluster.at(Account, "a-1").ask(Deposit(5)) == Balance(5)
        done = await asyncio.to_thread(run, tmp_path, PERDURE_URL=server.url)
        assert "2 passed" in done.stdout
        assert await cluster.at(Account, "a-1").ask(Deposit(5)) == Balance(10)
    assert await forget(msgspec.structs.replace(other, namespace="t")) == []
    left = await forget(other)
    assert sorted(left) == [
        "KV_T_OTHER_MEMBERS", "T_OTHER_CMD_account", "T_OTHER_DEAD", "T_OTHER_IDS_account",
        "T_OTHER_LOG_account", "T_OTHER_SNAP_account", "T_OTHER_TIME",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("required", "ends"), [("", pytest.skip.Exception), ("1", pytest.fail.Exception)]
)
def test_without_a_server_it_says_so(
    required: str, ends: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> Path:
        raise ServerMissing("there is no nats-server program here")

    monkeypatch.setattr(testing, "find_server", none)

    def nothing(name: str) -> None:
        assert name == "testcontainers"

    monkeypatch.setattr(importlib.util, "find_spec", nothing)
    monkeypatch.setenv(testing.REQUIRE, required)
    background: Any = None
    with ExitStack() as stack, pytest.raises(ends, match="program here; nor is there testcont"):
        testing._own_server(background, background, stack)  # pyright: ignore[reportPrivateUsage]


async def test_a_clock_that_the_test_moves_too() -> None:
    clock = VirtualClock()
    async with memory(account, clock=clock) as cluster:
        assert cluster.clock is clock
