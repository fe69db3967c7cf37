"""`perdure schema` against what really goes over the wire.

A plain client talks to a real runner, and all that is sent, answered and stored is held against
the schemas. What the runner refuses as malformed the schemas refuse too, and the other way round.
"""

from __future__ import annotations

import asyncio
import copy
import gzip
import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, cast

import jsonschema
import msgspec
import pytest
import pytest_asyncio

from perdure import Entity, connect
from perdure.deploy.asyncapi import async_api
from perdure.deploy.schema import json_schema
from perdure.deploy.server import EmbeddedServer
from perdure.deploy.wireschema import Resume
from perdure.durable import waker
from perdure.entities.errors import REASONS
from perdure.entities.tagged import to_wire
from perdure.streams.subjects import Subjects, escape

from ...bank import account
from ...support.server import PATIENCE_S, fresh_namespace, plain_client, settings_for
from .booking import hotel, trip
from .commands import Shell

ENTITIES: list[Entity[Any, Any]] = [account, hotel, trip]
DOCUMENT: dict[str, Any] = json.loads(msgspec.json.encode(json_schema(ENTITIES)))
DEPOSIT = {"type": "deposit", "cents": 5}
OFFICIAL = Path(__file__).with_name("asyncapi") / "3.0.0.json.gz"


def is_valid(part: str, value: object) -> bool:
    """Whether a message is what that part of the document says."""
    schema = {**DOCUMENT, "$ref": f"#/$defs/{part}"}
    checker: Any = jsonschema.Draft202012Validator(schema)
    return bool(checker.is_valid(value))


def require(part: str, value: object) -> None:
    """Fail, with the reason, unless it is valid."""
    schema = {**DOCUMENT, "$ref": f"#/$defs/{part}"}
    checker: Any = jsonschema.Draft202012Validator(schema)
    errors = [f"{error.json_path}: {error.message}" for error in checker.iter_errors(value)]
    assert not errors, f"{part}: {json.dumps(value)}: {errors[0]}"


class Plain:
    """A plain client that holds all that it sees against the document."""

    def __init__(self, nc: Any, namespace: str) -> None:
        self.nc, self.to = nc, Subjects(namespace)

    async def request(
        self, subject: str, body: object, headers: dict[str, str] | None = None
    ) -> Any:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        message = await self.nc.request(subject, data, timeout=PATIENCE_S, headers=headers)
        return json.loads(message.data)

    async def ask(self, entity: str, id: str, body: object, **headers: str) -> Any:
        """The answer to an ask, in the shape that its command has."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = await self.request(self.to.ask(entity, escape(id)), body, named or None)
        require(f"{entity}.answer", answer)
        if isinstance(body, dict):
            of = cast("dict[str, Any]", body)["type"]
            require("Perdure.answer.woken" if of[0] == "$" else f"{entity}.answer.{of}", answer)
        return answer

    async def tell(self, entity: str, id: str, body: object, **headers: str) -> Any:
        """JetStream's answer to a tell."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = await self.request(self.to.to(entity, escape(id)), body, named or None)
        require("Perdure.acknowledgement", answer)
        return answer

    async def settled(self) -> None:
        """Wait until no tell of an account waits any more."""
        stream = self.to.command_stream("account")
        async with asyncio.timeout(PATIENCE_S):
            while (await self.nc.jetstream().stream_info(stream)).state.messages:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def stored(self, stream: str) -> list[Any]:
        """All messages of a stream."""
        jetstream = self.nc.jetstream()
        last = (await jetstream.stream_info(stream)).state.last_seq
        return [await jetstream.get_msg(stream, n) for n in range(1, last + 1)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plain(nats_server: EmbeddedServer) -> AsyncIterator[Plain]:
    """A runner, and a client of it."""
    settings = settings_for(nats_server, fresh_namespace())
    async with connect(settings=settings, serving=ENTITIES):
        nc = await plain_client(nats_server)
        yield Plain(nc, settings.namespace)
        await nc.close()


# -- what is really sent -----------------------------------------------------------------------
@pytest.mark.asyncio(loop_scope="module")
async def test_answers_errors_and_what_is_stored(plain: Plain) -> None:
    new = await plain.ask("account", "new", {"type": "get_balance"})
    assert new["seq"] == 0
    for control in ([1, "status", None], [1, "state", None], [1, "flows", None]):
        require("account.ask", control)
        assert "reply" in await plain.ask("account", "new", control)
    inbox = plain.nc.new_inbox()
    answers = await plain.nc.subscribe(inbox)
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = {"Idempotency-Key": "k", "traceparent": trace, "Perdure-Reply-To": inbox}
    require("Perdure.headers.tell", headers)
    require("account.tell", DEPOSIT)
    await plain.tell("account", "a-1", DEPOSIT, **headers)
    require("account.answer.deposit", json.loads((await answers.next_msg(PATIENCE_S)).data))
    recorded = await plain.ask("account", "a-1", [1, "result", None, "k", None, "r-1"])
    require("account.answer.deposit", recorded)
    assert recorded["reply"] == {"type": "balance", "cents": 5}
    refused = await plain.ask("account", "a-1", {"type": "withdraw", "cents": 9})
    assert refused["failure"]["type"] == "insufficient_funds"
    envelope = [1, "tell", DEPOSIT, None, None, "r-2"]
    require("account.tell", envelope)
    await plain.tell("account", "a-1", envelope)
    await plain.tell("account", "a-1", b"not json")
    await plain.tell("account", "a=2e", DEPOSIT)  # an id that can't be is escaped here, and fine
    await plain.request(plain.to.to("account", "a=2e"), DEPOSIT)
    status = await plain.ask("account", "a-1", [1, "status", None])
    assert status["reply"]["status"] in ("idle", "processing")
    ago = {"time": "2020-01-01T00:00:00Z"}
    require("account.ask", [1, "state", ago])
    require("account.state.answer", await plain.ask("account", "a-1", [1, "state", ago]))
    tags = [
        (await plain.ask("account", "a-1", DEPOSIT, Perdure_Deadline="1"))["error"]["type"],
        (await plain.ask("account", "a-1", [1, "state", {"version": 99}]))["error"]["type"],
    ]
    wrong = plain.to.ask_shard("account", 1, 3, "a-1")  # shard 2 of 4
    elsewhere = await plain.request(wrong, DEPOSIT)
    require("account.answer.deposit", elsewhere)
    assert [*tags, elsewhere["error"]["type"]] == [
        *("SendTimeout", "MalformedMessage", "EntityNotAssignedToRunner")
    ]


@pytest.mark.asyncio(loop_scope="module")
async def test_a_flow_from_suspended_to_its_end(plain: Plain) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:  # suspended at "think" first, which shows no token
            told = await plain.ask("trip", "t-1", {"type": "book"}, Idempotency_Key="b")
            assert told["error"]["type"] == "Suspended", told
            if told["error"]["resume_token"] is not None:
                break
    flows = await plain.ask("trip", "t-1", [1, "flows", None])
    require("Perdure.answer.flows", flows)
    assert flows["reply"][0]["waits_for"] == ["confirmed"]
    resume = {"type": "$resume", "token": told["error"]["resume_token"], "value": 7}
    require("trip.ask", resume)
    require("trip.tell", resume)
    woken = await plain.ask("trip", "t-1", resume)
    require("Perdure.answer.woken", woken)
    ended = await plain.ask("trip", "t-1", [1, "result", None, "b"])
    require("trip.answer.book", ended)
    assert ended["reply"] == 7
    forged = await plain.ask("trip", "t-1", {**resume, "token": "x"})
    assert forged["error"]["type"] == "MalformedMessage"
    large = {"type": "withdraw_large", "cents": 1}
    await plain.ask("account", "f-1", DEPOSIT)
    opened = await plain.ask("account", "f-1", large, Idempotency_Key="w")
    assert opened["error"]["type"] == "Suspended"
    await plain.ask("account", "f-1", {"type": "$cancel", "flow": "w"})
    await plain.ask("account", "f-1", {"type": "$retry", "flow": "w"})


@pytest.mark.asyncio(loop_scope="module")
async def test_what_is_stored_and_told_of_types(plain: Plain) -> None:
    await plain.tell("account", "s-1", b"not json")
    await plain.request(plain.to.to("account", "b=2e"), DEPOSIT)
    await plain.ask("account", "s-1", DEPOSIT)
    await plain.settled()
    seen: set[str] = set()
    for entity in ENTITIES:
        require("Perdure.type.TypeInfo", await plain.request(plain.to.info(entity.name), b""))
        for message in await plain.stored(plain.to.log_stream(entity.name)):
            commit = json.loads(message.data)
            require(f"{entity.name}.commit", commit)
            require("Perdure.headers.commit", dict(message.headers))
            seen |= {way for outcome in commit["outcomes"] for way in outcome}
        for message in await plain.stored(plain.to.ids_stream(entity.name)):
            require("Perdure.type.Registration", json.loads(message.data))
    assert {"reply", "dead", "events", "command"} <= seen
    dead = await plain.stored(plain.to.dead_stream)
    assert dead
    for message in dead:
        require("account.outcome", json.loads(message.data))
    stats = await plain.request(plain.to.stats, b"")
    require("Perdure.type.RunnerStats", stats)


BODIES: list[Any] = [
    DEPOSIT,
    {"cents": 5, "type": "deposit"},
    {"type": "withdraw", "cents": 1},
    {"type": "get_balance"},
    [1, "ask", DEPOSIT],
    [1, "ask", DEPOSIT, "k-1", None, "r-1", None, None, None, None, False, None, None, []],
    [1, "ask", DEPOSIT, "k-2", 0],
    [1, "ask", DEPOSIT, None, None, None, None, None, None, None, False, None, None, [], "later"],
    [1, "status", {"any": "thing"}],
    [1, "state", {"version": 0}],
    [1, "result", DEPOSIT, "k-1"],
    {},
    [],
    "text",
    None,
    {"type": "rob", "cents": 5},
    {"cents": 5},
    {"type": "deposit"},
    {"type": "deposit", "cents": "5"},
    {"type": "deposit", "cents": 5.5},
    {"type": "deposit", "cents": None},
    {"type": "deposit", "cents": 5, "more": 1},
    {"type": "get_balance", "more": 1},
    {"type": "$resume"},
    {"type": "$resume", "token": 5},
    {"type": "$cancel", "flow": "k", "more": 1},
    {"type": "$odd"},
    [2, "ask", DEPOSIT],
    ["1", "ask", DEPOSIT],
    [1, "shout", DEPOSIT],
    [1, "ask"],
    [1, "ask", None],
    [1, "ask", {"type": "deposit"}],
    [1, "tell", DEPOSIT],
    [1, "ask", DEPOSIT, "a b"],
    [1, "ask", DEPOSIT, ""],
    [1, "ask", DEPOSIT, 5],
    [1, "ask", DEPOSIT, "k-3", -1],
    [1, "ask", DEPOSIT, None, None, 5],
    [1, "ask", DEPOSIT, None, None, None, None, "soon"],
    [1, "ask", DEPOSIT, None, None, None, None, None, None, None, "yes"],
    [1, "ask", DEPOSIT, None, None, None, None, None, None, None, False, None, 5],
    [1, "ask", DEPOSIT, None, None, None, None, None, None, None, False, None, 1764000000000],
    [1, "result", None],
    [1, "result", None, None],
    [1, "result", {"type": "get_balance"}, "k-1"],
    [1, "state", {"version": -1}],
    [1, "state", {"version": 0, "more": 1}],
    [1, "state", 5],
]


@pytest.mark.asyncio(loop_scope="module")
async def test_runner_and_schema_refuse_the_same_bodies(plain: Plain) -> None:
    subject = plain.to.ask("account", "b-1")
    for body in BODIES:
        answer = await plain.request(subject, body)
        malformed = answer.get("error", {}).get("type") == "MalformedMessage"
        assert is_valid("account.ask", body) is not malformed, (body, answer)


HEADERS = [
    {"Idempotency-Key": "order-17"},
    {"Perdure-Deadline": "1764000000000"},
    {"traceparent": "anything"},
    {"Other": "is not ours"},
    {"Idempotency-Key": "a b"},
    {"Idempotency-Key": "k" * 256},
    {"Perdure-Deadline": "tomorrow"},
    {"Perdure-Deadline": "-1"},
    {"Perdure-Deadline": "1" * 16},
    {"Perdure-At": "1764000000000"},
    {"Nats-Msg-Id": "x"},
]


@pytest.mark.asyncio(loop_scope="module")
async def test_runner_and_schema_refuse_the_same_headers(plain: Plain) -> None:
    for headers in HEADERS:
        answer = await plain.request(plain.to.ask("account", "h-1"), DEPOSIT, headers)
        malformed = answer.get("error", {}).get("type") == "MalformedMessage"
        assert is_valid("Perdure.headers.ask", headers) is not malformed, (headers, answer)


TOLD: list[Any] = [
    DEPOSIT,
    {"type": "withdraw", "cents": 1},
    {"type": "$cancel", "flow": "unheard"},
    [1, "tell", DEPOSIT],
    [1, "tell", DEPOSIT, "k", None, "r", None, None, None, None, False, None, 0],
    {"type": "get_balance"},
    {"type": "deposit"},
    "text",
    [1, "tell", {"type": "get_balance"}],
    [1, "tell", DEPOSIT, "a b"],
    [1, "tell", DEPOSIT, None, None, None, 5],
    [1, "ask", DEPOSIT],
    [1, "status", None],
]


@pytest.mark.asyncio(loop_scope="module")
async def test_runner_and_schema_refuse_the_same_tells(plain: Plain) -> None:
    for n, body in enumerate(TOLD):
        await plain.request(plain.to.to("account", f"told-{n}"), body)
    await plain.settled()
    dead = {message.subject for message in await plain.stored(plain.to.dead_stream)}
    for n, body in enumerate(TOLD):
        refused = plain.to.dead("account", f"told-{n}") in dead
        assert is_valid("account.tell", body) is not refused, body


# -- what can't be sent ------------------------------------------------------------------------
def test_each_error_has_all_its_fields() -> None:
    for reason in REASONS:
        error = json.loads(msgspec.json.encode(to_wire(reason())))
        require("Perdure.error", error)
        for field in error:
            less = {name: value for name, value in error.items() if name != field}
            assert not is_valid("Perdure.error", less), (reason, field)


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"reply": {"type": "balance", "cents": 5}},
        {"reply": 5, "seq": 1, "version": 1},
        {"reply": {"type": "balance", "cents": "5"}, "seq": 1, "version": 1},
        {"failure": {"type": "not_approved", "by": None}, "seq": 1, "version": 1},
        {"error": {"type": "Unheard"}},
        {
            "reply": {"type": "balance", "cents": 5},
            "failure": {"type": "insufficient_funds", "balance": 1, "wanted": 2},
            "seq": 1,
            "version": 1,
        },
    ],
)
def test_what_no_runner_answers_is_refused(answer: object) -> None:
    assert not is_valid("account.answer.withdraw", answer)


COMMIT: dict[str, Any] = {
    **{"v": 1, "id": "a" * 24, "prev": "", "version": 1, "runner": "0123456789ab"},
    "time": "2026-11-24T10:00:00Z",
    "outcomes": [
        {
            "name": "k",
            "payload_hash": "c5a6eceb8a6dcb258832cd0e3d9d7c29",
            "command": {"type": "withdraw", "cents": 5},
            "events": [{"type": "withdrawn", "cents": 5}],
            "reply": {"type": "balance", "cents": 5},
        }
    ],
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("v", 2),
        ("prev", "x"),
        ("version", "1"),
        ("outcomes", []),
        ("outcomes.0.payload_hash", "x"),
        ("outcomes.0.events.0.type", "robbed"),
        ("outcomes.0.events.0.cents", "5"),
        ("outcomes.0.command.type", "rob"),
        ("outcomes.0.reply", 5),
        ("outcomes.0.failure", {"type": "insufficient_funds", "balance": 1, "wanted": 2}),
        ("outcomes.0.dead", {"reason": "defect", "error": {"type": "x"}}),
        ("outcomes.0.at", [1, 2]),
    ],
)
def test_a_commit_that_no_runner_writes_is_refused(path: str, value: object) -> None:
    require("account.commit", COMMIT)
    changed: Any = copy.deepcopy(COMMIT)
    *heads, last = path.split(".")
    at = changed
    for head in heads:
        at = at[int(head) if head.isdigit() else head]
    at[last] = value
    assert not is_valid("account.commit", changed)


def test_an_outcome_has_a_failure_of_its_own_command() -> None:
    outcome = {k: v for k, v in COMMIT["outcomes"][0].items() if k not in ("events", "reply")}
    own = {**outcome, "failure": {"type": "insufficient_funds", "balance": 1, "wanted": 2}}
    require("account.outcome", own)
    assert not is_valid("account.outcome", {**outcome, "failure": {"type": "not_approved"}})
    others = {**outcome, "failure": {"type": "not_approved", "by": None}}
    require("account.failure", others["failure"])
    assert not is_valid("account.outcome", others)


def test_the_waker_with_another_default_has_the_same_fields() -> None:
    assert Resume.__struct_fields__ == waker.Resume.__struct_fields__
    assert Resume.__struct_config__.tag == waker.Resume.__struct_config__.tag


# -- documents ---------------------------------------------------------------------------------
def references(value: object) -> Iterator[str]:
    """All references in a document."""
    if isinstance(value, dict):
        found = cast("dict[str, object]", value)
        if isinstance(reference := found.get("$ref"), str):
            yield reference
        for item in found.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in cast("list[object]", value):
            yield from references(item)


def resolved(document: Any, reference: str) -> Any:
    for step in reference.removeprefix("#/").split("/"):
        document = document[step]
    return document


@pytest.fixture(scope="module")
def official() -> Any:
    """The official validator of AsyncAPI 3.0.0 documents."""
    schema: Any = json.loads(gzip.decompress(OFFICIAL.read_bytes()))
    return jsonschema.Draft7Validator(schema)


def asyncapi() -> dict[str, Any]:
    made: dict[str, Any] = json.loads(msgspec.json.encode(async_api(ENTITIES, Subjects())))
    return made


def test_both_documents_are_what_they_say(official: Any) -> None:
    jsonschema.Draft202012Validator.check_schema(DOCUMENT)
    document = asyncapi()
    official.validate(document)
    for made in (DOCUMENT, document):
        for reference in references(made):
            resolved(made, reference)
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft7Validator.check_schema(schema)
    for operation in document["operations"].values():
        for side in (operation, operation.get("reply", operation)):
            channel = side["channel"]["$ref"]
            assert all(m["$ref"].startswith(f"{channel}/messages/") for m in side["messages"])


def test_channels_are_the_real_subjects() -> None:
    to, channels = Subjects(), asyncapi()["channels"]
    of = {"id": "a-1", "generation": 1, "shard": 6}
    found = {
        name.removeprefix("account."): channel["address"].format(**of)
        for name, channel in channels.items()
        if name.startswith("account.") and channel["address"] is not None
    }
    assert found == {
        "ask": to.ask("account", "a-1"),
        "ask.owner": to.ask_shard("account", 1, 6, "a-1"),
        "tell": to.to("account", "a-1"),
        "info": to.info("account"),
        "log": to.log("account", "a-1"),
        "dead": to.dead("account", "a-1"),
    }
    for channel in channels.values():
        parameters = re.findall(r"{(\w+)}", channel["address"] or "")
        assert set(parameters) == set(channel.get("parameters", {}))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("asyncapi", "2.6.0"),
        ("info", {}),
        ("channels.account.ask", {"address": 5}),
        ("operations.account.ask", {"action": "shout", "channel": {"$ref": "#/x"}}),
        ("operations.account.ask", {"action": "receive"}),
    ],
)
def test_the_official_schema_refuses_planted_mistakes(
    official: Any, path: str, value: object
) -> None:
    document: Any = asyncapi()
    head, _, name = path.partition(".")
    if name:
        document[head][name] = value
    else:
        document[head] = value
    assert not official.is_valid(document)


def test_draft_07_takes_and_refuses_the_same_bodies() -> None:
    document = asyncapi()
    schema = {"components": document["components"], "$ref": "#/components/schemas/account.ask"}
    # In draft 07 nothing beside a reference counts, but it is found from the root all the same.
    checker: Any = jsonschema.Draft7Validator(schema)
    for body in BODIES:
        assert bool(checker.is_valid(body)) is is_valid("account.ask", body), body
    assert checker.is_valid(DEPOSIT)


def test_the_command_prints_both_the_same_each_time(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    for format, top in (("jsonschema", "$defs"), ("asyncapi", "channels")):
        line = ("schema", "app.py", "--format", format)
        text, again, compact = shell.type(*line), shell.type(*line), shell.type(*line, "--json")
        assert (text.code, text.err, compact.code) == (0, "", 0)
        assert text.out == again.out
        assert [json.loads(text.out)] == compact.lines
        assert top in json.loads(text.out)
        assert list(json.loads(text.out)) == sorted(json.loads(text.out))
    other = shell.type("schema", "app.py", "--format", "asyncapi", "--namespace", "other").out
    assert "other.ask.counter.{id}" in other
    ran = shell.type("schema", "app.py", "--type", "nobody")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: no entity type 'nobody'; next: there are: counter")
