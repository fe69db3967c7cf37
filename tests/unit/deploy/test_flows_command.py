"""`perdure suspended`, `flows` and `resume` on a real server: find, look, mend, let go on."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from perdure import Entity, Retry, cron
from perdure.deploy.server import EmbeddedServer
from perdure.entities.errors import SendTimeout
from perdure.streams.commit import MARK, unseal
from perdure.streams.jetstream.direct import records
from perdure.streams.token import Body, make_token, read_token

from ...support.server import PATIENCE_S, until_count
from .hosted import Place, hosted, place
from .leave import Add, Leave, World, decide, evolve, leave, world


@pytest.fixture(autouse=True)
def fresh_world() -> Generator[World]:
    """Nothing is wrong before a test, nor after it."""
    vars(world).update(vars(World()))
    yield world
    vars(world).update(vars(World()))


@asynccontextmanager
async def offices(server: EmbeddedServer, namespace: str, folder: Path) -> AsyncGenerator[Place]:
    """A runner with leave, that gives up at once."""
    async with hosted(server, namespace, folder, leave, defect_retry=Retry(attempts=1)) as at:
        yield at


async def applied(at: Place, id: str, key: str, fields: str = '{"days": 3}') -> str:
    """Somebody has applied for leave, and the flow waits; its token."""
    count = len(world.tokens)
    ran = await at.run("tell", "leave", id, "apply", fields, "--key", key)
    assert ran.code == 0, ran
    await until_count(world.tokens, count + 1)
    return world.tokens[-1]


async def shown(at: Place, id: str, key: str) -> list[Any]:
    ran = await at.run("flows", "show", "leave", id, key, "--json")
    assert (ran.code, ran.err) == (0, "")
    return ran.lines


async def parked(at: Place, id: str, key: str) -> str:
    """A flow whose code fails where it goes on; its token."""
    token = await applied(at, id, key)
    world.wrong = "no such month"
    ran = await at.run("resume", token, '{"granted": true, "by": "ann"}')
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(f"resumed: flow {key} of leave/{id} is parked: ValueError: no such")
    world.wrong = ""
    return token


async def taken(at: Place, id: str, key: str) -> dict[str, Any]:
    """The tell for later of that key, once its runner has taken it."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            rows: list[dict[str, Any]] = (
                await at.run("flows", "list", "leave", id, "--json")
            ).lines
            for row in rows:
                if row["key"] == key:
                    return row


GRANTED = '{"granted": true, "by": "ann"}'


# -- finding ----------------------------------------------------------------------------------
async def test_open_flows_are_listed(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    async with offices(nats_server, namespace, tmp_path) as at:
        for line in (["suspended", "leave"], ["flows", "list", "leave", "a"]):
            ran = await at.run(*line)
            assert (ran.code, ran.out) == (0, "")
            assert ran.err.startswith("no open flows of leave")
        await applied(at, "a", "k-1")
        await parked(at, "b 2", "k-2")
        await at.run("tell", "leave", "c", "add", '{"days": 1}', "--key", "k-3", "--at", "2h")
        rows: list[Any] = []
        async with asyncio.timeout(PATIENCE_S):
            while len(rows) < 3:  # what comes later is listed once its runner has seen it
                rows = (await at.run("suspended", "leave", "--json")).lines
        told = {row["key"]: row for row in rows}
        assert {(row["address"], row["command"], row["key"]) for row in rows} == {
            ("leave/a", "apply", "k-1"),
            ("leave/b 2", "apply", "k-2"),
            ("leave/c", "add", "k-3"),
        }
        assert told["k-1"]["waits_for"] == ["verdict"]
        assert told["k-1"]["parked"] is None
        assert told["k-2"]["parked"].startswith("ValueError: no such month")
        text = (await at.run("flows", "list", "leave")).out.splitlines()
        assert text[0].split("  ")[0] == "ENTITY"
        assert len(text) == 4
        (later,) = [row for row in text if "k-3" in row]
        assert "its time" in later
        ran = await at.run("suspended", "leave", "--parked", "--json")
        assert [row["key"] for row in ran.lines] == ["k-2"]
        ran = await at.run("suspended", "leave", "--prefix", "a", "--json")
        assert [row["key"] for row in ran.lines] == ["k-1"]
        ran = await at.run("flows", "list", "leave", "b 2", "--parked", "--json")
        assert [row["key"] for row in ran.lines] == ["k-2"]
        ran = await at.run("flows", "list", "leave", "a", "--parked")
        assert (ran.code, ran.err) == (0, "no parked flows of leave/a\n")
        ran = await at.run("suspended", "leave", "--limit", "2")
        assert (ran.code, len(ran.out.splitlines())) == (0, 3)
        assert ran.err == "2 flows, and more: give another --limit\n"
        with mock.patch("perdure.deploy.cli.suspended.PAGE", 2):
            text = (await at.run("suspended", "leave")).out.splitlines()
        assert [row.split()[0] == "ENTITY" for row in text] == [True, False, False, True, False]
        ran = await at.run("suspended", "leave", "--limit", "3")
        assert (ran.code, ran.err) == (0, "")


async def test_an_entity_that_cant_be_read_hides_no_other(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    async with offices(nats_server, namespace, tmp_path) as at:
        await applied(at, "a", "k-1")
        await applied(at, "b", "k-2")
    async with place(nats_server, namespace, tmp_path) as at:
        await at.publish(at.subjects.log("leave", "a"), b"forged", {MARK: "ab" * 16})
        ran = await at.run("flows", "show", "leave", "a", "k-1")
        assert ran.code == 1
        assert "the log is damaged: sequence" in ran.err
    async with offices(nats_server, namespace, tmp_path) as at:
        ran = await at.run("suspended", "leave")
        assert ran.code == 1
        assert "k-2" in ran.out
        assert ran.err.startswith("error: SerializationError: ")
        assert "leave/a" in ran.err


async def test_what_isnt_there_is_told_with_a_next_step(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    async with offices(nats_server, namespace, tmp_path) as at:
        await at.run("ask", "leave", "a", "add", '{"days": 1}', "--key", "plain")
        for line, told in (
            ("suspended leaves", "there is no entity type 'leaves'"),
            ("flows list leaves", "there is no entity type 'leaves'"),
            ("flows list leaves a", "there is no entity type 'leaves'"),
            ("flows show leaves a k", "there is no entity type 'leaves'"),
            ("flows show leave a k", "leave/a has no flow k, and never had; next: perdure flows"),
            ("flows show leave a plain", "plain of leave/a is no flow: its command had its"),
            ("flows retry leave a k", "leave/a has no open flow k: it has ended, or never began"),
            ("flows cancel leave a k", "; next: perdure flows show leave a k"),
        ):
            ran = await at.run(*line.split())
            assert (ran.code, ran.out) == (1, ""), line
            assert told in ran.err, line
            assert ran.err.count("\n") == 1, line
    async with place(nats_server, namespace, tmp_path) as at:
        ran = await at.run("flows", "list", "leave", "a", "--json")
        assert ran.code == 1
        assert ran.lines[0]["error"]["type"] == "RunnerNotRegistered"


# -- looking ----------------------------------------------------------------------------------
async def test_what_happened_is_shown_in_order_and_without_secrets(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    async with offices(nats_server, namespace, tmp_path) as at:
        token = await applied(at, "a", "k-1")
        open = ["command", "began", "emitted", "opened", "ran", "armed", "waits"]
        assert [one["what"] for one in await shown(at, "a", "k-1")] == open
        assert (await at.run("resume", token, GRANTED)).code == 0
        lines = await shown(at, "a", "k-1")
        assert [one["what"] for one in lines] == [*open, "resolved", "began", "ended"]
        by = {one["what"]: one for one in lines}
        assert by["command"]["command"] == {"type": "apply", "days": 3}
        assert by["emitted"]["events"] == [{"type": "held", "days": 3}]
        assert (by["ran"]["name"], by["ran"]["value"]) == ("mail", "asked for (token)")
        assert by["waits"]["waits_for"] == ["deferred verdict", "timer within deferred verdict"]
        assert by["resolved"]["value"] == {"granted": True, "by": "ann"}
        assert (by["ended"]["value"], by["ended"]["events"]) == (
            3,
            [{"type": "granted", "days": 3}],
        )
        assert [one["time"] for one in lines] == sorted(one["time"] for one in lines)
        text = await at.run("flows", "show", "leave", "a", "k-1")
        assert (text.code, text.err) == (0, "")
        assert [line.split()[2] for line in text.out.splitlines()] == [
            one["what"] for one in lines
        ]
        nonce = read_token(token).nonce
        assert nonce
        assert nonce in await log_of(at, "a")
        for secret in (token, nonce, token.partition(".")[2]):
            assert secret not in text.out + repr(lines)


async def log_of(at: Place, id: str) -> str:
    """All that the log of an entity holds."""
    stream, subject = at.subjects.log_stream("leave"), at.subjects.log("leave", id)
    found = await records(at.session.connection, stream, subject, after=0)
    assert all(unseal(record.stored) is not None for record in found)
    return "".join(record.data.decode() for record in found)


# -- mending and ending -----------------------------------------------------------------------
async def test_a_parked_flow_goes_on_when_its_code_is_mended(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    async with offices(nats_server, namespace, tmp_path) as at:
        await applied(at, "a", "waits")
        ran = await at.run("flows", "retry", "leave", "a", "waits")
        assert (ran.code, ran.out) == (1, "")
        assert "flow waits of leave/a isn't parked: it waits for verdict; next: no" in ran.err
        await parked(at, "a", "k-1")
        world.wrong = "still none"
        ran = await at.run("flows", "retry", "leave", "a", "k-1")
        assert (ran.code, ran.out) == (1, "")
        assert "flow k-1 of leave/a is parked again: ValueError: still none" in ran.err
        world.wrong = ""
        ran = await at.run("flows", "retry", "leave", "a", "k-1", "--json")
        assert (ran.code, ran.err) == (0, "")
        assert (ran.lines[0]["status"], ran.lines[0]["reply"]) == ("ended", 3)
        ran = await at.run("flows", "retry", "leave", "a", "k-1")
        assert (ran.code, "leave/a has no open flow k-1" in ran.err) == (1, True)
        what = [one["what"] for one in await shown(at, "a", "k-1")][7:]
        assert what == ["resolved", "parked", "parked", "unparked", "began", "ended"]


async def test_a_flow_that_nobody_wants_is_cancelled(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    async with offices(nats_server, namespace, tmp_path) as at:
        await applied(at, "a", "k-1")
        ran = await at.run("flows", "cancel", "leave", "a", "k-1")
        assert (ran.code, ran.err) == (0, "")
        assert ran.out == "flow k-1 of leave/a has ended: it was cancelled\n"
        assert world.recalled == 1
        lines = await shown(at, "a", "k-1")
        assert [one["what"] for one in lines][7:] == ["cancelled", "began", "ran", "ended"]
        assert lines[-1]["error"] == "cancelled: the flow has ended: it was cancelled"
        ran = await at.run("flows", "cancel", "leave", "a", "k-1")
        assert (ran.code, "has ended, or never began" in ran.err) == (1, True)
        ran = await at.run("result", "leave", "a", "k-1")
        assert (ran.code, "next: to begin anew give another --key" in ran.err) == (1, True)
        (letter,) = (await at.run("dead", "list", "--reason", "cancelled", "--json")).lines
        assert (letter["address"], letter["key"], letter["command"]) == ("leave/a", "k-1", "apply")
        ran = await at.run("dead", "retry", letter["cause"])
        assert (ran.code, "may have taken effect already" in ran.err) == (1, True)
        assert (await at.run("dead", "retry", letter["cause"], "--force")).code == 0
        status = ""
        async with asyncio.timeout(PATIENCE_S):
            while status != "retried":
                ran = await at.run("dead", "list", "leave", "a", "--settled", "--json")
                (status,) = [row["status"] for row in ran.lines if row["key"] == "k-1"]
        await at.run("tell", "leave", "a", "add", '{"days":9}', "--at", "1d", "--key", "k-9")
        await taken(at, "a", "k-9")
        ran = await at.run("flows", "cancel", "leave", "a", "k-9", "--json")
        assert (ran.code, ran.lines[0]["cancelled"]) == (0, "it was cancelled")


async def test_a_flow_that_cant_be_undone_ends_as_it_is_and_that_is_told(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    async with offices(nats_server, namespace, tmp_path) as at:
        await applied(at, "a", "k-1")
        world.cant_recall = True
        ran = await at.run("flows", "cancel", "leave", "a", "k-1")
        assert ran.code == 1
        assert "k-1 of leave/a goes on: it is parked: StepFailed: step 'undo mail'" in ran.err
        ran = await at.run("flows", "cancel", "leave", "a", "k-1")
        assert (ran.code, ran.out) == (1, "")
        assert "k-1 of leave/a has ended: it was cancelled, and nothing was undone: " in ran.err
        assert "; next: undo by hand what its steps did: perdure flows show leave a" in ran.err


# -- resuming ---------------------------------------------------------------------------------
async def test_a_value_lets_a_flow_go_on_once(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    async with offices(nats_server, namespace, tmp_path) as at:
        token = await applied(at, "a", "k-1")
        with mock.patch("sys.stdin", io.StringIO(f"{token}\n")):
            ran = await at.run("resume", "-", '{"granted": false, "by": "ann"}')
        assert (ran.code, ran.err) == (0, "")
        assert ran.out == 'resumed: flow k-1 of leave/a has ended, refused: denied {"by":"ann"}\n'
        ran = await at.run("resume", token, GRANTED)
        assert (ran.code, ran.err) == (0, "")
        assert ran.out.startswith(
            "nothing changed: flow k-1 of leave/a has ended, refused: denied"
        )
        ran = await at.run("resume", await applied(at, "b", "k-1"), GRANTED, "--json")
        (line,) = ran.lines
        assert (ran.code, line["status"], line["reply"]) == (0, "ended", 3)


async def test_what_no_longer_waits_says_how_it_is(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    async with offices(nats_server, namespace, tmp_path) as at:
        token = await parked(at, "a", "k-1")
        ran = await at.run("resume", token, '{"granted": false, "by": "ann"}')
        assert (ran.code, ran.out) == (1, "")
        assert "the flow is parked, and keeps another value for deferred verdict" in ran.err
        assert "; next: see it: perdure flows show leave a k-1; mend its code, and" in ran.err
        ran = await at.run("resume", token, '{"by": "ann",  "granted": true}')
        assert (ran.code, ran.err) == (0, "")
        assert ran.out.startswith("recorded, unless it had a value: flow k-1 of leave/a didn't")
        assert (await at.run("flows", "retry", "leave", "a", "k-1")).code == 0
        with mock.patch("perdure.deploy.cli.resume.standing", side_effect=SendTimeout()):
            ran = await at.run("resume", token, GRANTED)
        assert (ran.code, ran.err) == (0, "")
        assert ran.out.endswith("k-1 of leave/a isn't open, it has ended or never began\n")


def forged(token: str) -> str:
    """With another signature."""
    head, _, mac = token.partition(".")
    return f"{head}.{'A' if mac[0] != 'A' else 'B'}{mac[1:]}"


async def test_wrong_tokens_and_values_are_refused_and_change_nothing(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    async with offices(nats_server, namespace, tmp_path) as at:
        token = await applied(at, "a", "k-1")
        expired = await applied(at, "b", "k-2", '{"days": 1, "expires": 0}')
        for given, value, told in (
            ("nonsense", GRANTED, "the resume token: it isn't whole; "),
            (token[:-1], GRANTED, "the resume token: it isn't whole"),
            ("x" * 3000, GRANTED, "the resume token: it has over 2048 characters"),
            (forged(token), GRANTED, "the resume token: it isn't genuine: forged, damaged"),
            (expired, GRANTED, "the resume token: it has expired"),
            (token, '"yes"', "deferred verdict: Expected `object`, got `str`"),
            (token, '{"granted": 1, "by": "x"}', "Expected `bool`, got `int`"),
            (token, "-5", "Expected `object`, got `int`"),
        ):
            ran = await at.run("resume", given, value)
            assert (ran.code, ran.out) == (1, ""), told
            assert ran.err.startswith("error: MalformedMessage: "), told
            assert told.rstrip("; ") in ran.err
            assert ran.err.count("\n") == 1
            assert "; next: " in ran.err
            assert given not in ran.err
        for entity, kind in (("nobody", "RunnerNotRegistered"), ("no body", "MalformedMessage")):
            body = Body(1, entity, "a", "k-1", "verdict", "n")
            ran = await at.run("resume", make_token([b"s" * 32], namespace, body), "1", "--json")
            assert (ran.code, ran.lines[0]["error"]["type"]) == (1, kind)
        assert [one["what"] for one in await shown(at, "a", "k-1")][-1] == "waits"
        assert [one["what"] for one in await shown(at, "b", "k-2")][-1] == "waits"
        kept = await log_of(at, "a") + await log_of(at, "b")
        assert kept.count('"reason":"malformed"') == 5
        for secret in (token, forged(token), expired, expired.partition(".")[0]):
            assert secret not in kept.replace(f"asked for {token}", "").replace(
                f"asked for {expired}", ""
            )
        ran = await at.run("resume", token, GRANTED)
        assert (ran.code, ran.out) == (0, "resumed: flow k-1 of leave/a has ended, with 3\n")


# -- later ------------------------------------------------------------------------------------
async def test_a_tell_for_later_waits_for_its_time(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    async with offices(nats_server, namespace, tmp_path) as at:
        line = ("tell", "leave", "a", "add", '{"days": 2}', "--key")
        ran = await at.run(*line, "k-1", "--at", "2199-12-24T18:00:00+01:00")
        assert (ran.code, ran.err) == (0, "")
        assert ran.out == (
            "stored for 2199-12-24 17:00:00.000 UTC; what came of it: perdure result leave a k-1\n"
        )
        flow = await taken(at, "a", "k-1")
        assert flow["due"] == "2199-12-24T17:00:00Z"
        ran = await at.run(*line, "k-2", "--at", "1s")
        assert ran.code == 0
        assert (await at.run("result", "leave", "a", "k-2")).out == "2\n"
        ran = await at.run(*line, "k-3", "--at", "2020-01-01T00:00:00Z")
        assert ran.code == 0
        assert (await at.run("result", "leave", "a", "k-3")).out == "4\n"
        what = [one["what"] for one in await shown(at, "a", "k-2")]
        assert what == ["command", "began", "armed", "waits", "fired", "began", "ended"]


async def test_what_comes_later_and_by_itself_is_listed(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    night = cron("nightly", "0 3 * * *", id="all", command=Add(1))
    nightly = Entity(Leave(), decide, evolve, flows=leave.flows, schedules=[night])
    async with hosted(nats_server, namespace, tmp_path, nightly) as at:
        await at.run("tell", "leave", "c", "add", '{"days": 1}', "--key", "k-3", "--at", "2h")
        await taken(at, "c", "k-3")
        await applied(at, "a", "k-1")  # it waits for a value, and for no time
        rows = (await at.run("schedules", "leave", "--json")).lines
        assert {row["address"] for row in rows} == {"leave/all", "leave/c"}
        ran = await at.run("schedules", "leave", "--prefix", "al")
        (line,) = ran.out.splitlines()[1:]
        assert line.split()[3:5] == ["add", "nightly"]
        assert f"schedule:nightly:{night.digest}:" in line
        ran = await at.run("schedules", "leave", "--prefix", "nobody")
        assert (ran.code, ran.out) == (0, "")
        assert ran.err.startswith("no commands for later of leave")
