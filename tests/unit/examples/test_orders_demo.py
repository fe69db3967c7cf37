"""The demo of the orders example, as a user runs it, and the programs beside it."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import desk
import pytest
import pytest_asyncio
from books import contradictions, read
from order import NotApproved, Order, Place
from shop import ENTITIES
from stock import Receive, Stock

from perdure import Cluster, connect
from perdure.deploy.server import EmbeddedServer
from tests.support.lines import read_line
from tests.support.server import plain_client, settings_for

from .conftest import ORDERS

LIMIT_S = 120
CLI = "import sys; from perdure.deploy.cli import main; sys.exit(main())"
LARGE = Place("ann", "good", {"lamp": 1}, 200_00)

Hosted = tuple[EmbeddedServer, str, Cluster]


def command(program: str, *arguments: object) -> list[str]:
    return [sys.executable, str(ORDERS / program), *map(str, arguments)]


def run(program: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(program, *arguments),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        env=os.environ | environment,
    )


def test_the_demo_ends_with_books_that_balance(tmp_path: Path) -> None:
    done = run("demo.py", "--store", tmp_path / "store")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for line in (
        "  o-1 a small order: 98.00",
        "  o-2 a card without money: refused, declined(why='insufficient funds')",
        "  o-3 more than there is: refused, sold_out(sku='table', available=1)",
        "  o-4 the provider's answer is lost: 49.00",
        "  o-5 the provider doesn't answer: refused, no_provider()",
        "kill -9: the runner ended with -9",
        "  o-7 to be approved: 380.00",
        "  o-8 to be refused: refused, not_approved(by='Kim')",
        "  o-9 to be taken back: refused, withdrawn()",
        "  o-6 is cancelled: 49.00 back",
        "lamp: 12 came in, 3 sold, 9 there",
        "the provider has 527.00",
        "the books balance",
    ):
        assert line in lines
    assert (tmp_path / "store" / "outside.db").exists()
    again = run("demo.py", "--store", tmp_path / "store")
    assert again.returncode == 2
    assert "isn't empty" in again.stderr


def test_the_demo_in_json() -> None:
    done = run("demo.py", "--json")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    found = json.loads(line)
    assert (found["income"], found["contradictions"]) == (527_00, [])
    ended = ["confirmed", "declined", "sold_out", "confirmed", "no_provider", "cancelled"]
    ended += ["confirmed", "not_approved", "cancelled"]
    assert found["orders"] == {f"o-{n}": how for n, how in enumerate(ended, 1)}


def test_help_teaches() -> None:
    said = run("demo.py", "--help").stdout
    for word in ("--store", "--json", "kill -9", "approve", "Exit codes"):
        assert word in said
    said = run("approve.py", "--help").stdout
    for word in ("--refuse", "--by", "PERDURE_URL", "ORDERS_OUTSIDE", "Exit codes"):
        assert word in said


def test_a_demo_that_is_stopped_leaves_no_process(tmp_path: Path) -> None:
    with subprocess.Popen(
        command("demo.py", "--store", tmp_path / "store"), stdout=subprocess.PIPE, text=True
    ) as running:
        try:
            first = read_line(running, running.stdout)
            running.send_signal(signal.SIGTERM)
            running.communicate(timeout=LIMIT_S)
        finally:
            running.kill()
    assert running.returncode == 130
    runner = first.partition("process ")[2].partition(",")[0]
    assert not Path(f"/proc/{runner}").exists()


# -- approving from outside ---------------------------------------------------------------------
@pytest_asyncio.fixture
async def waiting(
    nats_server: EmbeddedServer, namespace: str, outside_file: Path
) -> AsyncIterator[Hosted]:
    """A shop on a server, where a large order waits on the desk."""
    settings = settings_for(nats_server, namespace)
    async with connect(serving=ENTITIES, settings=settings) as cluster:
        await cluster.at(Stock, "lamp").ask(Receive(3))
        await cluster.at(Order, "o-1").tell(LARGE, key="k")
        while not desk.requests():  # bounded by the test's own time
            assert (await cluster.at(Order, "o-1").status()).version <= 1
        yield nats_server, namespace, cluster


async def test_a_person_approves_by_the_program(waiting: Hosted, outside_file: Path) -> None:
    server, namespace, cluster = waiting
    environment = {"PERDURE_URL": server.url, "PERDURE_NAMESPACE": namespace}
    environment["ORDERS_OUTSIDE"] = str(outside_file)
    listed = await asyncio.to_thread(run, "approve.py", **environment)
    assert listed.stdout.split()[:2] == ["o-1", "200.00"]
    other = await asyncio.to_thread(run, "approve.py", "o-2", **environment)
    assert (other.returncode, other.stderr) == (1, "no request for o-2 lies on the desk\n")
    done = await asyncio.to_thread(run, "approve.py", "o-1", **environment)
    assert done.returncode == 0, done.stderr
    assert await cluster.at(Order, "o-1").result(Place, "k") == 200_00
    assert contradictions(await read(cluster), {"lamp": 3}) == []


async def test_any_program_approves_by_plain_nats(waiting: Hosted) -> None:
    """What the README shows, without perdure."""
    server, namespace, cluster = waiting
    value = {"approved": True, "by": "me"}
    payload = {"type": "$resume", "token": desk.requests()["o-1"].token, "value": value}
    client = await plain_client(server)
    try:
        await client.publish(f"{namespace}.to.order.o-1", json.dumps(payload).encode())
        await client.flush()
    finally:
        await client.close()
    assert await cluster.at(Order, "o-1").result(Place, "k") == 200_00


async def test_the_command_line_places_cancels_and_decides(waiting: Hosted) -> None:
    server, namespace, cluster = waiting

    environment = {"PERDURE_URL": server.url, "PERDURE_NAMESPACE": namespace}

    async def perdure(*arguments: str) -> str:
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", CLI, *arguments],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            env=os.environ | environment,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    placed = {"customer": "bo", "card": "good", "lines": {"lamp": 1}, "cents": 4900}
    assert "4900" in await perdure("ask", "order", "o-2", "place", json.dumps(placed))
    assert "4900" in await perdure("ask", "order", "o-2", "cancel")
    assert (await cluster.at(Order, "o-2").state()).status == "cancelled"
    token = desk.requests()["o-1"].token
    resume = {"token": token, "value": {"approved": False, "by": "me"}}
    await perdure("tell", "order", "o-1", "$resume", json.dumps(resume))
    with pytest.raises(NotApproved):
        await cluster.at(Order, "o-1").result(Place, "k")


def test_demo_is_only_a_way_in() -> None:
    """It shares its name with the other example's: so it must hold no code to be tested."""
    tree = ast.parse((ORDERS / "demo.py").read_text())
    assert not any(isinstance(n, (ast.FunctionDef, ast.ClassDef)) for n in ast.walk(tree))
