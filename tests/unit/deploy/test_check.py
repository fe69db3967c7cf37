"""`perdure check` names each planted fault, and changes nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from perdure.deploy.checks import (
    Checks,
    check,
    clocks_found,
    runner_found,
    send_found,
    streams_found,
)
from perdure.deploy.finding import Finding, good
from perdure.deploy.permissions import PROBE_BODY, Need, Role, creating, needs
from perdure.deploy.probe import Probe
from perdure.deploy.server import EmbeddedServer
from perdure.durable.connect import connect
from perdure.durable.resizing import resize
from perdure.entities.entity import Entity
from perdure.entities.settings import Settings
from perdure.streams.asks import TypeInfo
from perdure.streams.connect import open_session
from perdure.streams.subjects import Sharding, Subjects
from perdure.streams.topology import log_stream

from .commands import Shell, plain_client
from .counter import counter
from .told import answering, told, told_type

OwnServer = Callable[..., Awaitable[EmbeddedServer]]
FIRST: Entity[Any, Any] = counter


async def found(
    settings: Settings, *entities: str, role: Role = "runner"
) -> dict[str, list[Finding]]:
    """The findings, by what was looked at; each is one line, and a bad one has a next step."""
    findings: dict[str, list[Finding]] = {}
    async for finding in check(settings, entities, role):
        findings.setdefault(finding.check, []).append(finding)
        assert "\n" not in finding.what + finding.next
        assert (finding.ok and not finding.warning) is (finding.next == "")
    return findings


def failed(findings: dict[str, list[Finding]]) -> dict[str, list[str]]:
    bad = {name: [f.what for f in several if not f.ok] for name, several in findings.items()}
    return {name: texts for name, texts in bad.items() if texts}


@asynccontextmanager
async def hosted(url: str, **changes: Any) -> AsyncGenerator[Settings]:
    """A runner in this process."""
    settings = Settings(url=url, shards=4, **changes)
    async with connect(url, serving=[FIRST], settings=settings):
        yield settings


async def api(client: Any, request: str, body: object = None) -> dict[str, Any]:
    data = b"" if body is None else json.dumps(body).encode()
    answer: dict[str, Any] = json.loads((await client.request(f"$JS.API.{request}", data)).data)
    return answer


async def test_all_is_well_and_nothing_changes(
    nats_server: EmbeddedServer, namespace: str
) -> None:
    async with hosted(nats_server.url, namespace=namespace) as settings:
        client = await plain_client(nats_server.url)
        before = await everything(client, namespace)
        for role in ("runner", "reader", "caller", "operator"):
            findings = await found(settings, "counter", role=role)
            assert failed(findings) == {}
            assert ("runner" in findings) == (role != "reader")
            for send in () if role == "reader" else findings["send"]:
                assert "questions was answered after" in send.what
                assert "the objective of a send, one way, is 100 ms" in send.what
            (allowed,) = findings["permissions"]
            article = "an" if role == "operator" else "a"
            assert allowed.what.startswith(f"counter: {article} {role}'s ")
            clocks = [finding.what for finding in findings.get("clock", [])]
            assert len(clocks) == (2 if role == "runner" else 0)
            assert all("less than a second from the server's" in what for what in clocks)
        assert await everything(client, namespace) == before
        assert before["streams"]
        await client.close()


async def test_the_server_has_nothing_to_say_about_a_check(own_server: OwnServer) -> None:
    server = await own_server()
    async with hosted(server.url) as settings:
        probe = Probe(settings)
        await probe.open()
        client = await plain_client(server.url)
        before = await everything(client, "perdure")
        streams = list(before["streams"])
        assert len(streams) == 7
        wanted = [*creating(streams, "CREATE"), *creating(streams, "UPDATE")]
        wanted += [
            *needs("runner", Subjects(), "counter"),
            *needs("reader", Subjects(), "counter"),
            *needs("operator", Subjects(), "counter"),
        ]
        assert await probe.denied(wanted) == []
        answers = [await refusal(probe, need) for need in wanted if need.body != PROBE_BODY]
        assert all(answers)
        assert await everything(client, "perdure") == before
        await probe.close()
        await client.close()
    log = server.log_file.read_text()
    assert "[WRN] Invalid JetStream request" not in log


async def refusal(probe: Probe, need: Need) -> int:
    """The code of the error that the server answers a probe with."""
    answer = json.loads(await probe.request(need.probe, need.body))
    return int(answer["error"]["code"])


async def everything(client: Any, namespace: str) -> dict[str, Any]:
    """All that a check could have changed: messages, configurations, consumers."""
    answer = await api(client, "STREAM.LIST")
    streams = [s for s in answer["streams"] if namespace.upper() in s["config"]["name"]]
    consumers: list[str] = []
    for stream in streams:
        listed = await api(client, f"CONSUMER.LIST.{stream['config']['name']}")
        consumers += [consumer["name"] for consumer in listed["consumers"]]
    kept = {s["config"]["name"]: (s["config"], s["state"]["last_seq"]) for s in streams}
    return {"streams": kept, "consumers": sorted(consumers)}


async def test_the_types_are_found_where_none_is_named(
    nats_server: EmbeddedServer, namespace: str
) -> None:
    async with hosted(nats_server.url, namespace=namespace) as settings:
        findings = await found(settings)
        assert failed(findings) == {}
        assert "counter" in findings["runner"][0].what


async def test_no_type_at_all(nats_server: EmbeddedServer, namespace: str) -> None:
    findings = await found(Settings(url=nats_server.url, namespace=namespace))
    assert failed(findings) == {"types": [f"no entity type in the namespace {namespace!r}"]}


async def test_no_server() -> None:
    findings = await found(Settings(url="nats://127.0.0.1:1"), "counter")
    assert list(findings) == ["server"]
    assert "127.0.0.1:1" in failed(findings)["server"][0]


async def test_settings_that_cannot_work() -> None:
    settings = Settings(url="nats://127.0.0.1:1", tls_ca="/not/there.pem")
    findings = await found(settings, "counter")
    assert "/not/there.pem" in failed(findings)["server"][0]


# -- planted: an old server -------------------------------------------------------------------
@asynccontextmanager
async def old_server(version: str) -> AsyncGenerator[str]:
    """Something that greets as a nats-server of that version."""
    info = {"server_id": "x", "version": version, "max_payload": 1048576, "headers": True}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"INFO " + json.dumps(info).encode() + b"\r\n")
        while line := await reader.readline():
            if line.startswith(b"PING"):
                writer.write(b"PONG\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("version", ["2.12.3", "2.15.0", "2.15.1-beta.1"])
async def test_an_old_server(version: str, tmp_path: Path) -> None:
    async with old_server(version) as url:
        findings = await found(Settings(url=url), "counter")
        assert list(findings) == ["server", "version"]
        (text,) = failed(findings)["version"]
        assert text.startswith(f"nats-server is {version}, perdure needs 2.15.1")
        shell = Shell(tmp_path)
        ran = await asyncio.to_thread(shell.type, "check", "app", "--url", url)
        assert ran.code == 1
        assert ran.out.splitlines()[1].startswith("failed  version     nats-server is ")
        ran = await asyncio.to_thread(shell.run, "run", "app", "--url", url)
        assert ran.code == 1
        assert f"error: nats-server is {version}, perdure needs 2.15.1" in ran.err


# -- planted: no JetStream --------------------------------------------------------------------
async def test_an_account_without_jetstream(own_server: OwnServer) -> None:
    users = "[{user: u, password: p}]"
    server = await own_server(extra=f"accounts {{ A {{ users: {users} }} }}")
    settings = Settings(url=server.url, user="u", password="p")
    findings = await found(settings, "counter")
    assert list(failed(findings)) == ["jetstream"]
    assert "not enabled" in failed(findings)["jetstream"][0]


# -- planted: foreign stream configurations -----------------------------------------------------
async def test_foreign_streams(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    client = await plain_client(nats_server.url)
    async with hosted(nats_server.url, namespace=namespace) as settings:
        subjects = Subjects(namespace)
        faults: list[tuple[str, dict[str, Any], str]] = [
            (subjects.snapshot_stream("counter"), {"max_age": 10**12}, "max_age is 1000000000000"),
            (subjects.dead_stream, {"discard": "old"}, 'discard is "old", perdure needs "new"'),
            (
                subjects.command_stream("counter"),
                {
                    "subject_transform": {
                        "src": f"{namespace}.to.counter.*",
                        "dest": "x.{{wildcard(1)}}",
                    }
                },
                "subject_transform is",
            ),
        ]
        for stream, changes, text in faults:
            ours = (await api(client, f"STREAM.INFO.{stream}"))["config"]
            theirs = {**ours, **changes}
            assert "error" not in await api(client, f"STREAM.UPDATE.{stream}", theirs)
            findings = await found(settings, "counter")
            (what,) = failed(findings).pop("streams")
            assert what.startswith(f"{stream}: ")
            assert text in what
            shell = Shell(tmp_path, PERDURE_NAMESPACE=namespace, PERDURE_URL=nats_server.url)
            ran = await asyncio.to_thread(shell.type, "check", "app", "--json")
            assert ran.code == 1
            assert next(line["check"] for line in ran.lines if not line["ok"]) == "streams"
            assert "error" not in await api(client, f"STREAM.UPDATE.{stream}", ours)
        assert failed(await found(settings, "counter")) == {}
    await client.close()


async def test_bounds_that_other_settings_chose_are_told_and_no_fault(
    nats_server: EmbeddedServer, namespace: str
) -> None:
    async with hosted(nats_server.url, namespace=namespace) as settings:
        other = msgspec.structs.replace(settings, mailbox_capacity=7)
        findings = await found(other, "counter")
    assert failed(findings) == {}
    assert "would change" in findings["streams"][0].what
    assert "max_msgs_per_subject is 100, perdure needs 7" in findings["streams"][0].what


async def test_first_settings_that_differ_are_a_warning(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    async with hosted(nats_server.url, namespace=namespace) as settings:
        other = msgspec.structs.replace(settings, shards=8, replicas=3)
        findings = await found(other, "counter")
        shell = Shell(tmp_path, PERDURE_NAMESPACE=namespace, PERDURE_URL=nats_server.url)
        ran = await asyncio.to_thread(shell.type, "check", "app")
    assert failed(findings) == {}
    shards, *replicas = (finding.what for finding in findings["settings"])
    assert shards == "counter has 4 shards, the settings say 8"
    assert len(replicas) == 7
    assert all(what.endswith(" has 1 replicas, the settings say 3") for what in replicas)
    assert ran.code == 0
    assert "warning settings    counter has 4 shards, the settings say 16; next: " in ran.out


async def test_a_type_that_was_resized_has_the_shards_that_somebody_chose(
    nats_server: EmbeddedServer, namespace: str
) -> None:
    async with hosted(nats_server.url, namespace=namespace) as settings:
        pass
    session = await open_session(settings, name="test")
    assert (await resize(session, "counter", 8))[1] == Sharding(2, 8)
    await session.close()
    assert "settings" not in await found(settings, "counter")


async def test_each_owner_is_told_with_its_shards(
    nats_server: EmbeddedServer, namespace: str
) -> None:
    async with (
        hosted(nats_server.url, namespace=namespace) as settings,
        connect(serving=[FIRST], settings=settings),
    ):
        findings = await found(settings, "counter")
        probe = Probe(settings)
        await probe.open()
        owners = await Checks(probe, settings, "runner").owners("counter")
        await probe.close()
    assert failed(findings) == {}
    one, other = sorted(owners)
    assert owners == {one: 2, other: 2}
    told = f"{one} owns 2, {other} owns 2"
    assert findings["runner"] == [good("runner", f"counter: of 4 shards {told}")]
    assert findings["members"] == [good("members", "2 runners, each sees all of them")]
    (shards,) = findings["shards"]
    assert shards.what == f"counter: each of 4 shards has one owner: {one} 2, {other} 2"
    info = TypeInfo("counter", 1, 4, "other", 0)
    assert runner_found(info, None, owners).what == f"counter: of 4 shards {told}"
    finding = runner_found(info, None, {one: 3})
    assert (finding.warning, finding.what) == (
        True,
        f"counter: of 4 shards {one} owns 3, nobody owns 1",
    )


async def test_a_shard_of_nobody_and_views_that_differ(
    nats_server: EmbeddedServer, namespace: str
) -> None:
    pair = [told("a", told_type(0, 1), sees=2), told("b", told_type(3), sees=1)]
    async with answering(nats_server.url, namespace, lambda: pair):
        settings = Settings(url=nats_server.url, namespace=namespace)
        findings = failed(await found(settings, "counter", role="operator"))
    assert findings["members"] == ["runner b sees 1 of 2 runners"]
    assert findings["shards"] == ["counter: shard 2 is owned by nobody"]


async def test_who_may_not_ask_for_statistics_is_told_nothing_of_shards(
    own_server: OwnServer,
) -> None:
    permissions = '{ publish: { deny: "perdure.stats" } }'
    users = f"{{user: u, password: p, permissions: {permissions}}}, {{user: all, password: p}}"
    server = await own_server(extra=f"accounts {{ A {{ jetstream: enabled, users: [{users}] }} }}")
    async with hosted(server.url, user="all", password="p") as settings:
        findings = await found(msgspec.structs.replace(settings, user="u"), "counter")
        assert failed(findings) == {}
        assert not {"members", "shards"} & set(findings)
        assert {"members", "shards"} <= set(await found(settings, "counter"))


async def test_streams_lost_under_a_runner(nats_server: EmbeddedServer, namespace: str) -> None:
    async with hosted(nats_server.url, namespace=namespace) as settings:
        client = await plain_client(nats_server.url)
        lost = Subjects(namespace).snapshot_stream("counter")
        assert "error" not in await api(client, f"STREAM.DELETE.{lost}")
        findings = await found(settings, "counter")
        await client.close()
    (finding,) = findings["streams"]
    assert finding.what == f"{lost} doesn't exist"
    assert finding.next.startswith("restart the runner ")


# -- planted: no runner -------------------------------------------------------------------------
async def test_no_runner(nats_server: EmbeddedServer, namespace: str, tmp_path: Path) -> None:
    async with hosted(nats_server.url, namespace=namespace) as settings:
        pass
    findings = await found(settings, "counter")
    assert failed(findings) == {"runner": ["no runner hosts counter"]}
    shell = Shell(tmp_path, PERDURE_NAMESPACE=namespace, PERDURE_URL=nats_server.url)
    ran = await asyncio.to_thread(shell.type, "check", "app")
    assert ran.code == 1
    assert ran.out.splitlines()[-1] == (
        "failed  runner      no runner hosts counter; "
        "next: start a runner, which creates what is missing: perdure run APP"
    )


async def test_nothing_created_yet(nats_server: EmbeddedServer, namespace: str) -> None:
    findings = await found(Settings(url=nats_server.url, namespace=namespace), "counter")
    assert list(failed(findings)) == ["streams", "runner"]
    (text,) = failed(findings)["streams"]
    assert text.count(", ") == 6
    assert text.endswith(" don't exist")


async def test_something_else_answers_for_the_type(
    nats_server: EmbeddedServer, namespace: str
) -> None:
    client = await plain_client(nats_server.url)

    async def answer(message: Any) -> None:
        await message.respond(b"hello")

    async def stay_silent(_message: Any) -> None:
        pass

    settings = Settings(url=nats_server.url, namespace=namespace)
    for handler, text in ((answer, "the answer to info"), (stay_silent, "no answer within 2 s")):
        subscription = await client.subscribe(f"{namespace}.info.counter", cb=handler)
        await client.flush()
        await client.flush()
        findings = await found(settings, "counter", role="caller")
        assert list(failed(findings)) == ["runner"]
        assert text in findings["runner"][0].what
        await subscription.unsubscribe()
    await client.close()


# -- planted: missing permissions -----------------------------------------------------------------
async def test_a_missing_permission(own_server: OwnServer, tmp_path: Path) -> None:
    denied = '{publish: {deny: ["perdure.log.counter.*"]}, subscribe: {deny: "perdure.ask.>"}}'
    users = f"[{{user: all, password: p}}, {{user: some, password: p, permissions: {denied}}}]"
    server = await own_server(extra=f"accounts {{ A {{ jetstream: on, users: {users} }} }}")
    async with hosted(server.url, user="all", password="p") as settings:
        some = msgspec.structs.replace(settings, user="some")
        findings = await found(some, "counter")
        assert failed(findings) == {
            "permissions": [
                "counter: this login, as a runner, may not subscribe perdure.ask.counter.* "
                "(hear asks)",
                "counter: this login, as a runner, may not subscribe perdure.ask.counter.*.*.* "
                "(hear a shard's asks)",
                "counter: this login, as a runner, may not publish perdure.log.counter.* "
                "(append commits)",
            ]
        }
        assert failed(await found(some, "counter", role="caller")) == {}
        shell = Shell(tmp_path, PERDURE_URL=server.url, PERDURE_USER="some", PERDURE_PASSWORD="p")
        ran = await asyncio.to_thread(shell.type, "check", "app")
        assert ran.code == 1
        assert "may not publish perdure.log.counter.*" in ran.out


async def test_a_login_that_may_not_ask_at_all(own_server: OwnServer) -> None:
    users = '[{user: u, password: p, permissions: {publish: {deny: "$JS.API.>"}}}]'
    server = await own_server(extra=f"accounts {{ A {{ jetstream: on, users: {users} }} }}")
    settings = Settings(url=server.url, user="u", password="p")
    findings = await found(settings, "counter")
    assert list(failed(findings)) == ["streams", "permissions", "runner"]
    assert "allow it" in findings["streams"][0].next
    assert "may not publish $JS.API" in findings["permissions"][0].what
    findings = await found(settings, role="caller")
    assert list(failed(findings)) == ["types"]
    assert "--type account" in findings["types"][0].next


async def test_streams_that_may_not_be_looked_at(own_server: OwnServer) -> None:
    denied = '{publish: {deny: "$JS.API.STREAM.INFO.PERDURE_LOG_counter"}}'
    users = f"[{{user: all, password: p}}, {{user: some, password: p, permissions: {denied}}}]"
    server = await own_server(extra=f"accounts {{ A {{ jetstream: on, users: {users} }} }}")
    async with hosted(server.url, user="all", password="p") as settings:
        findings = await found(msgspec.structs.replace(settings, user="some"), "counter")
    assert failed(findings)["streams"] == ["PERDURE_LOG_counter can't be read"]
    assert len(failed(findings)["permissions"]) == 1


async def test_a_wrong_password(own_server: OwnServer) -> None:
    server = await own_server(extra="authorization { user: u, password: p }")
    findings = await found(Settings(url=server.url, user="u", password="x"), "counter")
    assert list(findings) == ["server"]
    assert "the login" in findings["server"][0].next


# -- pure ---------------------------------------------------------------------------------------
def test_a_stream_that_cannot_be_read() -> None:
    wanted = [log_stream(Settings(), Subjects(), "counter")]
    (finding,) = streams_found("counter", wanted, {})
    assert not finding.ok
    assert finding.what == "PERDURE_LOG_counter can't be read"


def test_a_runner_that_cuts_the_type_in_another_way() -> None:
    info = TypeInfo("counter", 1, 16, "r1", 0)
    assert runner_found(info, Sharding(1, 16)).ok
    assert runner_found(info, None).ok
    finding = runner_found(info, Sharding(2, 32))
    assert not finding.ok
    assert "16 shards (generation 1), its stream in 32 (generation 2)" in finding.what


@pytest.mark.parametrize(
    ("ahead_s", "ok", "warning"), [(0.5, True, False), (-2.0, True, True), (1000.0, False, False)]
)
def test_a_clock_is_held_against_the_servers(ahead_s: float, ok: bool, warning: bool) -> None:
    (finding,) = clocks_found(Settings(made_window=900.0), {"runner r": ahead_s})
    assert (finding.ok, finding.warning) == (ok, warning)
    assert finding.what.startswith("the clock of runner r is ")
    assert bool(finding.next) == (warning or not ok)


def test_a_send_is_held_against_the_objective() -> None:
    quick, slow = send_found("account", 0.003, 0.1), send_found("account", 0.3, 0.1)
    assert (quick.ok, quick.warning) == (True, False)
    assert quick.what == (
        "account: the slowest of 20 questions was answered after 3.0 ms, "
        "the objective of a send, one way, is 100 ms"
    )
    assert (slow.ok, slow.warning) == (True, True)
