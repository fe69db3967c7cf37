"""`perdure gateway`: as a process, and what it refuses at the command line."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

import httpx
import pytest

from perdure.deploy.server import EmbeddedServer

from .commands import Shell


async def test_it_serves_what_runners_host_until_sigterm(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    shell = Shell(tmp_path, PERDURE_URL=nats_server.url, PERDURE_NAMESPACE=namespace)
    given = {"PERDURE_SHARDS": "1", "PERDURE_COMMAND_STREAM_BYTES": str(2**24)}
    with (
        shell.at(**given).running("run", "app", "--json") as runner,
        shell.running("gateway", "app", "--port", "0", "--json", "--log-json") as process,
    ):
        await asyncio.to_thread(runner.ready)
        ready = await asyncio.to_thread(process.ready)
        assert ready["entities"] == ["counter"]
        assert ready["http"].startswith("http://127.0.0.1:")
        async with httpx.AsyncClient(base_url=ready["http"], trust_env=False) as http:
            answer = await http.post("/entities/counter/a/add", json={"n": 2})
            assert (answer.status_code, answer.json()) == (200, 2)
            await http.post("/resume/lwSECRET", json=1)
            await http.get("/entities/counter/a/get_total?wait=5&n=secret")
        process.terminate()
        ended = await asyncio.to_thread(process.end)
    assert ended.code == 0
    logged = [json.loads(line) for line in ended.err.splitlines()]
    told = {line["message"] for line in logged if line.get("action") == "http.request"}
    assert "POST /entities/counter/a/add 200" in told
    assert "POST /resume/(token) 422" in told
    assert "secret" not in ended.err.lower()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--port", "70000"), "--port 70000; next: give 0 to 65535"),
        (("--root-path", "bank/"), "--root-path bank/; next: write it as /bank"),
    ],
)
def test_what_it_does_not_understand(
    tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    ran = Shell(tmp_path).type("gateway", "app", *arguments)
    assert (ran.code, ran.out, ran.err) == (2, "", f"error: {said}\n")


def test_a_port_in_use_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ran = Shell(tmp_path).run("gateway", "app", "--port", port)
    assert ran.code == 1
    assert f"can't listen on 127.0.0.1:{port}: Address already in use" in ran.err


def test_without_its_extra_it_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(name: str) -> None:
        return None

    monkeypatch.setattr("importlib.util.find_spec", find)
    ran = Shell(tmp_path).type("gateway", "app")
    assert (ran.code, ran.out) == (1, "")
    why = "the gateway needs the package starlette; next: pip install 'perdure[http]'"
    assert ran.err == f"error: {why}\n"
