"""`perdure run`: a runner as a process of its own."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from perdure.deploy.server import EmbeddedServer
from perdure.entities.clock import SystemClock
from perdure.streams.asks import TypeInfo, encode_info
from perdure.streams.subjects import Subjects

from .commands import Shell, plain_client
from .probing import free_ports, probe

OwnServer = Callable[..., Awaitable[EmbeddedServer]]


async def test_it_serves_until_sigterm_and_hands_over(
    own_server: OwnServer, tmp_path: Path
) -> None:
    server = await own_server()
    shell = Shell(tmp_path, PERDURE_NAMESPACE="other", PERDURE_HEALTH_PORT="1")
    port = free_ports(1)
    given = ("--url", server.url, "--health-port", str(port), "--json", "--log-json")
    for first in (True, False):
        with shell.running("run", "app", *given) as process:
            ready = process.ready()
            assert (await probe(port, "/readyz")).failed == {}
            assert ready["url"] == server.url
            ran = await asyncio.to_thread(
                shell.type,
                "ask",
                "counter",
                "a",
                "add",
                '{"n": 1}',
                "--key",
                "k",
                "--url",
                server.url,
            )
            assert (ran.code, ran.out) == (0, "1\n")
            total = await asyncio.to_thread(
                shell.type, "ask", "counter", "a", "get_total", "--url", server.url
            )
            assert total.out == "1\n"
            process.terminate() if first else process.interrupt()
            ended = process.end()
        assert ended.code == 0
        logged = [json.loads(line) for line in ended.err.splitlines()]
        assert {"runner.start", "drain", "runner.stop"} <= {line["action"] for line in logged}
        assert all("error" not in line["level"] for line in logged)


@pytest.mark.parametrize("key", [(), ("--key", "k-1"), ("--durable",)])
async def test_ctrl_c_on_an_ask_tells_how_to_look_what_came_of_it(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path, key: tuple[str, ...]
) -> None:
    asked = asyncio.Event()

    async def tell_info(message: Any) -> None:
        now_ms = SystemClock().now_ns() // 1_000_000
        await message.respond(encode_info(TypeInfo("counter", 1, 4, "silent", now_ms)))

    async def hear(_message: Any) -> None:
        asked.set()

    client, subjects = await plain_client(nats_server.url), Subjects(namespace)
    await client.subscribe(subjects.info("counter"), cb=tell_info)
    await client.subscribe(f"{subjects.ask('counter', '*')}.*.*", cb=hear)
    await client.subscribe(subjects.to("counter", "*"), cb=hear)
    await client.flush()
    shell = Shell(tmp_path, PERDURE_URL=nats_server.url, PERDURE_NAMESPACE=namespace)
    with shell.running("ask", "counter", "a 1", "add", '{"n": 1}', *key) as process:
        await asyncio.wait_for(asked.wait(), 20)
        process.interrupt()
        ended = await asyncio.to_thread(process.end)
    await client.close()
    made = "k-1" if "--key" in key else r"[mt]-\S{20,}"
    told = "interrupted; a command may have taken effect; next: perdure result counter 'a 1' "
    assert ended.code == 1
    assert re.fullmatch(f"error: {told}{made}\n", ended.err)


def test_without_a_server(tmp_path: Path) -> None:
    ran = Shell(tmp_path).run("run", "app", "--url", "nats://127.0.0.1:1")
    assert ran.code == 1
    last = ran.err.splitlines()[-1]
    assert last.startswith("error: RpcClientError: ")
    assert "can't connect to nats://127.0.0.1:1" in last
    assert last.endswith("next: start a server (perdure dev APP), or correct --url")


@pytest.mark.parametrize("command", ["run", "dev", "check"])
def test_a_wrong_app_is_a_usage_error(tmp_path: Path, command: str) -> None:
    ran = Shell(tmp_path).run(command, "nope")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: no module 'nope', in ")
    ran = Shell(tmp_path).run(command, "nope.py", "--json")
    assert ran.code == 2
    assert ran.lines == [
        {
            "error": {
                "type": "usage",
                "message": "no file nope.py",
                "next": "give the path of a Python file, or a module's name",
            }
        }
    ]


def test_a_bug_in_the_app_shows_its_traceback_and_one_line(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    (tmp_path / "bug.py").write_text("def f():\n    return 1 / 0\n\n\nf()\n")
    ran = shell.run("run", "bug.py", "--json")
    assert ran.code == 1
    assert ran.lines[0]["error"]["type"] == "failed"
    assert ran.err.startswith("Traceback (most recent call last):\n")
    assert ran.err.endswith("ZeroDivisionError: division by zero\n")


def test_a_url_that_it_does_not_know_is_a_usage_error(tmp_path: Path) -> None:
    ran = Shell(tmp_path).run("run", "app", "--url", "http://127.0.0.1:1")
    assert ran.code == 2
    assert ran.err.startswith("error: settings: argument: url: http:// isn't one of nats://, ")
    assert ran.err.endswith("; next: correct it where the line says\n")
