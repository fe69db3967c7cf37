"""No secret is ever shown.

Each is set to a marked value, errors are provoked, and all that commands, runners, logs and `repr`
say is searched for the mark.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import traceback
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.pretty import pretty_repr

from perdure.deploy.server import EmbeddedServer
from perdure.durable.connect import connect
from perdure.entities.settings import Settings
from perdure.streams.jetstream.session import open_session
from perdure.streams.port import Incompatible, Unreachable

from .commands import Ran, Shell
from .counter import Add, Counter, counter
from .granted import new_key

OwnServer = Callable[..., Awaitable[EmbeddedServer]]
MARK = "sekret0MARK"
"""In every secret, and in nothing else."""
COMMANDS = (
    "settings",
    "settings --json",
    "settings password token resume_secrets url",
    "check --type counter",
    "check --type counter --json",
    "ask counter a add --timeout 1",
    "tell counter a add --timeout 1 --json",
    "history counter a",
    "stats --json",
    "runners",
    "permissions --role runner --type counter",
    "permissions --type counter --production",
)


@contextmanager
def nobody() -> Generator[str]:
    """An address where no server is."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


class Searched:
    """All that was said."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        self._caplog = caplog
        self.said: list[str] = []

    def ran(self, ran: Ran) -> Ran:
        """What a command said."""
        self.said += [ran.out, ran.err]
        return ran

    def error(self, error: BaseException) -> None:
        """An error as a program may log it."""
        self.said += [repr(error), str(error), *traceback.format_exception(error)]

    def thing(self, thing: object) -> None:
        """As a debugger or rich shows it."""
        self.said += [repr(thing), str(thing), pretty_repr(thing)]

    def verdict(self, mark: str = MARK) -> None:
        """Fails where the mark is."""
        logged = [record.getMessage() for record in self._caplog.records]
        logged += [repr(vars(record)) for record in self._caplog.records]
        assert self.said
        found = [text for text in (*self.said, *logged) if mark in text]
        assert found == []


@pytest.fixture
def searched(caplog: pytest.LogCaptureFixture) -> Searched:
    return Searched(caplog)


SECRETS = {
    "a password": {"PERDURE_USER": "me", "PERDURE_PASSWORD": MARK},
    "a token": {"PERDURE_TOKEN": MARK},
}


@pytest.mark.parametrize("kind", SECRETS)
async def test_a_wrong_secret(
    own_server: OwnServer, tmp_path: Path, searched: Searched, kind: str
) -> None:
    """The server knows others: every command says no more than that."""
    right = "user: me, password: other" if kind == "a password" else "token: other"
    server = await own_server(extra=f"authorization {{ {right} }}")
    secrets = {**SECRETS[kind], "PERDURE_RESUME_SECRETS": f"{MARK}1,{MARK}2"}
    shell = Shell(tmp_path, PERDURE_URL=server.url, **secrets)
    for line in COMMANDS:
        ran = searched.ran(await asyncio.to_thread(shell.type, *line.split()))
        assert line.startswith(("settings", "permissions")) == (ran.code == 0), (line, ran)
    settings = Settings.load(environ={"PERDURE_URL": server.url, **secrets})
    assert MARK in (settings.password or settings.token or "")
    searched.thing(settings)
    with pytest.raises(Unreachable) as refused:
        await open_session(settings, name="test")
    searched.error(refused.value)
    searched.said.append(server.log_file.read_text())
    searched.verdict()


def test_no_server_and_a_password_in_the_url(tmp_path: Path, searched: Searched) -> None:
    with nobody() as where:
        shell = Shell(tmp_path, PERDURE_URL=f"nats://me:{MARK}@{where}")
        for line in COMMANDS:
            searched.ran(shell.type(*line.split()))
    for url in (f"nats://me:{MARK}@", f"http://me:{MARK}@host", f"nats://me:{MARK}@host:x"):
        assert searched.ran(shell.type("stats", "--url", url)).code == 2
    searched.verdict()


def files(folder: Path) -> Iterator[dict[str, str]]:
    """Settings and files that are wrong, with the mark in them."""
    bad = folder / "bad"
    bad.write_text(f"{MARK}\n")
    armour = "-----BEGIN NATS USER JWT-----\n{0}\n------END NATS USER JWT------\n"
    armour += "-----BEGIN USER NKEY SEED-----\n{0}\n------END USER NKEY SEED------\n"
    creds = folder / "bad.creds"
    creds.write_text(armour.format(MARK))
    context = folder / ".config" / "nats" / "context"
    context.mkdir(parents=True)
    (context / "broken.json").write_text(f'{{"user": "me", "password": "{MARK}"')
    (context / "odd.json").write_text(json.dumps({"password": MARK, "token": MARK}))
    (context / "jwt.json").write_text(json.dumps({"user_jwt": MARK, "user_seed": MARK}))
    yield {"PERDURE_NKEY_SEED": str(bad)}
    yield {"PERDURE_CREDENTIALS": str(bad)}
    yield {"PERDURE_CREDENTIALS": str(creds)}
    yield {"PERDURE_TLS_CA": str(bad)}
    yield {"PERDURE_TLS_CERT": str(bad), "PERDURE_TLS_KEY": str(bad)}
    yield {"PERDURE_PASSWORD": MARK}  # without a user
    yield {"PERDURE_TOKEN": MARK, "PERDURE_USER": "me"}
    yield {"PERDURE_RESUME_SECRETS": f'["{MARK}'}
    yield {"PERDURE_RESUME_SECRETS": f'["{MARK}", 17]'}
    for name in ("broken", "odd", "jwt"):
        yield {"NATS_CONTEXT": name}


async def test_wrong_files_and_settings(
    nats_server: EmbeddedServer, tmp_path: Path, searched: Searched
) -> None:
    for given in files(tmp_path):
        shell = Shell(tmp_path, PERDURE_URL=nats_server.url, **given)
        ran = searched.ran(await asyncio.to_thread(shell.type, "stats"))
        assert ran.code in (1, 2), (given, ran)
        assert ran.err.startswith("error: ")
        searched.ran(await asyncio.to_thread(shell.type, "settings"))
        try:
            settings = Settings.load(environ={"HOME": str(tmp_path), **given})
            searched.thing(settings)
            await open_session(settings, name="test")
        except (ValueError, Incompatible, Unreachable) as error:
            searched.error(error)
    for text in (f'password = "{MARK}', f'password = ["{MARK}"]\nuser = "me"\n'):
        (tmp_path / "perdure.toml").write_text(text)
        shell = Shell(tmp_path, PERDURE_URL=nats_server.url)
        assert searched.ran(await asyncio.to_thread(shell.type, "settings")).code == 2
    searched.verdict()


async def test_a_runner_that_logs_all(
    own_server: OwnServer, tmp_path: Path, searched: Searched
) -> None:
    """With the right secrets: it works, is asked for its statistics, loses the server and ends."""
    server = await own_server(extra=f"authorization {{ user: me, password: {MARK} }}")
    secrets = {"PERDURE_USER": "me", "PERDURE_PASSWORD": MARK, "PERDURE_SHARDS": "2"}
    secrets["PERDURE_RESUME_SECRETS"] = f"{MARK}1,{MARK}2"
    shell = Shell(tmp_path, PERDURE_URL=server.url, **secrets)
    with shell.running("run", "app", "--log-level", "debug", "--log-json", "--json") as process:
        ready = await asyncio.to_thread(process.ready)
        for line in ('ask counter a add {"n":1}', "stats --json", "runners", "check app"):
            ran = searched.ran(await asyncio.to_thread(shell.type, *line.split()))
            assert ran.code == 0, ran
        await server.restart(kill=True)
        ran = searched.ran(await asyncio.to_thread(shell.type, "ask", "counter", "a", "get_total"))
        assert ran.code == 0
        process.terminate()
        ended = searched.ran(await asyncio.to_thread(process.end))
    searched.said.append(json.dumps(ready))
    assert ended.code == 0
    assert '"action"' in ended.err
    settings = Settings.load(environ={"PERDURE_URL": server.url, **secrets})
    async with connect(serving=[counter], settings=settings) as cluster:
        await cluster.at(Counter, "b").ask(Add(1))
        for thing in (cluster, cluster.at(Counter, "b"), settings):
            searched.thing(thing)
    searched.said.append(server.log_file.read_text())
    searched.verdict()


async def test_a_seed_and_its_files(
    own_server: OwnServer, tmp_path: Path, searched: Searched
) -> None:
    """A seed that works, and that isn't known: nothing of it but its file's name is told."""
    known, stranger = new_key(), new_key()
    user = f"{{ nkey: {known.public_key.decode()} }}"
    server = await own_server(extra=f"authorization {{ users: [{user}] }}")
    for key, code in ((known, 0), (stranger, 1)):
        file = tmp_path / f"{code}.nk"
        file.write_bytes(bytes(key.seed))
        os.chmod(file, 0o600)
        shell = Shell(tmp_path, PERDURE_URL=server.url, PERDURE_NKEY_SEED=str(file))
        ran = searched.ran(await asyncio.to_thread(shell.type, "dead", "list"))
        assert ran.code in (0, 1)
        searched.ran(await asyncio.to_thread(shell.type, "settings"))
    searched.said.append(server.log_file.read_text())
    for key in (known, stranger):
        searched.verdict(key.seed.decode())
