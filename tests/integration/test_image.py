"""perdure's image: built, run without rights, asked, and drained under load."""

from __future__ import annotations

import asyncio
import importlib.metadata
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import docker  # type: ignore[import-untyped]
import pytest
from docker.errors import APIError  # type: ignore[import-untyped]

from perdure import connect
from perdure.containers import PerdureContainer

from .container import NatsServer
from .crowd import Crowd
from .image import BASE_TAG, IMAGE_TAG, Container
from .test_entity import bank as bank

CALLERS = 16
ENOUGH = 200
"""Answers before the stop, and again after it."""
COUNTED = b'\nperdure_commands_total{result="reply",tag="",type="account",way="ask"} 1.0'
COUNTED_S = 10.0
"""How long that may take: a runner looks at what it counts four times a second at most."""
DRAIN_S = 30.0
"""How long a drained runner may take: `drain_timeout` and what is around it, on a busy machine."""


@pytest.fixture
def start(server: NatsServer) -> Iterator[Callable[..., Container]]:
    """Starts containers beside the server; they are removed."""
    started: list[Container] = []

    def start(image: str, *arguments: str) -> Container:
        started.append(Container(image, arguments, server.inner_url))
        return started[-1]

    yield start
    for container in started:
        container.remove()


def test_the_image(app: str) -> None:
    engine: Any = docker.from_env()
    config = engine.images.get(app).attrs["Config"]
    assert config["User"] == "10001:10001"
    assert config["StopSignal"] == "SIGTERM"
    assert config["Entrypoint"] == ["/opt/perdure/bin/perdure"]
    labels = config["Labels"]
    prefix = "org.opencontainers.image"
    assert labels[f"{prefix}.version"] == importlib.metadata.version("perdure")
    assert labels[f"{prefix}.revision"] == "f" * 40
    assert labels[f"{prefix}.base.name"] == BASE_TAG
    shell = engine.containers.create(app, ["-c", "true"], entrypoint="sh")
    with pytest.raises(APIError, match="not found"):
        shell.start()
    shell.remove(force=True)
    engine.close()


async def test_a_runner_without_rights_answers_and_drains_under_load(
    app: str, start: Callable[..., Container], server: NatsServer, bank: Any
) -> None:
    first = start(app, "run", "bank", "--json")
    await first.ready()
    assert first.run("import os; print(os.getuid(), os.getgid())") == (0, "10001 10001\n")
    code, said = first.run("open('/app/x', 'w')")
    assert code == 1
    assert "Read-only file system" in said
    code, said = first.run("import pip")
    assert "No module named 'pip'" in said, "of what built it nothing is left"

    asked = start(IMAGE_TAG, "ask", "account", "a-1", "deposit", '{"cents": 700}')
    assert await asked.ended(60) == 0, asked.logs()
    assert "700" in asked.logs()

    second = start(app, "run", "bank", "--json")
    await second.ready()
    async with connect(server.url) as cluster:
        crowd = Crowd(cluster, bank)
        async with asyncio.TaskGroup() as group:
            calling = [group.create_task(crowd.call(n)) for n in range(CALLERS)]
            await crowd.more(ENOUGH)
            await first.terminate()
            assert await first.ended(DRAIN_S) == 0, first.logs()
            await crowd.more(ENOUGH)
            crowd.enough = True
            await asyncio.wait(calling)
        assert crowd.answers >= 2 * ENOUGH
        await crowd.balanced()
    await second.terminate()
    assert await second.ended(DRAIN_S) == 0, second.logs()


async def test_a_runner_by_testcontainers(app: str, server: NatsServer, bank: Any) -> None:
    """Rights and file system as the manifests have them; probes and metrics from outside."""
    hardened = {"read_only": True, "cap_drop": ["ALL"]}
    with PerdureContainer(app, "bank", url=server.inner_url, **hardened) as runner:
        async with connect(server.url) as cluster:
            assert await cluster.at(bank.Account, "a-1").ask(bank.Deposit(5)) == 5
        async with asyncio.timeout(COUNTED_S):
            while COUNTED not in await asyncio.to_thread(  # noqa: ASYNC110 (another process)
                read, runner.health_url
            ):
                await asyncio.sleep(0.1)


def read(health_url: str) -> bytes:
    with urllib.request.urlopen(f"{health_url}/metrics", timeout=10) as answer:
        return bytes(answer.read())
