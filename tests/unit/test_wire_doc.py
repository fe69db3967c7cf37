"""docs/wire.md against the code: every table and example under a `check` comment.

Somebody writes a client in another language from that page alone, so what it says must be what
the code does. A check names what it expects; a check that finds nothing fails.
"""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from perdure.durable.stats import decode_stats
from perdure.entities.errors import REASONS, ClusterError
from perdure.entities.key import is_key
from perdure.entities.settings import Settings
from perdure.entities.signal import Signal
from perdure.entities.state import State
from perdure.entities.tagged import values_of
from perdure.streams import asks, registration, topology
from perdure.streams.asks import (
    Envelope,
    decode_answer,
    decode_info,
    encode_envelope,
    open_body,
    reply_allowed,
)
from perdure.streams.codec import digest
from perdure.streams.commands import cause_of, parse_term, retry_key
from perdure.streams.commit import (
    At,
    Commit,
    Dead,
    Outcome,
    Stored,
    check_link,
    seal,
    unseal,
)
from perdure.streams.jetstream.connection import Statistics
from perdure.streams.members import Hosting, Member, Word, decode_word, encode_word
from perdure.streams.signals import encode_signal
from perdure.streams.subjects import Sharding, Subjects, escape, fnv1a32, shard_of, unescape

DOC = (Path(__file__).resolve().parents[2] / "docs" / "wire.md").read_text()
SUBJECTS = Subjects()
LIMIT = Settings().max_payload_bytes


def section(name: str) -> str:
    """What follows the check comment, up to the next blank line."""
    _, found, rest = DOC.partition(f"<!-- check: {name} -->\n")
    assert found, f"no check {name!r} in docs/wire.md"
    return rest.partition("\n\n")[0]


def table(name: str) -> list[list[str]]:
    """The rows of a table, without its head; cells without their backquotes."""
    lines = [line for line in section(name).splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]
    assert rows
    return [[c[1:-1] if re.fullmatch(r"`[^`]*`", c) else c for c in row] for row in rows]


def lines(name: str) -> list[bytes]:
    """The lines of a JSON example."""
    match = re.search(r"```json\n(.*?)```", section(name), re.DOTALL)
    assert match is not None
    return [line.encode() for line in match[1].splitlines()]


def test_the_checks_named_in_the_page_are_the_ones_made_here() -> None:
    named = set(re.findall(r"<!-- check: (.+?) -->", DOC))
    made = set(re.findall(r'(?:table|lines|fields_of)\("([^"]+)"', Path(__file__).read_text()))
    assert named == made


# -- subjects, ids, shards ---------------------------------------------------------------------
def test_subjects() -> None:
    runner = "0a1b2c3d4e5f"
    assert [row[0] for row in table("subjects")] == [
        SUBJECTS.ask("account", "a-1"),
        SUBJECTS.ask_shard("account", 1, shard_of("a-1", 16), "a-1"),
        SUBJECTS.to("account", "a-1"),
        SUBJECTS.command("account", 1, shard_of("a-1", 16), "a-1"),
        SUBJECTS.info("account"),
        SUBJECTS.signal("account"),
        SUBJECTS.members,
        SUBJECTS.member(runner),
        SUBJECTS.resize("account"),
        SUBJECTS.halted("account", "0a1b2c3d"),
        SUBJECTS.stats,
        SUBJECTS.log("account", "a-1"),
        SUBJECTS.snapshot("account", "a-1"),
        SUBJECTS.dead("account", "a-1"),
        SUBJECTS.ids("account", f"{runner}-7"),
        SUBJECTS.later("account", "a-1", "00ff00ff"),
        SUBJECTS.due("account", "a-1", "00ff00ff"),
    ]


def test_info() -> None:
    info = decode_info(lines("info")[0])
    assert (info.entity, info.generation, info.shards) == ("account", 1, 16)
    assert set(json.loads(lines("info")[0])) == set(asks.TypeInfo.__struct_fields__)


def test_stats() -> None:
    told = json.loads(lines("stats")[0])
    assert json.loads(msgspec.json.encode(decode_stats(lines("stats")[0]))) == told
    assert set(told["connection"]) == {field.name for field in fields(Statistics)}


def test_a_signal() -> None:
    class Account(State):
        pass

    class PricesChanged(Signal[Account]):
        version: int

    assert [encode_signal(PricesChanged(7), LIMIT)] == [("account", x) for x in lines("signal")]


def test_words_between_runners() -> None:
    words = [decode_word(row[1].encode()) for row in table("words")]
    assert [encode_word(word).decode() for word in words] == [row[1] for row in table("words")]
    assert {type(word) for word in words} == set(get_args(Word))


def test_the_fields_of_a_record() -> None:
    told = [row[0].replace("`", "").split(", ") for row in table("member fields")]
    assert tuple(name for names in told for name in names) == Member.__struct_fields__
    types = next(row[2] for row in table("member fields") if row[0] == "types")
    assert all(f"`{name}`" in types for name in Hosting.__struct_fields__)


def test_ids() -> None:
    for id_json, token, hash, shard in table("ids"):
        id = json.loads(id_json)
        assert escape(id) == token
        assert unescape(token) == id
        assert f"{fnv1a32(token.encode()):08x}" == hash
        assert shard_of(token, 16) == int(shard)


def test_bad_tokens() -> None:
    for token, _ in table("bad tokens"):
        with pytest.raises(ValueError, match="not an escaped id"):
            unescape(token)


# -- bodies ------------------------------------------------------------------------------------
def test_a_plain_body() -> None:
    headers = {
        "Idempotency-Key": "order-17",
        "Perdure-Reply-To": "_INBOX.x",
        "Perdure-Deadline": "1764000000000",
        "traceparent": "00-1-2-3",
    }
    assert all(f"| `{name}` |" in DOC for name in [*headers, asks.FORBIDDEN_HEADER])
    (body,) = lines("plain")
    envelope = open_body(body, headers, limit=LIMIT)
    assert envelope == Envelope(
        1,
        "ask",
        msgspec.Raw(body),
        key="order-17",
        reply_to="_INBOX.x",
        deadline=1764000000000,
        trace="00-1-2-3",
    )


def test_replies() -> None:
    for reply, answered in table("replies"):
        assert reply_allowed(reply, Settings().reply_prefixes) == (answered == "yes"), reply


def test_answers() -> None:
    for line in [*lines("answers"), *lines("suspended")]:
        answer = decode_answer(line)
        assert json.loads(asks.encode_answer(answer)) == json.loads(line)
        if answer.error is not msgspec.UNSET:
            error = ClusterError.decode(bytes(answer.error))
            assert json.loads(error.encode()) == json.loads(line)["error"]


def test_errors() -> None:
    rows = {row[0]: row[1:] for row in table("errors")}
    assert list(rows) == [reason.__name__ for reason in REASONS]
    common = set(ClusterError.__annotations__)
    for reason in REASONS:
        error = reason()
        may, advice, more = rows[reason.__name__]
        assert error.may_have_taken_effect == (may == "yes")
        assert error.advice == advice
        assert set(re.findall(r"\w+", more)) == set(values_of(error)) - common, reason


def test_keys() -> None:
    for key, verdict in table("keys"):
        assert is_key(json.loads(key)) == (verdict == "good")


def test_envelopes() -> None:
    rows = table("envelope fields")
    assert [row[1] for row in rows] == list(Envelope.__struct_fields__)
    defaults: list[Any] = list(Envelope.__struct_defaults__)
    assert [row[2] for row in rows[3:]] == [json.dumps(value) for value in defaults]
    kinds: list[str] = []
    for line in lines("envelopes"):
        envelope = open_body(line, None, limit=LIMIT)
        assert json.loads(encode_envelope(envelope))[: len(json.loads(line))] == json.loads(line)
        kinds.append(envelope.kind)
    assert set(kinds) == {"ask", "tell", "result", "status", "state", "flows"}


# -- the log -----------------------------------------------------------------------------------
def fields_of(name: str) -> list[str]:
    """The fields that a table explains."""
    return [field for row in table(name) for field in re.findall(r"\w+", row[0].replace("`", ""))]


def test_the_example_commits_are_a_chain() -> None:
    prev, version = "", 0
    for sequence, (mark, body) in enumerate(table("commits"), 1):
        commit = unseal(Stored(sequence, 0, body.encode(), mark))
        assert commit is not None
        assert seal(commit).data.decode() == body
        check_link(commit, prev=prev, version=version, sequence=sequence)
        prev, version = mark, commit.version
    assert version > 0


def test_commit_fields() -> None:
    assert fields_of("commit fields") == list(Commit.__struct_fields__)
    assert set(fields_of("outcome fields")) == set(Outcome.__struct_fields__)
    assert set(fields_of("dead fields")) == set(Dead.__struct_fields__)


def test_the_payload_hash() -> None:
    for canonical, hash in table("payload hash"):
        assert digest(canonical.encode()) == hash
        assert f'"payload_hash":"{hash}"' in section("commits")


def test_causes() -> None:
    for place, cause in table("causes"):
        generation, sequence, time_ns, hash = re.findall(r"\w+", place)
        at = At(int(generation), int(sequence), int(time_ns))
        assert cause_of(at, hash) == cause


# -- streams -----------------------------------------------------------------------------------
def test_retry_keys() -> None:
    for cause, key in table("retry keys"):
        assert retry_key(cause) == key
        assert is_key(key)


def test_streams() -> None:
    settings, sharding = Settings(), Sharding(1, 16)
    streams = (
        *topology.type_streams(settings, SUBJECTS, "account", sharding),
        *topology.shared_streams(settings, SUBJECTS),
    )
    rows = {row[0]: row[1:] for row in table("streams")}
    assert list(rows) == [stream.name for stream in streams]
    for stream in streams:
        assert rows[stream.name][0].replace("`", "").split(", ") == stream.config["subjects"]
    command, log = streams[0].config, streams[1].config
    assert command["subject_transform"]["dest"] in rows[streams[0].name][1]
    assert command["max_msgs_per_subject"] == 100
    assert command["duplicate_window"] == 100_000_000
    for rule in re.findall(r"`(\w+)`", rows[streams[1].name][1]):
        assert log[rule] is True


def test_registrations() -> None:
    (line,) = lines("registration")
    assert registration.decode(line) == ["a-1", "customer 7"]
    assert str(registration.PARTS) in section("registration")


def test_terms() -> None:
    for name, generation, shard, number, nonce in table("terms"):
        term = parse_term(name)
        assert term is not None
        assert str(term) == name
        assert (term.generation, term.shard, term.number) == (
            int(generation),
            int(shard),
            int(number),
        )
        assert term.nonce == nonce
