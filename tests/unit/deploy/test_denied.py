"""Rights that are lacking, or withdrawn in between: what is said of it, and how soon."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from perdure.deploy.server import EmbeddedServer
from perdure.durable.connect import connect
from perdure.entities.errors import ClusterError, RpcClientError, SendTimeout
from perdure.entities.settings import Settings
from perdure.streams.asks import Answer, TypeInfo, encode_answer, encode_info, raw
from perdure.streams.client import Cluster
from perdure.streams.connect import open_session
from perdure.streams.jetstream import follow, pull, resizing, topology
from perdure.streams.jetstream.api import call
from perdure.streams.jetstream.denials import KNOWN
from perdure.streams.port import Incompatible, Message, Session
from perdure.streams.subjects import Sharding

from ...support.server import PATIENCE_S, until
from .commands import Shell
from .counter import Add, Counter, counter

OwnServer = Callable[..., Awaitable[EmbeddedServer]]
Told = tuple[type[ClusterError], bool, str]

RELOADED = "Reloaded server configuration"
LOG = "PERDURE_LOG_counter"
NEXT = f"$JS.API.CONSUMER.MSG.NEXT.{LOG}.>"
FIX = (RpcClientError, False, "fix")


class Place:
    """A server with a user who may all, and one whose rights change."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server: EmbeddedServer

    async def start(self, own_server: OwnServer, **lacks: list[str]) -> None:
        self.folder.mkdir()
        self.write(**lacks)
        self.server = await own_server(folder=self.folder, extra="include users.conf")

    def write(self, **lacks: list[str]) -> None:
        """What `some` may not publish, or subscribe to."""
        rights = {verb: {"deny": subjects} for verb, subjects in lacks.items()}
        users: list[dict[str, object]] = [{"user": "all", "password": "p"}]
        users.append({"user": "some", "password": "p", "permissions": rights})
        if not lacks:
            del users[1]["permissions"]
        text = f"accounts {{ A {{ jetstream: enabled, users: {json.dumps(users)} }} }}"
        (self.folder / "users.conf").write_text(text)

    def withdraw(self, **lacks: list[str]) -> None:
        """The same while it runs; it holds the thread until the server knows."""
        log = self.server.log_file
        before, until_s = log.read_text().count(RELOADED), time.monotonic() + PATIENCE_S
        self.write(**lacks)
        os.kill(self.server.pid or 0, signal.SIGHUP)
        while log.read_text().count(RELOADED) == before:
            assert time.monotonic() < until_s
            time.sleep(0.01)

    def settings(self, user: str, **changes: Any) -> Settings:
        given: dict[str, Any] = {"url": self.server.url, "user": user, "password": "p"}
        given |= {"shards": 4, "command_stream_bytes": 2**24}
        return Settings(**{**given, **changes})

    def shell(self, user: str) -> Shell:
        variables = {"PERDURE_URL": self.server.url, "PERDURE_USER": user}
        variables |= {"PERDURE_PASSWORD": "p", "PERDURE_SHARDS": "4"}
        return Shell(self.folder, PERDURE_COMMAND_STREAM_BYTES=str(2**24), **variables)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "server")


def told(error: BaseException) -> Told:
    assert isinstance(error, ClusterError), error
    return type(error), error.may_have_taken_effect, error.advice


async def failing(what: Awaitable[object]) -> ClusterError:
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(ClusterError) as caught:
            await what
    return caught.value


# -- asks -------------------------------------------------------------------------------------
class Owner:
    """Owns every counter, and has asks in hand until it is told to answer them."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.held: list[Message] = []

    async def start(self) -> None:
        subjects, asks = self.session.subjects, self.session.asks
        await asks.subscribe(subjects.info("counter"), self._inform)
        await asks.subscribe("perdure.ask.counter.1.*.*", self.held.append)

    def _inform(self, message: Message) -> None:
        now_ms = self.session.clock.now_ns() // 1_000_000
        info = TypeInfo("counter", 1, 1, "owner", now_ms)
        self.session.asks.send(message.reply, encode_info(info))

    def answer(self, value: int) -> None:
        for message in self.held:
            self.session.asks.send(message.reply, encode_answer(Answer(reply=raw(value))))


@pytest.fixture
async def owned(place: Place, own_server: OwnServer) -> AsyncIterator[tuple[Owner, Cluster]]:
    """An owner, and a client who may not ask `order-A`."""
    await place.start(own_server, publish=["perdure.ask.counter.1.*.order-A"])
    session = await open_session(place.settings("all"), name="owner")
    owner = Owner(session)
    await owner.start()
    async with connect(settings=place.settings("some")) as client:
        yield owner, client
    await session.close()


async def test_anothers_denial_is_not_taken_for_ones_own(owned: tuple[Owner, Cluster]) -> None:
    owner, client = owned
    asked = asyncio.create_task(client.at(Counter, "order-a").ask(Add(1), timeout=60))
    await until(lambda: len(owner.held) == 1)
    other = await failing(client.at(Counter, "order-A").ask(Add(1), timeout=60))
    assert told(other) == FIX
    assert "order-A" in (other.cause or "")
    await until(lambda: len(owner.held) >= 3)  # repeats of the first, after the other's end
    assert not asked.done()
    owner.answer(7)
    assert await asked == 7


async def test_a_right_withdrawn_while_an_ask_is_under_way(
    place: Place, owned: tuple[Owner, Cluster]
) -> None:
    """The owner has the first one, so neither may be said to have had no effect."""
    owner, client = owned
    ref = client.at(Counter, "order-a")
    asked = asyncio.create_task(ref.ask(Add(1), timeout=60))
    await until(lambda: len(owner.held) == 1)
    await asyncio.to_thread(place.withdraw, publish=["perdure.ask.>"])
    second = await failing(ref.ask(Add(1), timeout=3))
    assert (type(second), second.may_have_taken_effect) == (SendTimeout, True)
    assert not asked.done()
    owner.answer(7)
    assert await asked == 7
    other = await failing(client.at(Counter, "order-b").ask(Add(1), timeout=60))
    assert told(other) == FIX


async def test_after_many_violations_new_ones_are_told_as_soon(
    place: Place, owned: tuple[Owner, Cluster], caplog: pytest.LogCaptureFixture
) -> None:
    _, client = owned
    with pytest.raises(SendTimeout):
        await client.at(Counter, "warm").ask(Add(1), timeout=0.1)
    await asyncio.to_thread(place.withdraw, publish=["perdure.ask.>"])
    asks = (client.at(Counter, f"id-{n}").ask(Add(1), timeout=60) for n in range(150))
    assert {told(error) for error in await asyncio.gather(*map(failing, asks))} == {FIX}
    logged = [r for r in caplog.records if r.levelname == "ERROR"]
    assert len(logged) == KNOWN


async def test_who_may_not_tell_is_told_what_to_allow(place: Place, own_server: OwnServer) -> None:
    await place.start(own_server, publish=["perdure.to.>"])
    async with connect(settings=place.settings("some")) as client:
        error = await failing(client.at(Counter, "a").tell(Add(1)))
        assert told(error) == FIX
        assert error.cause == 'permissions violation for publish to "perdure.to.counter.a"'
    ran = await asyncio.to_thread(place.shell("some").type, "tell", "counter", "a", "add")
    assert ran.code == 1
    assert "next: allow it for this login" in ran.err


# -- following, reading -----------------------------------------------------------------------
@pytest.mark.parametrize(
    "lacks",
    [
        {"publish": [NEXT]},
        {"publish": [NEXT, f"$JS.API.CONSUMER.INFO.{LOG}.>"]},
        {"subscribe": ["_INBOX.>"]},
    ],
)
async def test_a_follower_who_may_not_is_told_so(
    place: Place, own_server: OwnServer, lacks: dict[str, list[str]]
) -> None:
    await place.start(own_server, **lacks)
    async with (
        connect(serving=[counter], settings=place.settings("all")) as host,
        connect(settings=place.settings("some")) as reader,
    ):
        await host.at(Counter, "a").ask(Add(1))
        error = await failing(anext(reader.watch(counter, "a")))
    assert told(error) == FIX
    assert "permissions violation for" in (error.cause or "")


@pytest.mark.parametrize("lacks", [{"publish": [NEXT]}, {"subscribe": ["_INBOX.>"]}])
async def test_a_follower_from_whom_it_is_taken_is_told_so(
    place: Place,
    own_server: OwnServer,
    monkeypatch: pytest.MonkeyPatch,
    lacks: dict[str, list[str]],
) -> None:
    monkeypatch.setattr(follow, "CREDIT", 2)  # else it asks for more once in 30 s
    await place.start(own_server)
    seen: list[int] = []

    async def watch(reader: Cluster) -> None:
        async for commit in reader.watch(counter, "a"):
            seen.append(commit.version)

    async with (
        connect(serving=[counter], settings=place.settings("all")) as host,
        connect(settings=place.settings("some")) as reader,
    ):
        a = host.at(Counter, "a")
        await a.ask(Add(1))
        following = asyncio.create_task(watch(reader))
        await until(lambda: seen == [1])
        await asyncio.to_thread(place.withdraw, **lacks)
        for _ in range(6):
            await a.ask(Add(1))
        error = await failing(following)
    assert told(error) == FIX
    assert "permissions violation for" in (error.cause or "")
    assert seen == list(range(1, len(seen) + 1))


async def test_a_runner_survives_a_moment_of_wrong_permissions(
    place: Place,
    own_server: OwnServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(pull, "SILENCE_S", 0.5)
    await place.start(own_server, publish=["$JS.API.CONSUMER.MSG.NEXT.PERDURE_CMD_counter.>"])
    said = "tried until it may: permissions violation for publish"

    def warned() -> int:
        return sum(said in record.getMessage() for record in caplog.records)

    async with connect(serving=[counter], settings=place.settings("some")) as host:
        a = host.at(Counter, "a")
        key = await a.tell(Add(3))
        await until(lambda: warned() == 4)  # of each shard
        await asyncio.to_thread(place.withdraw)
        async with asyncio.timeout(PATIENCE_S):
            assert await a.result(Add, key) == 3
    assert warned() == 4, "once"


async def test_a_reader_who_may_not_get_messages_is_told_so(
    place: Place, own_server: OwnServer
) -> None:
    await place.start(own_server, publish=["$JS.API.DIRECT.GET.>"])
    async with (
        connect(serving=[counter], settings=place.settings("all")) as host,
        connect(settings=place.settings("some")) as reader,
    ):
        await host.at(Counter, "a").ask(Add(1))
        assert [id async for id in host.ids(Counter)] == ["a"]
        for read in (reader.history(counter, "a"), reader.ids(Counter)):
            began = asyncio.get_running_loop().time()
            error = await failing(anext(aiter(read)))
            assert told(error) == FIX
            assert '"$JS.API.DIRECT.GET.PERDURE_' in (error.cause or "")
            assert asyncio.get_running_loop().time() - began < 4, "not when its time is up"


# -- operators --------------------------------------------------------------------------------
async def test_what_was_made_before_it_was_refused_is_told(
    place: Place, own_server: OwnServer
) -> None:
    refused = "$JS.API.STREAM.CREATE.PERDURE_DEAD"
    await place.start(own_server, publish=[refused])
    ran = await asyncio.to_thread(place.shell("some").type, "topology", "app", "--apply")
    made = [f"PERDURE_{kind}_counter" for kind in ("CMD", "LOG", "SNAP", "IDS")]
    assert (ran.code, ran.out.split()) == (1, [w for name in made for w in ("created", name)])
    assert f'permissions violation for publish to "{refused}"' in ran.err


async def test_where_it_cant_be_seen_either_the_cause_is_told(
    place: Place, own_server: OwnServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await place.start(own_server)

    async def withdrawn(connection: Any, path: str, *rest: Any, **more: Any) -> Any:
        if path == "STREAM.CREATE.PERDURE_DEAD":
            place.withdraw(publish=["$JS.API.>"])
            raise Incompatible("what is wrong")
        return await call(connection, path, *rest, **more)

    monkeypatch.setattr(topology, "call", withdrawn)
    ran = await asyncio.to_thread(place.shell("some").type, "topology", "app", "--apply")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("error: what is wrong; ")


async def test_a_right_withdrawn_within_a_resize_may_leave_it_halted(
    place: Place, own_server: OwnServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await place.start(own_server)
    async with connect(serving=[counter], settings=place.settings("all")):
        pass
    real = resizing.halt

    async def halt(*rest: Any) -> Sharding:
        found = await real(*rest)
        place.withdraw(publish=["$JS.API.STREAM.UPDATE.>"])
        return found

    shell, resize = place.shell("some"), ("shards", "resize", "counter")
    with monkeypatch.context() as patch:
        patch.setattr(resizing, "halt", halt)
        ran = await asyncio.to_thread(shell.type, *resize, "8")
    assert ran.code == 1
    assert "counter may be halted: permissions violation for publish" in ran.err
    assert "next: perdure shards resize counter 4 leaves it as it was, by a login" in ran.err
    ran = await asyncio.to_thread(shell.type, *resize, "4")
    assert (ran.code, "may be halted" in ran.err) == (1, False)
    await asyncio.to_thread(place.withdraw)
    ran = await asyncio.to_thread(shell.type, *resize, "4")
    assert (ran.code, ran.out) == (0, "counter has 4 shards as before, and takes tells\n")
