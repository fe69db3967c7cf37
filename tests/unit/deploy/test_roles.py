"""Each role with just what `perdure permissions` prints: what it cannot do, cell by cell.

The table says who may do what, by hand; each cell is tried on a real server. What a role must not
do is tried as it would do harm, and refused: the server says so, nobody hears it, nothing is
stored or changed. What it may is tried without effect. (That each can do its work is in
test_permissions.py.)
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from perdure.deploy.permissions import PROBE_HEADERS, Need, Role
from perdure.deploy.server import EmbeddedServer
from perdure.durable.connect import connect

from ...support.server import PATIENCE_S
from .booking import Hotel, hotel
from .booking import Take as TakeRoom
from .commands import Shell
from .counter import Add, Counter, counter
from .granted import Keys, Plain, printed

OwnServer = Callable[..., Awaitable[EmbeddedServer]]
ROLES: tuple[Role, ...] = ("caller", "reader", "runner", "operator")
CALLER, READER, RUNNER, OPERATOR = ROLES
ADMIN = "user: admin, password: p"
STREAMS = (
    *(f"PERDURE_{kind}_counter" for kind in ("CMD", "LOG", "SNAP", "IDS")),
    *("PERDURE_DEAD", "PERDURE_TIME", "KV_PERDURE_MEMBERS"),
)


@dataclass(frozen=True)
class Deed:
    """Something that a login tries."""

    verb: str
    subject: str
    allowed: frozenset[Role]
    body: bytes = b"{}"
    headers: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        told = " ".join(f"{name}:{value}" for name, value in self.headers)
        return f"{self.verb} {self.subject} {told}".strip()


def pub(subject: str, *allowed: Role, body: object = None, **headers: str) -> Deed:
    given = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    data = json.dumps({} if body is None else body).encode()
    return Deed("publish", subject, frozenset(allowed), data, given)


def api(request: str, *allowed: Role, body: object = None) -> Deed:
    return pub(f"$JS.API.{request}", *allowed, body=body)


def sub(subject: str, *allowed: Role) -> Deed:
    return Deed("subscribe", subject, frozenset(allowed))


ADD = {"type": "add", "n": 1}
NEW = {"name": "NEW", "subjects": ["new"]}
PUSH = {
    "stream_name": "PERDURE_LOG_counter",
    "config": {"deliver_subject": "perdure.to.counter.a"},
}

WRITING = [
    pub("perdure.ask.counter.a", CALLER, OPERATOR, RUNNER, body=ADD),
    pub("perdure.ask.counter.1.0.a", CALLER, OPERATOR, body=ADD),
    pub("perdure.ask.hotel.1.0.h", body={"type": "take"}),
    pub("perdure.to.counter.a", CALLER, OPERATOR, RUNNER, body=ADD),
    pub("perdure.ask.hotel.h", RUNNER, body={"type": "take"}),  # its flows ask every type
    pub("perdure.to.hotel.h", RUNNER, body={"type": "take"}),
    pub("perdure.info.counter", CALLER, OPERATOR, RUNNER),
    pub("perdure.info.hotel"),
    pub("perdure.signal.counter", CALLER, OPERATOR),
    pub("perdure.signal.hotel"),
    pub("perdure.log.counter.a", RUNNER),
    pub("perdure.log.hotel.h"),
    pub("perdure.log.counter.new", RUNNER),
    pub("perdure.cmd.counter.1.0.a", body=ADD),
    pub("perdure.snap.counter.a", RUNNER),
    pub("perdure.snap.hotel.h"),
    pub("perdure.ids.counter.page", RUNNER, OPERATOR),
    pub("perdure.ids.counter.all", RUNNER, OPERATOR, Nats_Rollup="sub"),
    pub("perdure.ids.hotel.page", Nats_Rollup="all"),
    pub("perdure.dead.counter.a", RUNNER),
    pub("perdure.later.counter.a.t", RUNNER, Nats_Schedule="@at 2026-01-01T00:00:00Z"),
    pub("perdure.due.counter.a.t"),
    pub("perdure.members", RUNNER, body={"type": "gone", "runner": "r", "edition": 9}),
    pub("perdure.member.nobody", RUNNER, OPERATOR, body={"type": "drain"}),
    pub("perdure.resize.counter"),
    pub("perdure.resize.hotel"),
    pub("perdure.stats", OPERATOR),
    pub("$KV.PERDURE_MEMBERS.singleton.x", RUNNER),
    pub("$KV.PERDURE_MEMBERS.all", RUNNER, Nats_Rollup="all"),
    pub("_INBOX.admin.1", RUNNER),  # whom it answers
    pub("_R_.x", RUNNER),
    pub("perdure.reply.x", RUNNER),
    pub("anything.else"),
]
MANAGING = [
    api("INFO"),
    api("STREAM.CREATE.NEW", body=NEW),
    api("STREAM.UPDATE.PERDURE_LOG_counter", body={**NEW, "name": "PERDURE_LOG_counter"}),
    api("STREAM.UPDATE.PERDURE_CMD_hotel", body={**NEW, "name": "PERDURE_CMD_hotel"}),
    api("STREAM.UPDATE.PERDURE_CMD_counter", body={"name": "x"}),
    *(api(f"STREAM.DELETE.{name}") for name in STREAMS),
    *(api(f"STREAM.PURGE.{n}") for n in STREAMS if n not in ("PERDURE_TIME", STREAMS[-1])),
    api("STREAM.PURGE.PERDURE_TIME", RUNNER),
    api("STREAM.PURGE.KV_PERDURE_MEMBERS", RUNNER),
    api("STREAM.MSG.DELETE.PERDURE_LOG_counter", body={"seq": 1}),
    api("STREAM.MSG.DELETE.PERDURE_IDS_counter", body={"seq": 1}),
    api("STREAM.MSG.DELETE.KV_PERDURE_MEMBERS", body={"seq": 1}),
    api("STREAM.MSG.DELETE.PERDURE_CMD_counter", RUNNER, body={"seq": 1}),
    api("STREAM.MSG.DELETE.PERDURE_DEAD", OPERATOR, body={"seq": 1}),
    api("STREAM.LIST"),
    api("STREAM.NAMES", OPERATOR),
    api("STREAM.INFO.PERDURE_LOG_counter", RUNNER, OPERATOR),
    api("STREAM.INFO.PERDURE_LOG_hotel"),
    api("STREAM.SNAPSHOT.PERDURE_LOG_counter", body={"deliver_subject": "_INBOX.a"}),
    api("STREAM.RESTORE.NEW", body={"config": NEW}),
    api("STREAM.MSG.GET.PERDURE_LOG_counter", READER, RUNNER, OPERATOR, body={"seq": 1}),
    api("STREAM.MSG.GET.PERDURE_LOG_hotel", body={"seq": 1}),
    api("DIRECT.GET.PERDURE_LOG_counter", READER, RUNNER, OPERATOR, body={"seq": 1}),
    api("DIRECT.GET.PERDURE_LOG_hotel", body={"seq": 1}),
    api("DIRECT.GET.PERDURE_SNAP_counter", RUNNER, OPERATOR, body={"seq": 1}),
    api("DIRECT.GET.PERDURE_DEAD", OPERATOR, body={"seq": 1}),
    api("DIRECT.GET.KV_PERDURE_MEMBERS", RUNNER, OPERATOR, body={"seq": 1}),
    api("STREAM.MSG.GET.KV_PERDURE_MEMBERS", RUNNER, body={"seq": 1}),
    api("CONSUMER.CREATE.PERDURE_LOG_counter", body=PUSH),
    api("CONSUMER.CREATE.PERDURE_LOG_hotel.x.perdure.log.hotel.*", body=PUSH),
    api("CONSUMER.CREATE.PERDURE_CMD_counter.x", body=PUSH),
    api("CONSUMER.DURABLE.CREATE.PERDURE_CMD_counter.x", body=PUSH),
    api("CONSUMER.LIST.PERDURE_LOG_counter"),
    api("CONSUMER.LIST.PERDURE_CMD_counter", RUNNER),
    api("CONSUMER.NAMES.PERDURE_CMD_counter", RUNNER),
    api("CONSUMER.DELETE.PERDURE_CMD_hotel.x"),
    api("CONSUMER.DELETE.PERDURE_CMD_counter.none", RUNNER),
    api("CONSUMER.DELETE.PERDURE_TIME.relay"),
    api("CONSUMER.MSG.NEXT.PERDURE_CMD_counter.none", RUNNER),
    api("CONSUMER.PAUSE.PERDURE_TIME.relay", body={"pause_until": "2030-01-01T00:00:00Z"}),
    api("CONSUMER.RESET.PERDURE_TIME.relay"),
    api("STREAM.LEADER.STEPDOWN.PERDURE_LOG_counter"),
    api("STREAM.PEER.REMOVE.PERDURE_LOG_counter", body={"peer": "x"}),
    api("META.LEADER.STEPDOWN"),
    api("ACCOUNT.PURGE.A"),
    pub("$JS.ACK.PERDURE_CMD_counter.none.1.1.1.1.1", RUNNER),
    pub("$JS.ACK.PERDURE_CMD_hotel.none.1.1.1.1.1"),
    pub("$JS.FC.x"),
    pub("$SYS.REQ.SERVER.PING"),
    pub("$SYS.REQ.ACCOUNT.PING.CONNZ"),
]
LISTENING = [
    *(sub(subject) for subject in (">", "*", "_INBOX.>", "_INBOX.admin.>", "perdure.>", "_R_.>")),
    *(sub(f"_INBOX.{role}.>", role) for role in ROLES),
    sub("perdure.ask.counter.*", RUNNER),
    sub("perdure.ask.hotel.*"),
    *(sub(f"perdure.{kind}.counter.*") for kind in ("to", "log", "snap", "ids", "dead", "reply")),
    sub("perdure.info.counter", RUNNER),
    sub("perdure.signal.counter", RUNNER),
    sub("perdure.members", RUNNER),
    sub("perdure.member.*", RUNNER),
    sub("perdure.stats", RUNNER),
    sub("$KV.PERDURE_MEMBERS.>"),
    sub("$JS.API.>"),
    sub("$JS.EVENT.>"),
    sub("$SYS.>"),
]
DEEDS = [*WRITING, *MANAGING, *LISTENING]


async def users(
    own_server: OwnServer, folder: Path, patch: pytest.MonkeyPatch
) -> tuple[EmbeddedServer, Keys]:
    """A server with one account: these roles as printed, and one that sees all."""
    keys = Keys(folder, patch, ROLES)
    blocks = [f"{{ {ADMIN} }}"]
    for role in ROLES:
        inbox = f"_INBOX.{role}"
        blocks.append(printed(folder, "--role", role, "--type", "counter", "--inbox", inbox))
    listed = "\n".join(blocks)
    extra = f"accounts {{ A {{ jetstream: enabled, users: [\n{listed}\n] }} }}"
    return await own_server(extra=extra), keys


async def test_the_matrix(
    own_server: OwnServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, keys = await users(own_server, tmp_path, monkeypatch)
    login: dict[str, Any] = {"user": "admin", "password": "p", "nkey_seed": None}
    settings = keys.settings(server, "runner", **login)
    async with connect(serving=[counter, hotel], settings=settings) as cluster:
        await cluster.at(Counter, "a").ask(Add(1))
        await cluster.at(Hotel, "h").ask(TakeRoom())
    admin = Plain()
    await admin.nc.connect(server.url, user="admin", password="p")
    heard = await admin.nc.subscribe(">")
    tried = 0
    for role in ROLES:
        plain = await keys.client(server, role, inbox_prefix=f"_INBOX.{role}")
        before = await everything(admin)
        await admin.said()
        seen = heard.pending_msgs
        for deed in DEEDS:
            if role not in deed.allowed:
                await attempt(plain, deed)
                (told,) = await plain.said()
                assert "permissions violation" in told, (role, str(deed), told)
                assert f'"{deed.subject}"'.lower() in told, (role, str(deed), told)
                tried += 1
        await admin.said()
        assert heard.pending_msgs == seen, f"somebody heard of {role}"
        assert await everything(admin) == before, role
        for deed in DEEDS:
            if role in deed.allowed:
                await attempt(plain, harmless(deed))
                assert await plain.said() == [], (role, str(deed))
        await plain.nc.close()
    assert tried == sum(len(ROLES) - len(deed.allowed) for deed in DEEDS) > 300
    await admin.nc.close()


async def test_what_a_reader_can_do_by_a_reply_subject(
    own_server: OwnServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In the account of the streams it can have what it reads stored elsewhere: as nonsense.

    No command comes of it, and no log says anything else; it is reported. But see the next one:
    who reads there must be trusted.
    """
    server, keys = await users(own_server, tmp_path, monkeypatch)
    login: dict[str, Any] = {"user": "admin", "password": "p", "nkey_seed": None}
    settings = keys.settings(server, "runner", **login)
    async with connect(serving=[counter], settings=settings) as cluster:
        a, b = cluster.at(Counter, "a"), cluster.at(Counter, "b")
        assert await a.ask(Add(1)) == 1
        reader = await keys.client(server, "reader", inbox_prefix="_INBOX.reader")
        for target in ("perdure.to.counter.b", "perdure.log.counter.a"):
            for way in ("DIRECT.GET", "STREAM.MSG.GET"):
                request = f"$JS.API.{way}.PERDURE_LOG_counter"
                await reader.nc.publish(request, b'{"seq":1}', reply=target)
        assert await reader.said() == []
        assert await b.ask(Add(7), durable=True) == 7  # behind what came of it
        assert await a.ask(Add(1)) == 2
        assert [c.version async for c in cluster.history(counter, "a")][-1] == 2
        await reader.nc.close()
    actions = {vars(record).get("action") for record in caplog.records}
    assert {"command.dead", "log.foreign"} <= actions


WEAPONS = (
    "STREAM.PURGE.PERDURE_LOG_counter",
    "STREAM.PURGE.PERDURE_CMD_counter",
    *(f"STREAM.DELETE.{name}" for name in STREAMS),
)
"""Where the answer to a look-up is sent to."""


@pytest.mark.parametrize("role", [READER, OPERATOR, RUNNER])
async def test_who_reads_a_log_directly_can_delete_every_stream(
    own_server: OwnServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: Role
) -> None:
    """A weakness that no permission on subjects mends; docs/security.md tells it.

    The server sends an answer in its own name to any reply subject. That to a *direct* look-up of
    a sequence that isn't there has no body: a request of the API that needs none is obeyed. One
    with a body, as all of a leader's are, isn't.
    """
    server, keys = await users(own_server, tmp_path, monkeypatch)
    login: dict[str, Any] = {"user": "admin", "password": "p", "nkey_seed": None}
    settings = keys.settings(server, "runner", **login)
    async with connect(serving=[counter, hotel], settings=settings) as cluster:
        await cluster.at(Counter, "a").ask(Add(1))
        await cluster.at(Hotel, "h").ask(TakeRoom())
    admin = Plain()
    await admin.nc.connect(server.url, user="admin", password="p")
    await admin.nc.request("perdure.to.counter.a", json.dumps(ADD).encode())
    audits = await admin.nc.subscribe("$JS.EVENT.ADVISORY.API")
    answers = await admin.nc.subscribe("$JS.API.STREAM.*.*")
    plain = await keys.client(server, role, inbox_prefix=f"_INBOX.{role}")

    async def answered(way: str, sequence: int, weapon: str) -> None:
        body = json.dumps({"seq": sequence}).encode()
        await plain.nc.publish(f"$JS.API.{way}.PERDURE_LOG_counter", body, reply=weapon)
        assert await plain.said() == []
        while (await answers.next_msg(timeout=PATIENCE_S)).subject != weapon:
            pass

    async def streams(sequence: int, target: str) -> dict[str, int]:
        """Send a direct answer there; what each stream has when the API has dealt with it."""
        await answered("DIRECT.GET", sequence, weapon := f"$JS.API.{target}")
        while json.loads((await audits.next_msg(timeout=PATIENCE_S)).data)["subject"] != weapon:
            pass
        listed = json.loads((await admin.nc.request("$JS.API.STREAM.LIST")).data)["streams"]
        return {one["config"]["name"]: one["state"]["messages"] for one in listed}

    before = await streams(99, WEAPONS[0])
    assert before["PERDURE_LOG_counter"] == 1, "deny_purge holds"
    for target in WEAPONS:
        for sequence in (1, 99):
            await answered("STREAM.MSG.GET", sequence, f"$JS.API.{target}")
        assert await streams(1, target) == before, target
    left = await streams(99, WEAPONS[1])
    assert (before["PERDURE_CMD_counter"], left["PERDURE_CMD_counter"]) == (1, 0)
    for name in ("PERDURE_LOG_hotel", *STREAMS[2:], STREAMS[0], STREAMS[1]):  # as it answers: last
        left = await streams(99, f"STREAM.DELETE.{name}")
    assert sorted(left) == ["PERDURE_CMD_hotel", "PERDURE_IDS_hotel", "PERDURE_SNAP_hotel"]
    await plain.nc.close()
    await admin.nc.close()


APART = """accounts {
  CORE {
    jetstream: enabled, users: [{ user: admin, password: p }]
    exports: [{ service: "$JS.API.DIRECT.GET.S" }]
  }
  AUDIT {
    users: [{ user: audit, password: p }]
    imports: [{ service: { account: CORE, subject: "$JS.API.DIRECT.GET.S" } }]
  }
}"""


async def test_in_an_account_of_its_own_a_reader_has_no_such_weapon(own_server: OwnServer) -> None:
    """Why `layout` has it so: it reads, and its reply subjects mean nothing elsewhere."""
    server = await own_server(extra=APART)
    admin, audit = Plain(), Plain()
    await admin.nc.connect(server.url, user="admin", password="p")
    await audit.nc.connect(server.url, user="audit", password="p")
    for name in ("S", "T"):
        config = {"name": name, "subjects": [name.lower()], "allow_direct": True}
        await admin.nc.request(f"$JS.API.STREAM.CREATE.{name}", json.dumps(config).encode())
    await admin.nc.request("s", b"hello")
    audits = await admin.nc.subscribe("$JS.EVENT.ADVISORY.API")
    look, nothing = "$JS.API.DIRECT.GET.S", b'{"seq":99}'
    for weapon in ("PURGE.S", "DELETE.S"):
        await audit.nc.publish(look, nothing, reply=f"$JS.API.STREAM.{weapon}")
    assert (await audit.nc.request(look, b'{"seq":1}')).data == b"hello"
    weapon = "$JS.API.STREAM.DELETE.T"
    await admin.nc.publish(look, nothing, reply=weapon)  # of the account itself: as above
    while json.loads((await audits.next_msg(timeout=PATIENCE_S)).data)["subject"] != weapon:
        pass
    listed = json.loads((await admin.nc.request("$JS.API.STREAM.LIST")).data)["streams"]
    assert [(s["config"]["name"], s["state"]["messages"]) for s in listed] == [("S", 1)]
    await audit.nc.close()
    await admin.nc.close()


def test_of_each_role_much_is_forbidden() -> None:
    for role in ROLES:
        forbidden = [deed for deed in DEEDS if role not in deed.allowed]
        for verb in ("publish", "subscribe"):
            assert len([deed for deed in forbidden if deed.verb == verb]) >= 10, (role, verb)
    assert len({str(deed) for deed in DEEDS}) == len(DEEDS)


def harmless(deed: Deed) -> Deed:
    """The same without an effect: as `perdure check` tries it."""
    body = Need("publish", deed.subject, "", deed.subject).body
    return Deed(deed.verb, deed.subject, deed.allowed, body, tuple(PROBE_HEADERS.items()))


async def attempt(plain: Plain, deed: Deed) -> None:
    """Try it; what comes of it is said later."""
    if deed.verb == "subscribe":
        await (await plain.nc.subscribe(deed.subject)).unsubscribe()
    else:
        await plain.nc.publish(deed.subject, deed.body, headers=dict(deed.headers) or None)


async def everything(admin: Plain) -> list[object]:
    """Configurations, states and consumers of all streams, without what time itself changes:
    records of runners go by themselves."""
    listed = json.loads((await admin.nc.request("$JS.API.STREAM.LIST")).data)["streams"]
    found: list[object] = []
    for stream in listed:
        name = stream["config"]["name"]
        answer = await admin.nc.request(f"$JS.API.CONSUMER.LIST.{name}")
        consumers = json.loads(answer.data)["consumers"]
        state = stream["state"]
        if name == "KV_PERDURE_MEMBERS":
            state = state["last_seq"]
        found.append((stream["config"], state, [c["config"] for c in consumers]))
    return found


def covered(pattern: str, subject: str) -> bool:
    """Whether a grant covers a subject, or a narrower pattern."""
    wanted, given = pattern.split("."), subject.split(".")
    for i, token in enumerate(wanted):
        if token == ">":
            return len(given) > i
        if i >= len(given) or given[i] == ">" or token not in ("*", given[i]):
            return False
    return len(wanted) == len(given)


def granted(folder: Path, role: str) -> Iterator[tuple[str, str]]:
    inbox = f"_INBOX.{role}"
    claims = json.loads(
        printed(folder, "--role", role, "--type", "counter", "--inbox", inbox, "--format", "jwt")
    )
    for verb in ("pub", "sub"):
        yield from ((verb, subject) for subject in claims[verb]["allow"])


def test_the_claims_of_a_jwt_say_the_same(tmp_path: Path) -> None:
    """By the same table: without a server, as the claims are the same subjects."""
    for role in ROLES:
        grants = list(granted(tmp_path, role))
        for deed in DEEDS:
            may = any(v == deed.verb[:3] and covered(s, deed.subject) for v, s in grants)
            assert may == (role in deed.allowed), (role, str(deed))


def test_each_permission_has_its_reason(tmp_path: Path) -> None:
    """As comments in a configuration, as a field in JSON; the same permissions in all forms."""
    shell = Shell(tmp_path)
    line = ("permissions", "app", "--role", "runner", "--create")
    told = shell.type(*line, "--json").lines
    assert {"verb": "subscribe", "subject": "_INBOX.>", "why": "get answers"} in told
    assert any(one["subject"] == "$JS.API.STREAM.CREATE.PERDURE_TIME" for one in told)
    text = shell.type(*line).out
    for one in told:
        assert f'"{one["subject"]}"  # {one["why"]}' in text
    assert shell.type(*line, "--format", "nats", "--json").lines == [{"configuration": text}]
    claims = json.loads(shell.type(*line, "--format", "jwt").out)
    assert shell.type(*line, "--format", "jwt", "--json").lines == [claims]
    for verb, name in (("publish", "pub"), ("subscribe", "sub")):
        assert claims[name]["allow"] == [o["subject"] for o in told if o["verb"] == verb]
    assert "resp" not in claims, "nobody needs to answer where it is not allowed to publish"
