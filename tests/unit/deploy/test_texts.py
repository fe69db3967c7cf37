"""What the command line says: pure functions from values to lines."""

from __future__ import annotations

import os
import shlex
from datetime import UTC, date, datetime
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given as for_all
from hypothesis import strategies as some
from msgspec import Raw

from perdure.deploy.cli.advice import next_step, quoted
from perdure.deploy.cli.chronicle import Chronicle, Entry, Foreign, tagged, told
from perdure.deploy.cli.example import example
from perdure.deploy.cli.hint import shapes_of
from perdure.deploy.cli.hosting import next_commands, options
from perdure.deploy.cli.output import told as told_error
from perdure.durable.runner import schemas_of
from perdure.entities.contract import contract_of
from perdure.entities.errors import REASONS, MailboxFull, RpcClientError, SendTimeout, Suspended
from perdure.entities.message import Command
from perdure.entities.settings import Settings
from perdure.entities.state import Value
from perdure.streams.commit import (
    GENESIS,
    Commit,
    Damaged,
    Dead,
    Outcome,
    Stored,
    seal,
)

from .counter import Counter, counter


# -- errors -------------------------------------------------------------------------------------
@pytest.mark.parametrize("reason", REASONS)
@pytest.mark.parametrize("key", [None, "k-1"])
@pytest.mark.parametrize("may", [True, False])
def test_every_error_has_one_line_and_a_next_step(reason: Any, key: str | None, may: bool) -> None:
    error = reason(
        address="account/a 1",
        key=key,
        request_id="r-1",
        cause="two\nlines",
        may_have_taken_effect=may,
    )
    line, step = told_error(error), next_step(error)
    assert line.startswith(f"{error.tag}: ")
    assert "\n" not in line + step
    assert "two lines" in line
    assert "account/a 1" in line
    assert ("may have taken effect" in line) is may
    assert step


def test_what_may_have_happened_is_never_simply_sent_again() -> None:
    assert next_step(SendTimeout(address="account/a-1", key="k")) == "perdure result account a-1 k"
    assert next_step(SendTimeout(address="account/a-1")).endswith("perdure history account a-1")
    full = MailboxFull(address="account/a-1", key="k")
    assert next_step(full) == "wait a moment, then try again with --key k"


def test_what_a_flow_keeps_away_is_asked_again_and_its_own_caller_waits() -> None:
    own = Suspended(address="account/a-1", key="k", waits_for=("approval",))
    assert next_step(own).endswith("then perdure result account a-1 k")
    another = Suspended(address="account/a-1", key="k", advice="retry with the same key")
    assert next_step(another) == "perdure flows list account a-1; then try again with --key k"


def test_an_error_of_no_entity_is_about_the_server() -> None:
    error = RpcClientError(cause="nobody there", may_have_taken_effect=False)
    assert told_error(error).endswith(": nobody there; it has had no effect")
    assert next_step(error) == "start a server (perdure dev APP), or correct --url"


@for_all(some.text(alphabet=some.characters(exclude_characters="\0", codec="utf-8")))
def test_quoted_is_one_word_of_a_shell(text: str) -> None:
    assert shlex.split(quoted(text)) == [text]


# -- examples -------------------------------------------------------------------------------------
class Color(Enum):
    RED = "red"


class Inner(Value):
    n: int


class Everything(Command[Counter, None]):
    flag: bool
    count: Annotated[int, msgspec.Meta(gt=4)]
    share: Annotated[float, msgspec.Meta(ge=0.5)]
    name: str
    at: datetime
    day: date
    kind: Literal["a", "b"]
    color: Color
    maybe: str | None
    table: dict[str, int]
    inner: Inner
    many: list[int]
    pair: tuple[int, str]
    nothing: None
    defaulted: int = 3


class Awkward(Command[Counter, None]):
    code: Annotated[str, msgspec.Meta(pattern="^[0-9]{4}$")]


def test_an_example_decodes_and_leaves_defaults_out() -> None:
    text = example(contract_of(Everything, Counter, "test"))
    assert text is not None
    fields = msgspec.json.decode(text)
    assert "defaulted" not in fields
    assert fields["count"] == 5
    assert fields["color"] == "red"
    decoded = msgspec.json.decode(
        msgspec.json.encode({"type": "everything", **fields}), type=Everything
    )
    assert decoded.inner == Inner(100)


def test_an_example_that_would_not_decode_is_not_offered() -> None:
    assert example(contract_of(Awkward, Counter, "test")) is None


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An empty folder and environment: nothing is set anywhere."""
    for name in os.environ:
        if name.startswith(("PERDURE_", "NATS_", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return monkeypatch


def test_the_next_commands_name_the_server_unless_they_find_it(
    bare: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here = Settings()
    for name in ("PERDURE_URL", "NATS_URL"):
        bare.setenv(name, "nats://other:1")
        assert options(here) == f" --url {here.url}"
        assert options(Settings(url="nats://other:1")) == ""
        bare.delenv(name)
    (tmp_path / "perdure.toml").write_text('url = "nats://other:1"\nnamespace = "shop"\n')
    assert options(here) == f" --url {here.url} --namespace perdure"
    assert options(Settings(url="nats://other:1", namespace="shop")) == ""


@pytest.mark.usefixtures("bare")
def test_the_next_commands_name_another_server() -> None:
    settings = Settings(url="nats://other:1", namespace="shop")
    assert options(Settings()) == ""
    lines = next_commands(counter, options(settings))
    assert lines == [
        "perdure ask counter c-1 add '{\"n\":100}' --url nats://other:1 --namespace shop",
        "perdure ask counter c-1 take '{\"n\":100}' --url nats://other:1 --namespace shop",
        "perdure history counter c-1 --url nats://other:1 --namespace shop",
        "perdure state counter c-1 --url nats://other:1 --namespace shop",
    ]


def test_a_hint_lists_what_a_type_takes() -> None:
    shapes = ['add {"n": …, "note": …}', 'take {"n": …}', "get_total"]
    assert shapes_of(bytes(schemas_of(counter))) == shapes
    for nonsense in (b"", b"[]", b"{}", b'{"$defs": 3}'):
        assert shapes_of(nonsense) == []


def test_a_hint_of_a_type_with_one_command() -> None:
    schema = b'{"commands": {"$ref": "#/$defs/A"}, "$defs": {"A": {"properties": {"x": {}}}}}'
    assert shapes_of(schema) == ['? {"x": …}']


# -- the chronicle --------------------------------------------------------------------------------
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def outcome(name: str, **fields: Any) -> Outcome:
    return Outcome(name=name, payload_hash="", **fields)


def stored(sequence: int, prev: str, version: int, *outcomes: Outcome) -> Stored:
    sealed = seal(
        Commit(
            v=1, id=f"c{sequence}", prev=prev, version=version, runner="r", time=NOON,
            outcomes=outcomes,
        )
    )  # fmt: skip
    return Stored(sequence, 1_000, sealed.data, sealed.mark)


ADDED = Raw(b'{"type":"added","n":1}')


def test_outcomes_of_one_commit_have_versions_of_their_own() -> None:
    chronicle = Chronicle()
    first = stored(
        3,
        GENESIS,
        2,
        outcome("k-1", events=(ADDED, ADDED), reply=Raw(b"2")),
        outcome("_INBOX.x", failure=Raw(b'{"type":"too_few","total":2}')),
        outcome("@1.4.5.ab", dead=Dead("malformed", Raw(b'{"type":"MalformedMessage"}'), "k-9")),
    )
    entries = [entry for entry in chronicle.read(first) if isinstance(entry, Entry)]
    assert [(e.version, e.key, e.name) for e in entries] == [
        (2, "k-1", "k-1"),
        (2, None, "_INBOX.x"),
        (2, "k-9", "@1.4.5.ab"),
    ]
    assert [told(entry)[33:] for entry in entries] == [
        'k-1  added {"n":1}, added {"n":1}',
        '-  refused: too_few {"total":2}',
        "k-9  dead letter: malformed",
    ]
    assert first.mark is not None
    second = stored(7, first.mark, 2, outcome(f"m-1-{'a' * 32}", reply=Raw(b"null")))
    (entry,) = chronicle.read(second)
    assert told(entry) == "     2  2026-01-02 12:00:00.000  -  no events"


def test_a_foreign_message_is_told_and_passed_over() -> None:
    chronicle = Chronicle()
    (entry,) = chronicle.read(Stored(9, 0, b"hello", None))
    assert isinstance(entry, Foreign)
    assert "foreign message of 5 bytes, sequence 9" in told(entry)
    (after,) = chronicle.read(stored(10, GENESIS, 1, outcome("k", events=(ADDED,))))
    assert isinstance(after, Entry)


def test_a_broken_chain_is_damage() -> None:
    chronicle = Chronicle()
    list(chronicle.read(stored(1, GENESIS, 1, outcome("k", events=(ADDED,)))))
    with pytest.raises(Damaged, match="chain"):
        list(chronicle.read(stored(2, "not it", 2, outcome("l", events=(ADDED,)))))


def test_a_long_line_is_cut_for_people() -> None:
    (entry,) = Chronicle().read(stored(1, GENESIS, 300, outcome("k", events=(ADDED,) * 300)))
    assert len(told(entry)) == 400
    assert told(entry).endswith("…")


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b'{"type":"added","n":1}', 'added {"n":1}'),
        (b'{"type":"closed"}', "closed"),
        (b'{"n": 1}', '{"n": 1}'),
        (b"5", "5"),
        (b"null", "null"),
        (b"[1,\n2]", "[1, 2]"),
    ],
)
def test_a_tagged_object_is_told_by_its_tag(raw: bytes, text: str) -> None:
    assert tagged(Raw(raw)) == text
