"""What docs/wire.md promises to a program with nothing but a NATS client, on a real server.

No container is needed here. The runner is in this process, but the client knows nothing of it: it
uses nats-py's `request`, `publish` and `subscribe`, and JSON.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio

from perdure import Entity, Settings, connect
from perdure.deploy.server import EmbeddedServer
from perdure.streams.subjects import Subjects, escape

from ..bank import Account, decide, evolve
from .plain import plain

account = Entity(Account(), decide, evolve)  # the tests' bank without its flow
DEPOSIT = {"type": "deposit", "cents": 5}


def balance(cents: int) -> dict[str, Any]:
    """The reply of the bank's commands, as JSON."""
    return {"type": "balance", "cents": cents}


class Plain:
    """A plain client of one namespace."""

    def __init__(self, nc: Any, namespace: str) -> None:
        self.nc = nc
        self.subjects = Subjects(namespace)

    async def ask(self, id: str, body: object, **headers: str) -> dict[str, Any]:
        """The answer to an ask."""
        return await self.request(self.subjects.ask("account", escape(id)), body, **headers)

    async def tell(self, id: str, body: object, **headers: str) -> dict[str, Any]:
        """The server's acknowledgement of a tell."""
        return await self.request(self.subjects.to("account", escape(id)), body, **headers)

    async def request(self, subject: str, body: object, **headers: str) -> dict[str, Any]:
        """The answer to a request; bytes are sent as they are."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        message = await self.nc.request(subject, data, timeout=10, headers=named or None)
        answer: dict[str, Any] = json.loads(message.data)
        return answer

    async def commits(self) -> int:
        """How many commits the type's log holds."""
        stream = self.subjects.log_stream("account")
        return int((await self.nc.jetstream().stream_info(stream)).state.messages)

    async def dead(self) -> list[dict[str, Any]]:
        """All dead letters, once nothing waits any more."""
        stream = self.nc.jetstream()
        async with asyncio.timeout(20):
            commands = self.subjects.command_stream("account")
            while (await stream.stream_info(commands)).state.messages:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        dead = (await stream.stream_info(self.subjects.dead_stream)).state
        numbers = range(max(1, dead.first_seq), dead.last_seq + 1)
        found = [await stream.get_msg(self.subjects.dead_stream, seq) for seq in numbers]
        return [json.loads(message.data) for message in found]


@pytest_asyncio.fixture
async def client(own_server: Callable[[], Awaitable[EmbeddedServer]]) -> AsyncIterator[Plain]:
    """A runner of the bank, and a plain client, on a server of their own."""
    server = await own_server()
    settings = Settings(url=server.url, namespace="plain", shards=4)
    async with connect(settings=settings, serving=[account]):
        nc = await plain(server.url)
        yield Plain(nc, settings.namespace)
        await nc.close()


async def test_reply_failure_and_key(client: Plain) -> None:
    first = await client.ask("a-1", DEPOSIT, Idempotency_Key="k")
    assert first == {"reply": balance(5), "seq": first["seq"], "version": 1}
    assert await client.ask("a-1", DEPOSIT, Idempotency_Key="k") == first
    assert await client.ask("a-1", {"cents": 5, "type": "deposit"}, Idempotency_Key="k") == first
    failure = await client.ask("a-1", {"type": "withdraw", "cents": 6}, Idempotency_Key="w")
    assert failure["failure"] == {"type": "insufficient_funds", "balance": 5, "wanted": 6}
    assert (
        await client.ask("a-1", {"type": "withdraw", "cents": 6}, Idempotency_Key="w") == failure
    )
    assert await client.commits() == 2


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"", {}),
        (b"not json", {}),
        (b"\xff\xfe", {}),
        (b"{}", {}),
        (b"[]", {}),
        (b'[2,"ask",null]', {}),
        (b'[1,"tell",{"type":"deposit","cents":5}]', {}),
        (b'[1,"result",null]', {}),
        (b"[" * 5_000, {}),
        (b'{"type":"deposit","cents":' + b"[" * 5_000, {}),
        ({"type": "rob", "cents": 5}, {}),
        ({"type": "deposit"}, {}),
        ({"type": "deposit", "cents": "5"}, {}),
        ({"type": "deposit", "cents": 5, "more": 1}, {}),
        ({"type": "deposit", "cents": 5, "more": "x" * 600_000}, {}),
        (DEPOSIT, {"Idempotency_Key": "a b"}),
        (DEPOSIT, {"Idempotency_Key": "k" * 256}),
        (DEPOSIT, {"Perdure_Deadline": "tomorrow"}),
        (DEPOSIT, {"Nats_Msg_Id": "x"}),
    ],
)
async def test_bad_input_is_malformed_and_writes_nothing(
    client: Plain, body: object, headers: dict[str, str]
) -> None:
    error = (await client.ask("a-1", body, **headers))["error"]
    assert error["type"] == "MalformedMessage"
    assert error["may_have_taken_effect"] is False
    assert error["address"] == "account/a-1"
    assert await client.commits() == 0
    assert (await client.ask("a-1", DEPOSIT))["reply"] == balance(5), "it goes on"


async def test_another_payload_with_the_same_key_is_refused(client: Plain) -> None:
    await client.ask("a-1", DEPOSIT, Idempotency_Key="k")
    error = (await client.ask("a-1", {"type": "deposit", "cents": 6}, Idempotency_Key="k"))[
        "error"
    ]
    assert (error["type"], error["key"]) == ("MalformedMessage", "k")
    other = await client.ask("a-2", {"type": "deposit", "cents": 6}, Idempotency_Key="k")
    assert other["reply"] == balance(6), "a key belongs to one entity"
    assert await client.commits() == 2


async def test_a_token_that_is_not_ours_is_refused(client: Plain) -> None:
    for token in ("a=2e", "=61", "caf=E9", "x" * 800):
        subject = client.subjects.ask("account", token)
        error = (await client.request(subject, DEPOSIT))["error"]
        assert error["type"] == "MalformedMessage"
    assert await client.commits() == 0


async def test_strange_ids_are_different_entities(client: Plain) -> None:
    for id in ("a.b", "a b", "*", ">", "é", "\0", "=", "x" * 255):
        assert (await client.ask(id, DEPOSIT))["reply"] == balance(5)
        stored = await client.nc.jetstream().get_last_msg(
            client.subjects.log_stream("account"), client.subjects.log("account", escape(id))
        )
        assert json.loads(stored.data)["version"] == 1


async def test_a_reply_subject_outside_the_prefixes_is_not_executed(client: Plain) -> None:
    victim = client.subjects.log("account", "victim")
    subject = client.subjects.ask("account", "a-1")
    await client.nc.publish(subject, json.dumps(DEPOSIT).encode(), reply=victim)
    await client.nc.publish(subject, json.dumps(DEPOSIT).encode())
    assert (await client.ask("a-1", DEPOSIT))["reply"] == balance(5)
    assert await client.commits() == 1


async def test_a_deadline_that_passed(client: Plain) -> None:
    late = str(int(time.time() * 1000) - 1)
    error = (await client.ask("a-1", DEPOSIT, Perdure_Deadline=late))["error"]
    assert error["type"] == "SendTimeout"
    assert error["may_have_taken_effect"] is True, "another owner may have a copy"
    assert error["advice"] == "check", "nothing names it"
    assert await client.commits() == 0
    await client.tell("a-1", DEPOSIT, Perdure_Deadline=late)
    assert [letter["dead"]["reason"] for letter in await client.dead()] == ["expired"]


async def test_control_messages(client: Plain) -> None:
    await client.ask("a-1", DEPOSIT, Idempotency_Key="k")
    await client.ask("a-1", DEPOSIT)
    subject = client.subjects.ask("account", "a-1")
    result = await client.request(subject, [1, "result", None, "k"])
    assert (result["reply"], result["version"]) == (balance(5), 1)
    status = (await client.request(subject, [1, "status", None]))["reply"]
    assert set(status) == {"status", "updated_at", "version", "runner"}
    assert (status["status"], status["version"]) == ("idle", 2)
    newest = await client.request(subject, [1, "state", None])
    assert newest["reply"]["balance"] == 10
    assert (await client.request(subject, [1, "state", {"version": 1}]))["reply"]["balance"] == 5
    before = {"time": "2020-01-01T00:00:00Z"}
    assert (await client.request(subject, [1, "state", before]))["reply"].get("balance", 0) == 0
    error = (await client.request(subject, [1, "state", {"version": 3}]))["error"]
    assert error["type"] == "MalformedMessage"
    soon = int(time.time() * 1000) + 200
    unknown = [1, "result", None, "never", None, "r-1", None, soon]
    error = (await client.request(subject, unknown))["error"]
    assert (error["type"], error["request_id"]) == ("SendTimeout", "r-1")
    assert await client.commits() == 2


async def test_a_query_writes_nothing(client: Plain) -> None:
    await client.ask("a-1", DEPOSIT)
    answer = await client.ask("a-1", {"type": "get_balance"})
    assert answer["reply"] == balance(5)
    assert await client.commits() == 1


async def test_tells(client: Plain) -> None:
    inbox = client.nc.new_inbox()
    answers = await client.nc.subscribe(inbox)
    ack = await client.tell("a-1", DEPOSIT, Idempotency_Key="k", Perdure_Reply_To=inbox)
    assert ack["stream"] == client.subjects.command_stream("account")
    answer = json.loads((await answers.next_msg(timeout=10)).data)
    assert answer["reply"] == balance(5)
    assert await client.ask("a-1", DEPOSIT, Idempotency_Key="k") == answer
    await client.tell("a-1", DEPOSIT, Idempotency_Key="k")
    assert await client.dead() == []
    assert await client.commits() == 1


async def test_bad_tells_become_dead_letters_and_their_neighbours_go_on(client: Plain) -> None:
    await client.tell("a-1", b"not json")
    await client.tell("a-1", DEPOSIT, Nats_Msg_Id="x")
    await client.tell("a-1", {"type": "get_balance"})
    await client.tell("a-1", DEPOSIT, Idempotency_Key="a b")
    await client.request(client.subjects.to("account", "a=2e"), DEPOSIT)
    await client.tell("a-1", DEPOSIT)
    letters = await client.dead()
    assert [letter["dead"]["reason"] for letter in letters] == ["malformed"] * 5
    assert all(letter["dead"]["error"]["type"] == "MalformedMessage" for letter in letters)
    assert (await client.ask("a-1", {"type": "get_balance"}))["reply"] == balance(5)


async def test_the_mailbox_is_full_for_every_publisher(
    own_server: Callable[[], Awaitable[EmbeddedServer]],
) -> None:
    server = await own_server()
    settings = Settings(url=server.url, shards=4, mailbox_capacity=3)
    async with connect(settings=settings, serving=[account]):
        pass  # the streams are there now, and nobody takes anything
    client = Plain(await plain(server.url), settings.namespace)
    acks = [await client.tell("a-1", DEPOSIT) for _ in range(4)]
    assert [ack["seq"] for ack in acks[:3]] == [1, 2, 3]
    assert acks[3]["error"]["err_code"] == 10077
    assert acks[3]["error"]["description"] == "maximum messages per subject exceeded"
    assert (await client.tell("a-2", DEPOSIT))["seq"] == 4, "its neighbour's is not"
    async with connect(settings=settings, serving=[account]):
        assert await client.dead() == []
        assert (await client.ask("a-1", {"type": "get_balance"}))["reply"] == balance(15)
        assert (await client.tell("a-1", DEPOSIT))["seq"] == 5
    await client.nc.close()


async def test_nobody_hosts_the_type(client: Plain) -> None:
    for subject in (client.subjects.info("nobody"), client.subjects.ask("nobody", "a-1")):
        with pytest.raises(Exception, match="no responders"):
            await client.nc.request(subject, b"{}", timeout=5)
