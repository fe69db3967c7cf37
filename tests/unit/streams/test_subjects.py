"""Ids in subjects: one token for each id, and no token that another function would write."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from perdure.streams.subjects import (
    ID_BYTES,
    Sharding,
    Subjects,
    escape,
    fnv1a32,
    shard_of,
    unescape,
)

IDS = st.text(min_size=1, max_size=ID_BYTES).filter(
    lambda id: 1 <= len(id.encode(errors="surrogatepass")) <= ID_BYTES and encodable(id)
)
TOKEN = re.compile(r"(?:[A-Za-z0-9_-]|=[0-9A-F]{2})+")


def encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@given(IDS)
@example("a.b")
@example("*")
@example(">")
@example("\0\r\n \t")
@example("=41")
@example("A")
@example("😀")
@example("x" * ID_BYTES)
@example("é" * (ID_BYTES // 2))
def test_an_id_comes_back_from_its_token(id: str) -> None:
    token = escape(id)
    assert unescape(token) == id
    assert TOKEN.fullmatch(token)
    assert len(token) <= 3 * ID_BYTES


@given(IDS, IDS)
def test_two_ids_have_two_tokens(one: str, two: str) -> None:
    assume(one != two)
    assert escape(one) != escape(two)


@given(st.text(alphabet="aZ0-_=4F1f. é", min_size=0, max_size=12))
@example("=41")  # an A that needs no escape
@example("=e9")  # lower case
@example("=E9")  # half of an é
@example("=C3=A9")
@example("=")
@example("=4")
@example("= 4")
@example("=+4")
@example("=_4")
@example("a.b")
@example("")
def test_only_what_escape_writes_is_taken(token: str) -> None:
    """Either it is some id's one token, or it is refused: no second name for any log."""
    with contextlib.suppress(ValueError):
        assert escape(unescape(token)) == token


@given(st.text(max_size=900))
def test_unescape_raises_nothing_else(token: str) -> None:
    with contextlib.suppress(ValueError):
        assert escape(unescape(token)) == token


def test_a_hostile_token_is_not_printed_whole() -> None:
    with pytest.raises(ValueError, match="not an") as caught:
        unescape("=2E" * 100_000)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("token", ["=41", "=61", "=5F", "=2D", "=30"])
def test_a_plain_character_must_not_be_escaped(token: str) -> None:
    with pytest.raises(ValueError, match="not an escaped id"):
        unescape(token)


@pytest.mark.parametrize("id", ["", "x" * (ID_BYTES + 1), "é" * 128, "x" * 10_240, "\ud800"])
def test_what_is_no_id(id: str) -> None:
    with pytest.raises(ValueError, match="not an id"):
        escape(id)


def test_a_token_of_a_longer_id_is_refused() -> None:
    with pytest.raises(ValueError, match="not an"):
        unescape("x" * (ID_BYTES + 1))
    with pytest.raises(ValueError, match="not an"):
        unescape("=2E" * (ID_BYTES + 1))


# -- shards -----------------------------------------------------------------------------------
def reference(data: bytes) -> int:
    """FNV-1a, 32 bits, from its definition."""
    value = 0x811C9DC5
    for byte in data:
        value = (value ^ byte) * 0x01000193 % 2**32
    return value


@pytest.mark.parametrize(
    ("data", "value"),
    [(b"", 0x811C9DC5), (b"a", 0xE40C292C), (b"b", 0xE70C2DE5), (b"foobar", 0xBF9CF968)],
)
def test_the_published_values(data: bytes, value: int) -> None:
    assert fnv1a32(data) == value


@given(st.binary(max_size=300))
def test_the_hash_is_the_reference(data: bytes) -> None:
    assert fnv1a32(data) == reference(data)


@given(IDS, st.integers(1, 1024))
def test_the_shard_is_that_of_the_token(id: str, shards: int) -> None:
    token = escape(id)
    assert shard_of(token, shards) == reference(token.encode()) % shards
    assert Sharding(1, shards).shard(token) == shard_of(token, shards)


# -- subjects ---------------------------------------------------------------------------------
def test_every_subject_and_name() -> None:
    s = Subjects("bank")
    assert s.to("account", "a-1") == "bank.to.account.a-1"
    assert s.command("account", 1, 7, "a-1") == "bank.cmd.account.1.7.a-1"
    assert s.command("account", 1, "{{partition(16,1)}}", "{{wildcard(1)}}") == (
        "bank.cmd.account.1.{{partition(16,1)}}.{{wildcard(1)}}"
    )
    assert s.ask("account", "a-1") == "bank.ask.account.a-1"
    assert s.ask_shard("account", 1, 7, "a-1") == "bank.ask.account.1.7.a-1"
    assert s.info("account") == "bank.info.account"
    assert s.member("r1") == "bank.member.r1"
    assert s.log("account", "a-1") == "bank.log.account.a-1"
    assert s.snapshot("account", "a-1") == "bank.snap.account.a-1"
    assert s.snapshot("account", "a-1", "p1") == "bank.snap.account.a-1.p1"
    assert s.dead("account", "a-1") == "bank.dead.account.a-1"
    assert s.command_stream("account") == "BANK_CMD_account"
    assert s.log_stream("account") == "BANK_LOG_account"
    assert s.snapshot_stream("account") == "BANK_SNAP_account"
    assert (s.dead_stream, s.members_bucket) == ("BANK_DEAD", "BANK_MEMBERS")
    assert Subjects().namespace == "perdure"


@given(IDS)
def test_no_id_reaches_another_subject(id: str) -> None:
    s = Subjects()
    for subject in (
        s.to("account", escape(id)),
        s.log("account", escape(id)),
        s.ask("account", escape(id)),
    ):
        tokens = subject.split(".")
        assert len(tokens) == 4
        assert tokens[2] == "account"
        assert not set(subject) & set(" *>\t\r\n\0")
        assert len(subject) < 1024  # far below a control line's 4 KiB
