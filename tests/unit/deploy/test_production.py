"""The production layout on a real server: all work across accounts, and what a caller can't do."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import nats.errors
import pytest

from perdure.deploy.grants import variable
from perdure.deploy.server import EmbeddedServer, ServerFailed
from perdure.durable.connect import connect
from perdure.entities.errors import ClusterError, RunnerNotRegistered, Suspended
from perdure.entities.flow import Token
from perdure.entities.settings import Settings
from perdure.streams.jetstream.session import open_session
from perdure.streams.port import Incompatible, Unreachable

from ...support.server import until
from .booking import Book, Hotel, Take, Trip, hotel, trip
from .commands import Shell
from .counter import Add, Counter, GetTotal, TooFew, counter
from .counter import Take as TakeOff
from .granted import Keys, Plain, printed

OwnServer = Callable[..., Awaitable[EmbeddedServer]]
USERS = ("creator", "runner", "reader", "operator", "shop", "desk", "system")
LAYOUT = ("--type", "counter", "--type", "trip", "--type", "hotel", "--production")
CALLERS = ("--caller", "shop", "--caller", "desk")
PATIENCE_S = 20.0
RELOADED = "Reloaded server configuration"
ADD = {"type": "add", "n": 1}
KEY = {"Idempotency-Key": "k"}
LOGGED = ("victim", "x", "y")
STREAMS = (
    *(f"PERDURE_{kind}_counter" for kind in ("CMD", "LOG", "SNAP", "IDS")),
    *("PERDURE_DEAD", "PERDURE_TIME", "KV_PERDURE_MEMBERS"),
)


class Production:
    """A server with the layout as printed, the streams made, and one key for each user."""

    def __init__(self, server: EmbeddedServer, keys: Keys, layout: str) -> None:
        self.server, self.keys, self.layout = server, keys, layout

    def settings(self, name: str, **changes: Any) -> Settings:
        """Settings of a login, with the inbox that its comment tells."""
        pattern = rf'Its settings: inbox_prefix = "([^"]*\.{name})"(?:, api_prefix = "(.*)")?'
        ((inbox, api),) = re.findall(pattern, self.layout)
        given = {"inbox_prefix": inbox, **({"api_prefix": api} if api else {}), **changes}
        return self.keys.settings(self.server, name, **given)

    async def client(self, name: str, **options: Any) -> Plain:
        """A plain client."""
        return await self.keys.client(self.server, name, **options)


@pytest.fixture
async def production(
    own_server: OwnServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Production:
    keys = Keys(tmp_path, monkeypatch, USERS)
    layout = printed(tmp_path, *LAYOUT, *CALLERS)
    made = Production(await own_server(extra=layout), keys, layout)
    apply = f"topology {' '.join(LAYOUT[:-1])} --apply"
    await typed(made, tmp_path, "runner", apply, 1)
    await typed(made, tmp_path, "creator", apply, 0)
    return made


@asynccontextmanager
async def hosting(p: Production) -> AsyncGenerator[None]:
    """A runner with no more than a runner's rights."""
    async with connect(serving=[counter, trip, hotel], settings=p.settings("runner")):
        yield


async def test_without_its_keys_the_server_does_not_start(
    own_server: OwnServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = printed(tmp_path, *LAYOUT, *CALLERS)
    with pytest.raises(ServerFailed, match="variable reference for 'PERDURE_CREATOR_NKEY'"):
        await own_server(extra=layout)
    Keys(tmp_path, monkeypatch, USERS)
    monkeypatch.setenv("PERDURE_SHOP_NKEY", "")
    with pytest.raises(ServerFailed, match="User entry requires a user"):
        await own_server(extra=layout)
    passwords = printed(tmp_path, *LAYOUT, "--login", "password")
    with pytest.raises(ServerFailed, match="variable reference for 'PERDURE_CREATOR_PASSWORD'"):
        await own_server(extra=passwords)
    for name in (*USERS, "caller"):
        monkeypatch.setenv(variable(name, "password"), f'"{name} 1"')  # blanks and digits: quoted
    server = await own_server(extra=passwords)
    for password, known in (("caller 1", True), ("", False)):
        settings = Settings(url=server.url, user="caller", password=password)
        with nullcontext() if known else pytest.raises(Unreachable, match=r"(?i)authorization"):
            await (await open_session(settings, name="test")).close()


async def test_a_perdure_client_in_an_account_of_its_own(
    production: Production,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Asks, tells, failures, flows that are suspended and resumed: as within one account."""
    p = production
    # A tell's answer that doesn't come is asked for after this long: here it must come.
    monkeypatch.setattr("perdure.streams.caller.ATTACH_S", 2 * PATIENCE_S)
    async with connect(settings=p.settings("shop", ask_timeout=1.0)) as caller:
        with pytest.raises(RunnerNotRegistered):
            await caller.at(Counter, "a").ask(Add(1))
    async with hosting(p), connect(settings=p.settings("shop")) as caller:
        a = caller.at(Counter, "a")
        assert await a.ask(Add(5), key="k") == 5
        assert await a.ask(Add(5), key="k") == 5
        key = await a.tell(Add(2))
        assert await a.result(Add, key) == 7
        async with asyncio.timeout(PATIENCE_S):
            assert await a.ask(Add(1), durable=True) == 8
        with pytest.raises(TooFew):
            await a.ask(TakeOff(100))
        assert await a.query(GetTotal(), fresh=True) == 8
        assert (await a.state(version=1)).total == 5
        t = caller.at(Trip, "t")
        token = await suspended(lambda: t.ask(Book(), key="b", on_suspend="raise"))
        async with asyncio.timeout(PATIENCE_S):
            await caller.resume(token, 4)
        assert await t.result(Book, "b") == 4
        assert await caller.at(Hotel, "h").ask(Take()) == 2
        await roles_work(p, tmp_path)
    await typed(p, tmp_path, "creator", "shards resize counter 8", 0)
    refused = re.findall(r'Violation - Subject "(.*)"', p.server.log_file.read_text())
    of_runner = "$JS.API.STREAM.CREATE.PERDURE_CMD_counter"
    of_caller = "$JS.API.STREAM.MSG.GET.PERDURE_LOG_counter"
    tried = [*["JS.CORE.API.INFO"] * 3, "$JS.API.INFO", "perdure.stats"]  # by the checks
    assert refused == [of_runner, *tried, of_caller]
    errors = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
    assert [of_caller in error for error in errors] == [True]


async def test_a_reader_follows_a_log_from_its_own_account(production: Production) -> None:
    p = production
    async with (
        hosting(p),
        connect(settings=p.settings("shop")) as caller,
        connect(settings=p.settings("reader")) as reader,
    ):
        a = caller.at(Counter, "a")
        assert [await a.ask(Add(1)) for _ in range(3)] == [1, 2, 3]
        seen: list[int] = []
        async with asyncio.timeout(PATIENCE_S):
            async for commit in reader.watch(counter, "a"):
                seen.append(commit.version)
                if commit.version == 3:  # what comes, beyond what is there
                    assert await a.ask(Add(1)) == 4
                if commit.version == 4:
                    break
        assert seen == [1, 2, 3, 4]
        assert [page async for page in reader.ids(Counter)] == ["a"]
    with pytest.raises(Incompatible, match=r"api_prefix: 'JS\.CORE\.API': a runner"):
        async with connect(serving=[counter], settings=p.settings("operator")):
            pass


async def test_who_follows_from_another_account_is_told_what_keeps_the_log_away(
    own_server: OwnServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = Keys(tmp_path, monkeypatch, USERS)
    layout = printed(tmp_path, *LAYOUT, *CALLERS)
    p = Production(await own_server(extra=layout), keys, layout)
    core = {"api_prefix": "JS.CORE.API"}
    for name, changes, told in (
        ("reader", {}, "there is no PERDURE_LOG_counter yet"),
        ("reader", {"api_prefix": "JS.ELSEWHERE.API"}, "permissions violation"),
        ("shop", core, "permissions violation"),
    ):
        async with connect(settings=p.settings(name, **changes)) as user:
            with pytest.raises(ClusterError, match=told):
                async with asyncio.timeout(PATIENCE_S):
                    await anext(user.watch(counter, "a"))
    await typed(p, tmp_path, "reader", "history counter a --follow", 1)


async def test_who_may_not_update_a_stream_is_told_who_resizes(
    production: Production, tmp_path: Path
) -> None:
    complaint = await typed(production, tmp_path, "runner", "shards resize counter 8", 1)
    assert "violation" in complaint
    assert "the same by a login that may update streams" in complaint


async def test_an_api_prefix_that_leads_nowhere_is_told_who_follows(
    own_server: OwnServer,
) -> None:
    nowhere = Settings(url=(await own_server()).url, api_prefix="JS.NOWHERE.API")
    async with connect(settings=nowhere) as user:
        with pytest.raises(ClusterError, match=r"nobody answers JS\.NOWHERE\.API"):
            async with asyncio.timeout(PATIENCE_S):
                await anext(user.watch(counter, "a"))


async def suspended(ask: Callable[[], Awaitable[object]]) -> Token[int]:
    """The token of a flow that waits for somebody's word."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with pytest.raises(Suspended) as raised:
                await ask()
            if raised.value.resume_token is not None:
                return Token(raised.value.resume_token)


async def roles_work(p: Production, folder: Path) -> None:
    """The reader's and the operator's commands, and the check of each role."""
    for name, line, code in (
        ("reader", "history counter a", 0),
        ("reader", "entities counter", 0),
        ("operator", "stats", 0),
        ("operator", "runners", 0),
        ("operator", "shards", 0),
        ("operator", "verify counter", 0),
        ("operator", "entities counter", 0),
        ("operator", "history counter a", 0),
        ("operator", "flows list trip", 0),
        ("operator", "dead list", 0),
        ("operator", "dead discard 77", 1),
        ("operator", "check --role operator", 0),
        ("operator", "check --role operator --type counter", 0),
        ("reader", "check --role reader --type counter", 0),
        ("shop", "check --role caller --type counter", 0),
        ("runner", "check --role runner --type counter", 0),
        ("shop", "history counter a", 1),
    ):
        await typed(p, folder, name, line, code)


async def typed(p: Production, folder: Path, name: str, line: str, code: int) -> str:
    """A command, with that login and the settings that its comment tells; what it complains of."""
    settings = p.settings(name)
    shell = Shell(
        folder,
        PERDURE_URL=settings.url,
        PERDURE_NKEY_SEED=str(settings.nkey_seed),
        PERDURE_INBOX_PREFIX=settings.inbox_prefix,
        PERDURE_API_PREFIX=settings.api_prefix,
        PERDURE_SHARDS=str(settings.shards),
        PERDURE_COMMAND_STREAM_BYTES=str(settings.command_stream_bytes),
    )
    ran = await asyncio.to_thread(shell.type, *line.split())
    assert ran.code == code, (name, line, ran)
    return ran.err


async def test_keys_are_changed_while_all_goes_on(
    own_server: OwnServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As docs/security.md says: the seed, the list of keys, a reload of the server."""
    keys = Keys(tmp_path, monkeypatch, USERS)
    folder = tmp_path / "server"
    folder.mkdir()
    public = {variable(name, "nkey"): keys.change(name) for name in USERS}
    for name in public:
        monkeypatch.delenv(name)

    def list_keys() -> None:
        text = "".join(f"{name}: {key}\n" for name, key in public.items())
        (folder / "keys.conf").write_text(text)

    list_keys()
    layout = printed(tmp_path, *LAYOUT, *CALLERS)
    server = await own_server(folder=folder, extra=f"include keys.conf\n{layout}")
    p = Production(server, keys, layout)
    async with (
        connect(serving=[counter, trip, hotel], settings=p.settings("creator")),
        connect(settings=p.settings("shop")) as caller,
    ):
        a = caller.at(Counter, "a")
        assert await a.ask(Add(1)) == 1
        for number, name in enumerate(("shop", "creator"), 2):
            old = tmp_path / f"{name}.old"
            old.write_bytes((tmp_path / f"{name}.nk").read_bytes())
            public[variable(name, "nkey")] = keys.change(name)
            list_keys()
            seen = server.log_file.read_text().count(RELOADED)
            os.kill(server.pid or 0, signal.SIGHUP)  # nats-server --signal reload
            await until(partial(reloaded, server, seen))
            assert await a.ask(Add(1)) == number
            with pytest.raises(Unreachable, match=r"(?i)authorization violation"):
                await open_session(Settings(url=server.url, nkey_seed=str(old)), name="old")


def reloaded(server: EmbeddedServer, before: int) -> bool:
    return server.log_file.read_text().count(RELOADED) > before


async def answer(plain: Plain, subject: str, body: object, **headers: str) -> dict[str, Any]:
    """One request, as any program makes it."""
    data = json.dumps(body).encode()
    got = await plain.nc.request(subject, data, timeout=PATIENCE_S, headers=headers or None)
    found: dict[str, Any] = json.loads(got.data)
    return found


async def test_a_plain_client_in_an_account_of_its_own(production: Production) -> None:
    p = production
    shop = await p.client("shop")
    with pytest.raises(nats.errors.NoRespondersError):
        await answer(shop, "perdure.info.counter", {})
    async with hosting(p):
        assert (await answer(shop, "perdure.info.counter", {}))["shards"] == 4
        add = {"type": "add", "n": 3}
        assert (await answer(shop, "perdure.ask.counter.a", add, **KEY))["reply"] == 3
        assert (await answer(shop, "perdure.ask.counter.a", add, **KEY))["reply"] == 3
        heard = await shop.nc.subscribe("perdure.reply.shop.>")
        stored = await answer(
            shop, "perdure.to.counter.a", add, **{"Perdure-Reply-To": "perdure.reply.shop.17"}
        )
        assert stored == {"stream": "PERDURE_CMD_counter", "seq": 1}
        told = await heard.next_msg(timeout=PATIENCE_S)
        assert (told.subject, json.loads(told.data)["reply"]) == ("perdure.reply.shop.17", 6)
        failure = (await answer(shop, "perdure.ask.counter.a", {"type": "take", "n": 9}))[
            "failure"
        ]
        assert failure == {"type": "too_few", "total": 6}
        error = (await answer(shop, "perdure.ask.counter.a", {"type": "rob"}))["error"]
        assert error["type"] == "MalformedMessage"
        token = await plain_token(shop)
        resume = {"type": "$resume", "token": token, "value": 8}
        assert "seq" in await answer(shop, "perdure.to.trip.t", resume)
        assert (await recorded(shop, "perdure.ask.trip.t", {"type": "book"}))["reply"] == 8
    creator = await p.client("creator", inbox_prefix="_INBOX.creator")
    heard = await creator.nc.subscribe("perdure.signal.counter")
    assert await creator.said() == []
    await shop.nc.publish("perdure.signal.counter", b'{"type":"prices_changed"}')
    assert (await heard.next_msg(timeout=PATIENCE_S)).data == b'{"type":"prices_changed"}'
    assert await shop.said() == []
    await shop.nc.close()


async def recorded(plain: Plain, subject: str, body: object) -> dict[str, Any]:
    """What came of the command with this key, asked for until it is known."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found = await answer(plain, subject, body, **KEY)
            if "error" not in found:
                return found
            assert found["error"]["type"] in ("Suspended", "AlreadyProcessingMessage"), found


async def plain_token(shop: Plain) -> str:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            got = await answer(
                shop, "perdure.ask.trip.t", {"type": "book"}, **{"Idempotency-Key": "k"}
            )
            token = got["error"]["resume_token"]
            if token is not None:
                return str(token)


WEAPONS = (
    "perdure.log.counter.victim",
    "perdure.snap.counter.victim",
    "perdure.ids.counter.page-1",
    "perdure.dead.counter.victim",
    "perdure.due.counter.victim.x",
    "perdure.later.counter.victim.x",
    "perdure.cmd.counter.1.0.victim",
    "perdure.to.counter.victim",
    "perdure.members",
    "$KV.PERDURE_MEMBERS.x",
    "$JS.API.STREAM.DELETE.PERDURE_LOG_counter",
    "$JS.API.STREAM.PURGE.PERDURE_SNAP_counter",
)
"""Reply subjects that would do harm in the core account."""


@pytest.mark.parametrize("name", ["reader", "operator"])
async def test_who_looks_messages_up_can_delete_nothing_by_a_reply_subject(
    production: Production, name: str
) -> None:
    """In the streams' account a look-up that finds nothing is a weapon (test_roles.py)."""
    p = production
    own = p.settings(name)
    plain = await p.client(name, inbox_prefix=own.inbox_prefix)
    creator = await p.client("creator", inbox_prefix="_INBOX.creator")
    async with hosting(p):
        assert (await answer(creator, "perdure.ask.counter.a", ADD))["reply"] == 1
    before = {stream: await subjects_of(creator, stream) for stream in STREAMS}
    for weapon in (*WEAPONS, *(f"$JS.API.STREAM.DELETE.{stream}" for stream in STREAMS)):
        for sequence in (1, 99):
            for way in ("DIRECT.GET", "STREAM.MSG.GET"):
                look = f"{own.api_prefix}.{way}.PERDURE_LOG_counter"
                await plain.nc.publish(look, b'{"seq":%d}' % sequence, reply=weapon)
    assert await plain.said() == []  # it isn't the permissions that help here
    look = f"{own.api_prefix}.STREAM.MSG.GET.PERDURE_LOG_counter"
    got = await plain.nc.request(look, b'{"seq":1}', timeout=PATIENCE_S)
    assert json.loads(got.data)["message"]["subject"] == "perdure.log.counter.a"
    assert {stream: await subjects_of(creator, stream) for stream in STREAMS} == before
    of_log = "PERDURE_LOG_counter"
    for forbidden in (
        "$JS.API.STREAM.DELETE.PERDURE_LOG_counter",
        f"{own.api_prefix}.STREAM.DELETE.PERDURE_LOG_counter",
        f"{own.api_prefix}.CONSUMER.CREATE.{of_log}.x.perdure.log.counter.*",  # it could push
        f"{own.api_prefix}.CONSUMER.DELETE.{of_log}.statements",
        f"{own.api_prefix}.CONSUMER.MSG.NEXT.{of_log}.statements",
    ):
        await plain.nc.publish(forbidden, b"{}")
        assert len(await plain.said()) == 1, forbidden
    await plain.nc.close()
    await creator.nc.close()


async def test_a_reply_subject_is_no_weapon_across_accounts(
    production: Production, caplog: pytest.LogCaptureFixture
) -> None:
    """The server's acknowledgements and the runner's answers reach nothing but the caller."""
    p = production
    shop = await p.client("shop")
    creator = await p.client("creator", inbox_prefix="_INBOX.creator")
    async with hosting(p):
        assert (await answer(shop, "perdure.ask.counter.victim", ADD))["reply"] == 1
        bare = json.dumps(ADD).encode()
        for weapon in WEAPONS:
            headers = {"Perdure-Reply-To": weapon}
            await shop.nc.publish("perdure.to.counter.x", bare, reply=weapon, headers=headers)
            await shop.nc.publish("perdure.ask.counter.y", bare, reply=weapon)
            await shop.nc.publish("perdure.info.counter", b"", reply=weapon)
        assert await shop.said() == []  # it isn't the server's permissions that help here
        # Commands behind them, in the same mailboxes: all before them have run.
        stored_last = await answer(shop, "perdure.to.counter.x", ADD, **KEY)
        assert stored_last["seq"] == len(WEAPONS) + 1, "nothing else became a tell"
        assert (await recorded(shop, "perdure.ask.counter.x", ADD))["reply"] == 13
        assert (await answer(shop, "perdure.ask.counter.y", ADD))["reply"] == 13
    kept = {name: await subjects_of(creator, name) for name in STREAMS}
    assert sorted(kept["PERDURE_LOG_counter"]) == [f"perdure.log.counter.{i}" for i in LOGGED]
    assert kept["PERDURE_LOG_counter"]["perdure.log.counter.victim"] == 1
    assert kept["PERDURE_SNAP_counter"] == kept["PERDURE_DEAD"] == kept["PERDURE_TIME"] == {}
    assert kept["PERDURE_CMD_counter"] == {}
    written = {subject for subjects in kept.values() for subject in subjects}
    assert written.isdisjoint(set(WEAPONS) - {"perdure.log.counter.victim"})
    actions = {vars(r).get("action") for r in caplog.records}
    assert actions.isdisjoint({"log.foreign", "relay.strange", "command.dead"})


HEADERS: tuple[tuple[int, dict[str, str]], ...] = (
    (10111, {"Nats-Rollup": "all"}),
    (10111, {"Nats-Rollup": "sub"}),
    (10166, {"Nats-TTL": "1"}),
    (10188, {"Nats-Schedule": "@every 1s", "Nats-Schedule-Target": "perdure.log.counter.b"}),
    (10188, {"Nats-Schedule": "@at 2030-01-01T00:00:00Z", "Nats-Schedule-Target": "perdure.x"}),
    (10188, {"Nats-Scheduler": "perdure.to.counter.a", "Nats-Schedule-Next": "purge"}),
    (10168, {"Nats-Incr": "+5"}),
    (10174, {"Nats-Batch-Id": "b", "Nats-Batch-Sequence": "1", "Nats-Batch-Commit": "1"}),
    (10060, {"Nats-Expected-Stream": "PERDURE_LOG_counter"}),
    (10071, {"Nats-Expected-Last-Subject-Sequence": "7"}),
    (10070, {"Nats-Expected-Last-Msg-Id": "x"}),
)
"""What a header may ask of a stream, and the number of the server's reason why not."""


async def test_no_header_makes_a_tell_anything_else(production: Production) -> None:
    """A caller may publish a tell, so its headers reach the stream: each is refused there."""
    shop = await production.client("shop")
    creator = await production.client("creator", inbox_prefix="_INBOX.creator")
    assert (await answer(shop, "perdure.to.counter.a", ADD))["seq"] == 1
    for reason, headers in HEADERS:
        told = await answer(shop, "perdure.to.counter.a", ADD, **headers)
        assert told["error"]["err_code"] == reason, (headers, told)
    kept = await subjects_of(creator, "PERDURE_CMD_counter")
    assert list(kept.values()) == [1]
    assert await subjects_of(creator, "PERDURE_LOG_counter") == {}
    assert await subjects_of(creator, "PERDURE_TIME") == {}


async def subjects_of(creator: Plain, stream: str) -> dict[str, int]:
    """How many messages of each subject a stream has."""
    info = await answer(creator, f"$JS.API.STREAM.INFO.{stream}", {"subjects_filter": ">"})
    found: dict[str, int] = info["state"].get("subjects") or {}
    return found


async def test_callers_see_nothing_of_each_other(production: Production) -> None:
    p = production
    shop, desk = await p.client("shop"), await p.client("desk")
    box = await desk.nc.subscribe("_INBOX.desk.>")
    async with hosting(p):
        for attempt in ("_INBOX.desk.1", "perdure.reply.desk.1"):
            await shop.nc.publish("perdure.ask.counter.a", json.dumps(ADD).encode(), attempt)
        assert (await answer(shop, "perdure.ask.counter.a", ADD))["reply"] == 3
        assert await shop.said() == []
        for forged in ("_INBOX.desk.2", "perdure.reply.desk.2", "_R_.x", "_INBOX.runner.x"):
            await shop.nc.publish(forged, b"{}")
            assert len(await shop.said()) == 1, forged
        for foreign in (">", "_R_.>", "perdure.reply.desk.>", "perdure.ask.>", "perdure.log.>"):
            await shop.nc.subscribe(foreign)
            assert len(await shop.said()) == 1, foreign
        assert (await answer(desk, "perdure.ask.counter.a", ADD))["reply"] == 4
    await desk.said()
    assert box.pending_msgs == 0
