"""`perdure dead`: letters planted by tells that can't be executed, on a real server."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from msgspec import Raw

from perdure.deploy.cli.dead import COLUMNS
from perdure.deploy.dead import DeadLetters, Hopeless, Letter, letter_of
from perdure.deploy.server import EmbeddedServer
from perdure.entities.errors import (
    ClusterError,
    MailboxFull,
    RpcClientError,
    RunnerUnavailable,
    SerializationError,
)
from perdure.streams.asks import ENVELOPE_BYTES, Envelope, encode_envelope, open_body, raw
from perdure.streams.caller import Caller
from perdure.streams.codec import Undecodable
from perdure.streams.commands import cause_of, retry_key
from perdure.streams.commit import MARK, At, Dead, Outcome
from perdure.streams.jetstream.direct import Record
from perdure.streams.jetstream.scan import get
from perdure.streams.port import Unreachable

from .hosted import Place, hosted, place

PAST = {"Perdure-Deadline": "1"}
"""A deadline that no tell meets."""


async def plant(at: Place) -> None:
    """Four letters, oldest first: expired, expired with a key, malformed, of an impossible id."""
    await at.tell("a-1", b'{"type":"add","n":5}', PAST)
    await at.dead(1)
    await at.tell("a-1", b'{"type":"add","n":7}', {**PAST, "Idempotency-Key": "k-7"})
    await at.dead(2)
    await at.tell("b 2", b'{"type":"add","m":1}')
    await at.dead(3)
    await at.publish(f"{at.subjects.namespace}.to.counter.=61", b'{"type":"add","n":1}')
    await at.dead(4)


async def listed(at: Place, *more: str) -> list[Any]:
    ran = await at.run("dead", "list", *more, "--json")
    assert ran.code == 0, ran
    return ran.lines


async def expired(at: Place) -> Any:
    """The row of a letter that died of its deadline."""
    await at.tell("a-1", b'{"type":"add","n":5}', PAST)
    await at.dead(1)
    (row,) = await listed(at)
    return row


async def test_list_and_show(nats_server: EmbeddedServer, namespace: str, tmp_path: Path) -> None:
    async with hosted(nats_server, namespace, tmp_path) as at:
        ran = await at.run("dead", "list")
        assert (ran.code, ran.out, ran.err) == (0, "", "no dead letters\n")
        await plant(at)
        rows = await listed(at)
        assert [(r["address"], r["command"], r["reason"], r["key"]) for r in rows] == [
            ("counter/a-1", "add", "expired", None),
            ("counter/a-1", "add", "expired", "k-7"),
            ("counter/b 2", "add", "malformed", None),
            ("counter/=", "add", "malformed", None),
        ]
        assert {row["status"] for row in rows} == {"open"}
        assert rows[0]["error"]["type"] == "SendTimeout"
        text = (await at.run("dead", "list")).out.splitlines()
        assert text[0].split() == [name.lstrip("#") for name in COLUMNS]
        assert [line.rstrip().split()[-1] for line in text[1:]] == [row["cause"] for row in rows]
        assert len(text) == 5
        assert [r["reason"] for r in await listed(at, "--reason", "malformed")] == [
            "malformed"
        ] * 2
        assert len(await listed(at, "counter", "b 2")) == 1
        for line in ("list conter", "list conter --settled", "retry --all --type conter"):
            ran = await at.run("dead", *line.split())
            assert (ran.code, ran.out) == (1, "")
            assert f"no entity type 'conter' in namespace {namespace!r}, only counter" in ran.err
        assert await listed(at, "counter", "b") == []
        cause = rows[2]["cause"]
        (shown,) = (await at.run("dead", "show", cause, "--json")).lines
        assert shown["payload"] == {"type": "add", "m": 1}
        assert shown["retry_key"] == retry_key(cause)
        assert "m" in shown["error"]["cause"]
        by_number = await at.run("dead", "show", str(rows[2]["seq"]), "--json")
        assert by_number.lines == [shown]
        told = (await at.run("dead", "show", cause)).out
        assert 'payload    {"type":"add","m":1}\n' in told


async def test_a_retry_takes_effect_once(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    async with hosted(nats_server, namespace, tmp_path) as at:
        await plant(at)
        first, second, *_ = await listed(at)
        ran = await at.run("dead", "retry", first["cause"], "--wait")
        assert (ran.code, ran.out, ran.err) == (0, "5\n", "")
        ran = await at.run("dead", "retry", first["cause"])
        assert ran.code == 1
        assert "no dead letter @1." in ran.err
        assert (await at.ask("a-1", "get_total")).out == "5\n"
        ran = await at.run("dead", "retry", second["cause"], "--json")
        (line,) = ran.lines
        key = retry_key(second["cause"])
        assert (ran.code, line["key"], line["retried"]) == (0, key, True)
        assert (await at.run("result", "counter", "a-1", key)).out == "12\n"
        # Somebody whose retry stopped before the copy was removed finds the copy, and repeats it.
        await at.publish(at.subjects.dead("counter", "a-1"), await verdict(at, first["cause"]))
        again = await at.run("dead", "retry", first["cause"], "--wait", "--json")
        assert (again.code, again.lines[0]["reply"]) == (0, 5)
        assert (await at.ask("a-1", "get_total")).out == "12\n"
        rows = await listed(at, "counter", "--settled")
        assert [(r["cause"], r["status"]) for r in rows[:2]] == [
            (first["cause"], "retried"),
            (second["cause"], "retried"),
        ]
        assert [r["status"] for r in rows[2:]] == ["open", "open"]


async def verdict(at: Place, cause: str) -> bytes:
    """The outcome of that cause, as the log has it."""
    for row in (await at.run("history", "counter", "a-1", "--json")).lines:
        if row["name"] == cause:
            _, _, sequence, time_ns, *_ = ("", *cause.split("."), "")
            outcome = {
                "name": cause,
                "payload_hash": cause.rpartition(".")[2],
                "at": [1, int(sequence), int(time_ns)],
                "command": row["command"],
                "dead": {"reason": row["dead"], "error": row["error"]},
            }
            return json.dumps(outcome).encode()
    raise AssertionError(cause)


async def test_bulk_and_what_cannot_be_retried(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    async with hosted(nats_server, namespace, tmp_path) as at:
        await plant(at)
        ran = await at.run("dead", "retry", "--all", "--reason", "expired")
        assert (ran.code, len(ran.out.splitlines())) == (0, 2)
        rows = await listed(at)
        assert [r["reason"] for r in rows] == ["malformed"] * 2
        ran = await at.run("dead", "retry", "--all", "--wait", "--json")
        assert ran.code == 1
        dies, hopeless = ran.lines
        assert dies["error"]["type"] == "MalformedMessage"
        assert dies["error"]["next"] == "it is a new dead letter: perdure dead list"
        assert "its id can't be an entity's" in hopeless["error"]["message"]
        assert "perdure dead discard @1." in hopeless["error"]["next"]
        await at.dead(2)
        assert rows[0]["cause"] not in {row["cause"] for row in await listed(at)}
        ran = await at.run("dead", "discard", "--all", "--yes")
        assert (ran.code, len(ran.out.splitlines())) == (0, 2)
        assert await listed(at) == []
        settled = [r["status"] for r in await listed(at, "counter", "--settled")]
        assert sorted(settled) == ["discarded", "retried", "retried", "retried"]


async def test_discard_asks_first(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    async with hosted(nats_server, namespace, tmp_path) as at:
        await at.tell("a-1", b"no JSON")
        await at.dead(1)
        (row,) = await listed(at)
        assert row["command"] == ""
        ran = await at.run("dead", "discard", row["cause"])
        assert ran.code == 2
        assert "next: add --yes if you are sure" in ran.err
        for answer, code, left in (("n\n", 1, 1), ("y\n", 0, 0)):
            with mock.patch("sys.stdin") as stdin:
                stdin.isatty.return_value, stdin.readline.return_value = True, answer
                ran = await at.run("dead", "discard", row["cause"])
            assert (ran.code, "discard 1 dead letter for good? [y/N]" in ran.err) == (code, True)
            assert len(await listed(at)) == left


async def test_what_may_have_taken_effect_is_not_simply_sent_again(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    async with hosted(nats_server, namespace, tmp_path) as at:
        outcome = {
            "name": "m-1", "payload_hash": "ab" * 16, "at": [1, 7, 9],
            "command": {"type": "add", "n": 3},
            "dead": {
                "reason": "too_old",
                "error": {"type": "SendTimeout", "may_have_taken_effect": True},
            },
        }  # fmt: skip
        await at.publish(at.subjects.dead("counter", "a-1"), json.dumps(outcome).encode())
        await at.publish(at.subjects.dead("counter", "a-1"), b"foreign")
        cause = cause_of(At(1, 7, 9), "ab" * 16)
        ran = await at.run("dead", "retry", cause)
        assert ran.code == 1
        assert "may have taken effect already; next: look first: perdure history" in ran.err
        assert (await at.run("dead", "retry", cause, "--force", "--wait")).out == "3\n"
        (foreign,) = await listed(at)
        assert (foreign["reason"], foreign["cause"], foreign["seq"]) == ("foreign", None, 2)
        assert (await at.run("dead", "retry", "2")).code == 1
        assert (await at.run("dead", "discard", "2", "--yes")).code == 0


async def test_a_retry_waits_for_a_runner(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    async with hosted(nats_server, namespace, tmp_path) as at:
        row = await expired(at)
    async with place(nats_server, namespace, tmp_path) as at:
        ran = await at.run("dead", "retry", row["cause"], "--wait", "--timeout", "2")
        assert ran.code == 1
        assert "which waits on and repeats nothing" in ran.err
        assert await listed(at) == [row]
    async with hosted(nats_server, namespace, tmp_path) as at:
        assert (await at.run("dead", "retry", row["cause"], "--wait")).out == "5\n"
        assert (await at.ask("a-1", "get_total")).out == "5\n"
        assert await listed(at) == []


@pytest.mark.parametrize(
    "error",
    [
        MailboxFull(cause="full", may_have_taken_effect=False),
        RpcClientError(cause="lost", may_have_taken_effect=True),
        SerializationError(cause="can't be folded", may_have_taken_effect=False),
    ],
)
async def test_an_error_that_is_no_verdict_keeps_the_copy(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path, error: ClusterError
) -> None:
    async with hosted(nats_server, namespace, tmp_path) as at:
        row = await expired(at)
    async with place(nats_server, namespace, tmp_path) as at:
        with mock.patch.object(Caller, "result", side_effect=error):
            ran = await at.run("dead", "retry", row["cause"], "--wait", "--json")
        told = ran.lines[0]["error"]
        assert (ran.code, told["type"]) == (1, error.tag)
        assert told["next"].startswith("no outcome yet, so its copy stays: perdure dead retry @1.")
        assert await listed(at) == [row]
        with (
            mock.patch.object(Caller, "result", side_effect=error),
            mock.patch.object(DeadLetters, "verdicts", side_effect=Unreachable("away")),
        ):
            assert (await at.run("dead", "retry", row["cause"], "--wait")).code == 1
        assert await listed(at) == [row]
    async with hosted(nats_server, namespace, tmp_path) as at:
        assert (await at.run("dead", "retry", row["cause"], "--wait")).out == "5\n"
        assert await listed(at) == []


async def test_a_retry_that_took_effect_is_no_new_dead_letter(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    async with hosted(nats_server, namespace, tmp_path) as at:
        row = await expired(at)
        lost, result = RunnerUnavailable(cause="the way was lost"), Caller.result

        async def lossy(*args: Any, **more: Any) -> Any:
            await result(*args, **more)
            raise lost

        with mock.patch.object(Caller, "result", lossy):
            ran = await at.run("dead", "retry", row["cause"], "--wait", "--json")
        told = ran.lines[0]["error"]
        assert (ran.code, told["type"]) == (1, "RunnerUnavailable")
        assert told["next"].startswith("it took effect: perdure result counter a-1 dead:1-")
        assert await listed(at) == []
        assert (await at.run(*told["next"].partition("perdure ")[2].split())).out == "5\n"


def test_an_envelope_that_was_too_large_can_be_retried() -> None:
    """A runner refuses it for what is beside its payload; a retry sends the payload alone."""
    payload = Raw(b'{"type":"add","n":5}')
    data = encode_envelope(Envelope(1, "tell", payload, trace="x" * ENVELOPE_BYTES))
    with pytest.raises(Undecodable, match="beside its payload"):
        open_body(data, None, limit=1_000_000)
    dead = Dead("malformed", Raw(b"{}"), raw=data)
    outcome = Outcome(name="@1", payload_hash="", at=At(1, 1, 1), dead=dead)
    letter = Letter(1, datetime.now(UTC), "counter", "a-1", outcome)
    assert letter.payload() == payload


async def test_a_quarantined_entity_keeps_its_copies(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    async with hosted(nats_server, namespace, tmp_path) as at:
        await at.tell("a-1", b'{"type":"add","n":5}', PAST)
        await at.dead(1)
        rows = await listed(at)
        log = at.subjects.log("counter", "a-1")
        record = await get(at.session.connection, at.subjects.log_stream("counter"), 1)
        assert record is not None
        assert record.mark is not None
        await at.publish(log, b"damaged", {MARK: record.mark})
    async with hosted(nats_server, namespace, tmp_path) as at:
        ran = await at.run("dead", "retry", rows[0]["cause"], "--wait", "--timeout", "5")
        assert (ran.code, "SerializationError" in ran.err) == (1, True), ran
        assert "no outcome yet, so its copy stays" in ran.err
        assert await listed(at) == rows


async def test_the_copies_are_read_once_for_several_causes(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    async with hosted(nats_server, namespace, tmp_path) as at:
        await plant(at)
        rows = await listed(at)
        wanted = [rows[2]["cause"], rows[0]["cause"], str(rows[1]["seq"]), rows[2]["cause"]]
        with mock.patch.object(
            DeadLetters, "letters", autospec=True, side_effect=DeadLetters.letters
        ) as letters:
            ran = await at.run("dead", "show", *wanted, "--json")
        assert [row["cause"] for row in ran.lines] == [rows[n]["cause"] for n in (2, 0, 1)]
        assert letters.call_count == 1


async def test_where_there_is_nothing(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    async with place(nats_server, namespace, tmp_path) as at:
        ran = await at.run("dead", "list")
        assert ran.code == 1
        assert "nothing was ever hosted in this namespace" in ran.err
        ran = await at.run("dead", "list", "--url", "nats://127.0.0.1:1", "--json")
        assert (ran.code, ran.lines[0]["error"]["type"]) == (1, "RpcClientError")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (["retry"], "no CAUSE"),
        (["show"], "no CAUSE"),
        (["discard", "@1.2.3.ab", "--all"], "both CAUSE and --all"),
        (["retry", "--all", "--id", "a"], "--id without --type"),
        (["list", "Account"], "not an entity type's name"),
        (["list", "--reason", "boredom"], "boredom"),
        (["list", "--url", "memory:"], "memory: has no server"),
    ],
)
async def test_usage(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path, line: list[str], says: str
) -> None:
    async with place(nats_server, namespace, tmp_path) as at:
        ran = await at.run("dead", *line)
        assert (ran.code, ran.out) == (2, "")
        assert says in ran.err
        assert ran.err.count("\n") == 1


# -- pure ---------------------------------------------------------------------------------------
def copy(data: bytes, payload_raw: bytes) -> Record:
    fields = json.loads(data)
    fields["dead"]["raw"] = base64.b64encode(payload_raw).decode()
    return Record(3, 0, "perdure.dead.counter.a", json.dumps(fields).encode(), None)


DEAD = b'{"name":"@x","payload_hash":"","at":[1,2,3],"dead":{"reason":"malformed","error":{}}}'


def test_the_payload_of_an_envelope_is_what_is_in_it() -> None:
    body = encode_envelope(Envelope(1, "tell", raw({"type": "new", "n": 1}), key="k"))
    letter = letter_of(copy(DEAD, body))
    assert bytes(letter.payload()) == b'{"type":"new","n":1}'
    assert (letter.command, letter.id, letter.time.year) == ("new", "a", 1970)
    for broken in (body[:-3], b'{"type": "ad', b"[]", b"3", b"\xff"):
        with pytest.raises(Hopeless):
            letter_of(copy(DEAD, broken)).payload()


def test_a_retry_key_is_a_key() -> None:
    key = retry_key("@1.42.1764000000000000000.c5a6eceb8a6dcb25")
    assert key == "dead:1-42-1764000000000000000-c5a6eceb8a6dcb25"
