"""The permissions are enough, and each is needed: tried on a server that grants just these."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from perdure.deploy.permissions import Need, Role, Verb, creating, needs, resizing
from perdure.deploy.probe import Probe
from perdure.deploy.server import EmbeddedServer
from perdure.durable.connect import connect
from perdure.durable.runner import Runner
from perdure.entities.errors import ClusterError, RpcClientError, Suspended
from perdure.entities.flow import Token
from perdure.entities.settings import Settings
from perdure.streams.connect import open_session
from perdure.streams.ref import Ref
from perdure.streams.subjects import Sharding, Subjects
from perdure.streams.topology import shared_streams, type_streams

from .booking import Book, Trip, hotel, trip
from .commands import Shell, plain_client
from .counter import Add, Counter, GetTotal, Take, TooFew, counter

OwnServer = Callable[..., Awaitable[EmbeddedServer]]
ROLES: tuple[Role, ...] = ("caller", "reader", "runner", "operator")
SUBJECTS = Subjects()


def granted(wanted: Iterable[Need], effect: str = "allow") -> dict[str, object]:
    """Permissions as a server's configuration has them."""

    def subjects(verb: Verb) -> dict[str, list[str]]:
        return {effect: [need.subject for need in wanted if need.verb == verb]}

    wanted = list(wanted)
    return {"publish": subjects("publish"), "subscribe": subjects("subscribe")}


def configured(permissions: dict[str, dict[str, object]]) -> str:
    """One account with these users, as the text of a configuration."""
    users = [
        {"user": name, "password": "p", "permissions": granted}
        for name, granted in permissions.items()
    ]
    return f"accounts {{ A {{ jetstream: enabled, users: {json.dumps(users)} }} }}"


def of_role(role: Role) -> list[Need]:
    return needs(role, SUBJECTS, "counter", Settings().reply_prefixes)


def all_streams() -> list[str]:
    cut = Sharding(1, 4)
    wanted = type_streams(Settings(), SUBJECTS, "counter", cut)
    return [stream.name for stream in (*wanted, *shared_streams(Settings(), SUBJECTS))]


async def operate(server: EmbeddedServer, folder: Path, runner: str | None) -> None:
    """All that an operator types, with a runner and a dead letter there."""
    login = {"PERDURE_URL": server.url, "PERDURE_USER": "operator", "PERDURE_PASSWORD": "p"}
    shell = Shell(folder, **login)
    for line, code in (
        ("stats", 0),
        ("runners", 0),
        ("shards", 0),
        ("verify --app app", 0),
        ("verify counter --id a", 0),
        ("history counter a", 0),
        ("entities counter", 0),
        ('broadcast counter add {"n":0}', 0),
        ("entities counter --rebuild", 0),
        ("dead list --settled", 0),
        ("dead show 1", 0),
        ("dead retry 1 --wait", 1),  # malformed, and so it stays
        ("dead discard 2 --yes", 0),
        (f"drain {runner} --no-wait", 0),
    ):
        ran = await asyncio.to_thread(shell.type, *line.split())
        assert ran.code == code, (line, ran)


async def resize(server: EmbeddedServer, folder: Path, login: Callable[[str], Settings]) -> None:
    """What an operator types where no runner is: left-over terms and messages are removed, too."""
    who = {"PERDURE_URL": server.url, "PERDURE_USER": "resizer", "PERDURE_PASSWORD": "p"}
    shell, runner = Shell(folder, **who), login("runner")
    session = await open_session(runner, name="killed")
    killed = Runner(session, [counter], runner)
    await killed.start()
    await session.close()
    await killed.abandon()
    ran = await asyncio.to_thread(shell.type, "shards", "resize", "counter", "8")
    assert ran.code == 0, ran
    async with (
        connect(serving=[counter], settings=runner),
        connect(settings=login("caller")) as caller,
    ):
        assert await caller.at(Counter, "a").query(GetTotal()) == 17


async def test_each_role_can_do_its_work_with_these_alone(
    own_server: OwnServer, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    creator = [*of_role("runner"), *creating(all_streams(), "CREATE")]
    resizer = [*of_role("operator"), *resizing(SUBJECTS, "counter")]
    lent = {"creator": granted(creator), "resizer": granted(resizer)}
    server = await own_server(
        extra=configured(lent | {role: granted(of_role(role)) for role in ROLES})
    )

    def login(user: str) -> Settings:
        return Settings(
            url=server.url,
            user=user,
            password="p",
            shards=4,
            snapshot_min_commits=2,
            snapshot_max_commits=2,
            ack_wait=1.0,
            ack_progress=0.2,
        )

    async with (
        connect(settings=login("caller")) as caller,
        connect(settings=login("reader")) as reader,
        AsyncExitStack() as runners,
    ):
        a = caller.at(Counter, "a")
        async with connect(serving=[counter], settings=login("creator")):
            await a.ask(Add(1))
        hosts = connect(serving=[counter], settings=login("runner"))
        runner = (await runners.enter_async_context(hosts)).runner_id
        for n in range(6):
            await a.ask(Add(n), key=f"k-{n}")
        key = await a.tell(Take(100))
        with pytest.raises(TooFew):
            await a.result(Take, key)
        assert await a.ask(Add(1), durable=True) == 17
        assert await a.query(GetTotal(), fresh=True) == 17
        assert (await a.state(version=1)).total == 1
        assert (await a.status()).version == 8
        assert len([commit async for commit in reader.history(counter, "a")]) == 9
        await caller.at(Counter, "b").ask(Add(1))
        assert [id async for id in reader.ids(Counter)] == ["a", "b"]
        plain = await plain_client(server.url, user="caller", password="p")
        await plain.publish("perdure.to.counter.a", b'{"type": "unknown"}')
        await plain.flush()
        async for commit in reader.watch(counter, "a"):
            if commit.dead is not None:
                break
        await plain.close()
        await operate(server, tmp_path, runner)
    await resize(server, tmp_path, login)
    log = server.log_file.read_text()
    assert "Violation" not in log
    errors = [vars(record) for record in caplog.records if record.levelname == "ERROR"]
    assert [error["action"] for error in errors] == ["command.dead"] * 2  # again, retried


async def operate_flows(server: EmbeddedServer, folder: Path, token: Token[int]) -> None:
    """All that an operator types about flows, while one waits for the token's value."""
    login = {"PERDURE_URL": server.url, "PERDURE_USER": "operator", "PERDURE_PASSWORD": "p"}
    shell = Shell(folder, **login)
    for line, code in (
        ("tell trip t-1 unbook --key later --at 2h", 0),
        ("suspended trip", 0),
        ("suspended trip --parked", 0),
        ("schedules trip", 0),
        ("flows list trip t-1", 0),
        ("flows show trip t-1 k", 0),
        ("flows retry trip t-1 k", 1),  # it isn't parked
        (f"resume {token} 2", 0),
        ("flows cancel trip t-1 later", 0),
    ):
        ran = await asyncio.to_thread(shell.type, *line.split())
        assert ran.code == code, (line, ran)
        assert "isn't parked" in ran.err if code else not ran.err or "no parked" in ran.err


async def test_flows_run_with_what_they_need_and_no_more(
    own_server: OwnServer, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    streams = [
        stream.name
        for entity in ("trip", "hotel")
        for stream in type_streams(Settings(), SUBJECTS, entity, Sharding(1, 4))
    ]
    streams += [stream.name for stream in shared_streams(Settings(), SUBJECTS)]
    wanted = [*needs("runner", SUBJECTS, "trip"), *needs("runner", SUBJECTS, "hotel")]
    lent = granted([*wanted, *creating(streams, "CREATE")])
    calling = granted([*needs("caller", SUBJECTS, "trip"), *needs("caller", SUBJECTS, "hotel")])
    operator = granted(needs("operator", SUBJECTS, "trip"))
    users = {"creator": lent, "runner": granted(wanted), "caller": calling, "operator": operator}
    server = await own_server(extra=configured(users))

    def login(user: str) -> Settings:
        return Settings(url=server.url, user=user, password="p", shards=4)

    async with connect(serving=[trip, hotel], settings=login("creator")):
        pass
    async with (
        connect(serving=[trip, hotel], settings=login("runner")),
        connect(settings=login("caller")) as caller,
    ):
        ref = caller.at(Trip, "t-1")
        token = await shown_token(ref)
        await operate_flows(server, tmp_path, token)
        await caller.resume(token, 3)  # it has a value
        assert await ref.result(Book, "k") == 2
        await ref.tell(Book(), key="cancelled")
        await ref.cancel("cancelled")
        with pytest.raises(RpcClientError, match="it was cancelled"):
            await ref.result(Book, "cancelled")
    assert "Violation" not in server.log_file.read_text()
    assert [vars(record)["action"] for record in caplog.records if record.levelno > 20] == []


async def shown_token(ref: Ref[Trip]) -> Token[int]:
    """That of somebody's word, as soon as the trip waits for it."""
    async with asyncio.timeout(30):
        while True:
            with pytest.raises(Suspended) as raised:
                await ref.ask(Book(), key="k", on_suspend="raise")
            if raised.value.resume_token is not None:
                return Token(raised.value.resume_token)


async def test_who_may_not_ask_or_follow_is_told_soon(own_server: OwnServer) -> None:
    denied_subjects = ["perdure.ask.counter.>", "$JS.API.CONSUMER.CREATE.PERDURE_LOG_counter.>"]
    rights: dict[str, object] = {"publish": {"deny": denied_subjects}}
    server = await own_server(extra=configured({"all": {}, "some": rights}))
    given: dict[str, Any] = {"url": server.url, "password": "p", "shards": 4}
    given["command_stream_bytes"] = 2**24
    allowed, denied = (Settings(user=name, **given) for name in ("all", "some"))
    async with connect(serving=[counter], settings=allowed) as host, connect(settings=denied) as c:
        a = c.at(Counter, "a")
        for asked in (a.ask(Add(1), timeout=60), a.query(GetTotal(), timeout=60), a.state()):
            async with asyncio.timeout(20):
                with pytest.raises(RpcClientError, match="permissions violation") as raised:
                    await asked
            assert "perdure.ask.counter.1." in (raised.value.cause or "")
            assert (raised.value.may_have_taken_effect, raised.value.advice) == (False, "fix")
        key = await a.tell(Add(2))
        assert await host.at(Counter, "a").result(Add, key) == 2
        async with asyncio.timeout(20):
            with pytest.raises(ClusterError, match="permissions violation"):
                await anext(c.watch(counter, "a"))


@pytest.mark.parametrize("role", ROLES)
async def test_each_denied_permission_is_named(own_server: OwnServer, role: Role) -> None:
    wanted = [*of_role(role), *creating(["PERDURE_LOG_counter"], "UPDATE")]
    wanted += resizing(SUBJECTS, "counter") if role == "operator" else []
    wanted = list(dict.fromkeys(wanted))
    everything = {f"u{i}": granted([need], "deny") for i, need in enumerate(wanted)}
    server = await own_server(extra=configured({**everything, "all": granted(wanted)}))
    for name, expected in [(f"u{i}", [need]) for i, need in enumerate(wanted)] + [("all", [])]:
        probe = Probe(Settings(url=server.url, user=name, password="p"))
        await probe.open()
        assert await probe.denied(wanted) == expected
        await probe.close()


def test_probes_lie_at_or_below_their_subjects() -> None:
    for role in ROLES:
        for need in of_role(role):
            assert matches(need.subject, need.probe), need
    assert of_role("caller")[0] in of_role("reader")


def matches(pattern: str, subject: str) -> bool:
    """Whether a subject (or a narrower pattern) is covered by a pattern."""
    wanted, given = pattern.split("."), subject.split(".")
    for i, token in enumerate(wanted):
        if token == ">":
            return len(given) > i
        if i >= len(given) or token not in ("*", given[i]):
            return False
    return len(wanted) == len(given)


def test_no_role_may_write_where_it_must_not() -> None:
    """A caller reaches no stream but by a tell; nobody deletes or purges what is kept.

    An operator removes copies of dead letters, and nothing else.
    """
    caller = [need.subject for need in of_role("caller") if need.verb == "publish"]
    assert all(not subject.startswith("$") for subject in caller)
    for role in ROLES:
        for need in of_role(role):
            assert "STREAM.DELETE" not in need.subject
            discards = role == "operator" and need.subject.endswith(".PERDURE_DEAD")
            buries = need.subject.endswith("_CMD_counter")
            assert discards or buries or "MSG.DELETE" not in need.subject
            kept = not need.subject.endswith(("KV_PERDURE_MEMBERS", "PERDURE_TIME"))
            assert "PURGE" not in need.subject or not kept
    reader = [need for need in of_role("reader") if need.verb == "publish"]
    assert all(need.subject.startswith("$JS.API.") for need in reader)


def test_a_need_says_what_it_is_for() -> None:
    assert str(of_role("caller")[-1]) == "publish perdure.signal.counter (signal)"
    assert msgspec.to_builtins(of_role("caller")[0])["why"] == "get answers"
