"""The README's entity on a NATS server in a container: both ways in, any client, crashes."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from perdure import Settings, connect

from .container import NatsServer
from .plain import plain

PROGRAM = Path(__file__).resolve().parents[2] / "examples" / "bank.py"
LOG = "PERDURE_LOG_account"


@pytest.fixture
def bank(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The README's program, as a module."""
    spec = importlib.util.spec_from_file_location("integration_bank", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "integration_bank", module)
    spec.loader.exec_module(module)
    return module


@asynccontextmanager
async def hosted(server: NatsServer, bank: Any) -> AsyncGenerator[Any]:
    """A runner in this process, and a client beside it."""
    settings = Settings(url=server.url)
    async with connect(settings=settings, serving=[bank.account]) as cluster:
        yield cluster


async def request(client: Any, subject: str, body: object, **headers: str) -> dict[str, Any]:
    """What a plain program gets, headers with `_` for `-`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = await client.request(
        subject, json.dumps(body).encode(), timeout=20, headers=named or None
    )
    decoded: dict[str, Any] = json.loads(answer.data)
    return decoded


async def stored(client: Any, stream: str) -> int:
    """How many messages a stream holds."""
    return int((await client.jetstream().stream_info(stream)).state.messages)


async def test_asks_and_tells(server: NatsServer, bank: Any) -> None:
    async with hosted(server, bank) as cluster:
        a1 = cluster.at(bank.Account, "a-1")
        assert await a1.ask(bank.Deposit(700)) == 700
        assert await a1.ask(bank.Withdraw(500), key="order-17") == 200
        assert await a1.ask(bank.Withdraw(500), key="order-17") == 200
        with pytest.raises(bank.InsufficientFunds) as refused:
            await a1.ask(bank.Withdraw(201), key="order-18")
        assert refused.value.balance == 200

        key = await a1.tell(bank.Deposit(1), key="pay-1")
        assert await a1.result(bank.Deposit, key) == 201
        assert await a1.ask(bank.Deposit(1), key="pay-1") == 201, "one key by both ways"
        told = [await a1.tell(bank.Deposit(10)) for _ in range(10)]
        assert await a1.ask(bank.Deposit(0)) == 301, "an ask sees the tells before it"
        assert [await a1.result(bank.Deposit, key) for key in told] == list(range(211, 302, 10))
        assert (await a1.state()).balance == 301


async def test_a_plain_client(server: NatsServer, bank: Any) -> None:
    async with hosted(server, bank):
        client = await plain(server.url)
        ask = "perdure.ask.account.b-1"
        answer = await request(client, ask, {"type": "deposit", "cents": 5}, Idempotency_Key="k")
        assert (answer["reply"], answer["version"]) == (5, 1)
        again = await request(client, ask, {"cents": 5, "type": "deposit"}, Idempotency_Key="k")
        assert again == answer
        answer = await request(client, ask, {"type": "withdraw", "cents": 6})
        assert answer["failure"] == {"type": "insufficient_funds", "balance": 5}
        for body in ({"type": "rob"}, {"type": "deposit"}, {"type": "deposit", "cents": "5"}):
            error = (await request(client, ask, body))["error"]
            assert error["type"] == "MalformedMessage"
            assert error["may_have_taken_effect"] is False
        reused = await request(client, ask, {"type": "deposit", "cents": 6}, Idempotency_Key="k")
        assert reused["error"]["type"] == "MalformedMessage"

        info = await request(client, "perdure.info.account", {})
        assert (info["entity"], info["shards"]) == ("account", 16)
        by_shard = f"perdure.ask.account.{info['generation']}.8.with=20space"
        assert (await request(client, by_shard, {"type": "deposit", "cents": 1}))["reply"] == 1
        await client.close()


async def test_a_plain_publisher(server: NatsServer, bank: Any) -> None:
    async with hosted(server, bank):
        client = await plain(server.url)
        inbox = client.new_inbox()
        answers = await client.subscribe(inbox)
        to = "perdure.to.account.c-1"
        ack = await request(
            client,
            to,
            {"type": "deposit", "cents": 7},
            Idempotency_Key="pay-7",
            Perdure_Reply_To=inbox,
        )
        assert ack == {"stream": "PERDURE_CMD_account", "seq": 1}
        answer = json.loads((await answers.next_msg(timeout=20)).data)
        assert answer["reply"] == 7
        await client.publish(to, b'{"type": "deposit", "cents": 3}')
        await client.publish(to, b"not json")
        asked = await request(
            client,
            "perdure.ask.account.c-1",
            {"type": "deposit", "cents": 7},
            Idempotency_Key="pay-7",
        )
        assert asked["reply"] == 7, "the same key by the other way"
        await until_empty(client, "PERDURE_CMD_account")
        balance = await request(client, "perdure.ask.account.c-1", {"type": "deposit", "cents": 0})
        assert balance["reply"] == 10
        assert await stored(client, "PERDURE_DEAD") == 1
        await client.close()


async def until_empty(client: Any, stream: str) -> None:
    """Wait until everything in a work queue was acknowledged."""
    async with asyncio.timeout(20):
        while await stored(client, stream):  # noqa: ASYNC110 (the server tells only when asked)
            await asyncio.sleep(0.05)


async def test_the_server_is_killed_under_a_runner(server: NatsServer, bank: Any) -> None:
    async with hosted(server, bank) as cluster:
        a1 = cluster.at(bank.Account, "a-1")
        replies = [await a1.ask(bank.Deposit(1), key=f"d-{n}") for n in range(20)]
        await asyncio.to_thread(server.kill)
        late = asyncio.create_task(a1.ask(bank.Deposit(1), key="d-20"))
        await asyncio.to_thread(server.start_again)
        replies.append(await late)
        assert replies == list(range(1, 22))
        repeated = [await a1.ask(bank.Deposit(1), key=f"d-{n}") for n in range(21)]
        assert repeated == replies
        key = await a1.tell(bank.Deposit(1))
        assert await a1.result(bank.Deposit, key) == 22


async def test_another_container_and_another_runner_go_on(server: NatsServer, bank: Any) -> None:
    async with hosted(server, bank) as cluster:
        a1 = cluster.at(bank.Account, "a-1")
        replies = [await a1.ask(bank.Deposit(1), key=f"d-{n}") for n in range(20)]
    client = await plain(server.url)
    for n in range(5):
        await request(
            client,
            "perdure.to.account.a-1",
            {"type": "deposit", "cents": 1},
            Idempotency_Key=f"t-{n}",
        )
    await client.close()

    await asyncio.to_thread(server.remove)
    await asyncio.to_thread(server.start)

    async with hosted(server, bank) as cluster:
        a1 = cluster.at(bank.Account, "a-1")
        assert [await a1.result(bank.Deposit, f"t-{n}") for n in range(5)] == [21, 22, 23, 24, 25]
        client = await plain(server.url)
        commits = await stored(client, LOG)
        assert [await a1.ask(bank.Deposit(1), key=f"d-{n}") for n in range(20)] == replies
        assert await stored(client, LOG) == commits, "repeats write nothing"
        await client.close()
        assert (await a1.state(version=20)).balance == 20
