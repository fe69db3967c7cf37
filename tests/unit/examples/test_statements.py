"""The FastStream subscriber of the examples: each event once on the statement, whatever dies."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable, Generator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import pytest
from bank import Account, Deposit, Deposited, Withdraw, account
from statements import Line, id_of, lines_of, store

from perdure import Cluster, Settings, connect
from perdure.deploy.server import EmbeddedServer
from perdure.streams.subjects import escape

from ...support.server import plain_client, until

OwnServer = Callable[..., Awaitable[EmbeddedServer]]
EXAMPLES = Path(__file__).parents[3] / "examples"
IDS = ("a-1", "ann@example.com")
SUBJECT = "perdure.log.account.ann=40example=2Ecom"
TIME = "2026-11-24T10:00:00Z"
COMMIT = {
    "version": 7,
    "time": TIME,
    "outcomes": [
        {"name": "k", "events": [{"type": "deposited", "cents": 5}], "reply": 5},
        {"name": "l", "failure": {"type": "insufficient_funds", "balance": 5}},
        {"name": "m", "events": [{"type": "frozen", "why": "a new one"}], "reply": 3},
        {"name": "n", "events": [{"type": "withdrawn", "cents": 2}], "reply": 3},
    ],
}


@contextmanager
def subscriber(server: EmbeddedServer, folder: Path) -> Generator[subprocess.Popen[bytes]]:
    """The program, as its docstring says to run it."""
    place = {"NATS_URL": server.url, "STATEMENTS": str(folder / "statements.db")}
    with (folder / "log").open("ab") as log:
        command = [sys.executable, "-m", "faststream", "run", "statements:app"]
        program = subprocess.Popen(
            command, cwd=EXAMPLES, env={**os.environ, **place}, stdout=log, stderr=log
        )
    try:
        yield program
    finally:
        program.kill()
        program.wait()


def written(folder: Path) -> list[Line]:
    file = folder / "statements.db"
    if not file.exists():
        return []
    with closing(sqlite3.connect(file, timeout=30)) as db:
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'lines'").fetchall():
            return []
        rows = db.execute("SELECT * FROM lines ORDER BY account, version").fetchall()
        return [Line(*row) for row in rows]


def brief(folder: Path) -> list[tuple[str, int, int]]:
    return [(line.account, line.version, line.cents) for line in written(folder)]


async def happened(cluster: Cluster) -> list[tuple[str, int, int]]:
    """What perdure itself reads of the logs: account, version and cents of each event."""
    found: list[tuple[str, int, int]] = []
    for id in IDS:
        async for commit in cluster.history(account, id):
            for event in commit.events:
                cents = event.cents if isinstance(event, Deposited) else -event.cents
                found.append((id, commit.version, cents))
    return found


async def test_each_event_is_one_line(own_server: OwnServer, tmp_path: Path) -> None:
    """Killed without a word, run twice at once, and beside a message that is no commit."""
    server = await own_server()
    settings = Settings(url=server.url, shards=2, command_stream_bytes=2**24)
    async with connect(serving=[account], settings=settings) as cluster:
        first, second = (cluster.at(Account, id) for id in IDS)

        async def all_written() -> None:
            expected = await happened(cluster)
            await until(lambda: brief(tmp_path) == expected, "the last line")

        async def more() -> None:
            for number in range(20):
                assert await first.ask(Deposit(100 + number))
                await second.ask(Deposit(7))
                await first.ask(Withdraw(3))

        await more()
        with subscriber(server, tmp_path) as program:
            await all_written()
            await more()
            program.send_signal(signal.SIGKILL)
        await more()
        client = await plain_client(server)
        await client.publish("perdure.log.account.a-1", b'{"version":999,"outcomes":[]}')
        await client.close()
        with subscriber(server, tmp_path), subscriber(server, tmp_path) as program:
            await more()
            await all_written()
            program.send_signal(signal.SIGINT)
            assert program.wait(20) == 0
    assert len(written(tmp_path)) == 4 * 60
    assert "not a commit" in (tmp_path / "log").read_text()


def test_the_lines_of_a_commit() -> None:
    lines = [
        Line("ann@example.com", 5, TIME, 5),
        Line("ann@example.com", 7, TIME, -2),
    ]
    for encoder in (msgspec.json, msgspec.msgpack):
        assert list(lines_of(SUBJECT, encoder.encode(COMMIT))) == lines
    bad = {"version": 1, "time": TIME, "outcomes": [{"events": [{"type": "deposited"}]}]}
    for broken in ({"version": 1}, bad):
        with pytest.raises(msgspec.DecodeError):
            list(lines_of(SUBJECT, msgspec.json.encode(broken)))


def test_the_same_lines_twice_are_there_once(tmp_path: Path) -> None:
    file = str(tmp_path / "x.db")
    lines = list(lines_of(SUBJECT, msgspec.json.encode(COMMIT)))
    assert (store(file, lines), store(file, lines)) == (2, 0)


@pytest.mark.parametrize("id", ["a-1", "user@example.com", "Zürich", "\U0001f600", "=", "a.b *>"])
def test_an_id_of_its_token(id: str) -> None:
    assert id_of(escape(id)) == id
