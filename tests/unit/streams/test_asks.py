"""What caller and owner say to each other, and what nobody can make them believe."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import UNSET, Raw

from perdure.streams.asks import (
    DEADLINE_HEADER,
    ENVELOPE_BYTES,
    FORBIDDEN_HEADER,
    KEY_HEADER,
    REPLY_TO_HEADER,
    TRACE_HEADER,
    Answer,
    Envelope,
    TypeInfo,
    decode_answer,
    decode_info,
    encode_answer,
    encode_envelope,
    encode_info,
    open_body,
    raw,
    reply_allowed,
)
from perdure.streams.codec import Undecodable

LIMIT = 1 << 16
texts = st.none() | st.text(max_size=60)
numbers = st.none() | st.integers(0, 2**53)
payloads = (
    st.none()
    | st.dictionaries(st.text(max_size=9), st.integers() | st.text(max_size=30), max_size=4)
).map(raw)
envelopes = st.builds(
    Envelope,
    st.just(1),
    st.sampled_from(["ask", "tell", "result", "status", "state"]),
    payloads,
    key=texts,
    birth=numbers,
    request=texts,
    reply_to=texts,
    deadline=numbers,
    after=numbers,
    seen=numbers,
    fresh=st.booleans(),
    trace=texts,
)


def plain(value: msgspec.Struct) -> dict[str, Any]:
    found = {n: getattr(value, n) for n in value.__struct_fields__}
    return {n: bytes(v) if isinstance(v, Raw) else v for n, v in found.items()}


# -- envelopes --------------------------------------------------------------------------------
@given(envelopes)
def test_an_envelope_comes_back(envelope: Envelope) -> None:
    data = encode_envelope(envelope)
    assert data[:1] == b"["
    assert plain(open_body(data, None, limit=LIMIT)) == plain(envelope)


def test_the_fields_of_an_envelope_are_never_reordered() -> None:
    envelope = Envelope(
        *(1, "ask", Raw(b'{"type":"x"}'), "k", 2, "r-1", "_INBOX.a", 3, 4, 5, True, "00-ab"),
        *(6, ("a/b#0",)),
    )
    assert encode_envelope(envelope) == (
        b'[1,"ask",{"type":"x"},"k",2,"r-1","_INBOX.a",3,4,5,true,"00-ab",6,["a/b#0"]]'
    )


def test_an_envelope_of_a_later_release_may_be_longer_but_not_newer() -> None:
    assert open_body(
        b'[1,"ask",{},null,null,null,null,null,null,null,false,null,null,[],9]', None, limit=99
    )
    with pytest.raises(Undecodable, match="format 2, this runner knows 1"):
        open_body(b'[2,"ask",{}]', None, limit=99)


@given(st.binary(max_size=300), st.none() | st.dictionaries(st.text(), st.text()))
@example(b"[", None)
@example(b"[" * 5000, None)
@example(b'[1,"ask"]', None)
@example(b'[1,"ask",{}', None)
@example(b'[true,"ask",{}]', None)
@example(b'[1,"shout",{}]', None)
@example(b'[1,"ask",{},7]', None)
@example(b'[1,"ask",{},null,1.5]', None)
@example(b'[1,"ask",\xff]', None)
@example(b"", {})
@example(b"{}", {DEADLINE_HEADER: "-1"})
@example(b"{}", {DEADLINE_HEADER: "\N{SUPERSCRIPT TWO}"})
def test_garbage_raises_undecodable_and_nothing_else(
    data: bytes, headers: dict[str, str] | None
) -> None:
    with contextlib.suppress(Undecodable):
        assert open_body(data, headers, limit=LIMIT).v == 1


@given(st.text(max_size=60).map(lambda text: ("[1," + text).encode(errors="surrogatepass")))
def test_half_an_envelope_raises_undecodable_and_nothing_else(data: bytes) -> None:
    with contextlib.suppress(Undecodable):
        assert open_body(data, None, limit=LIMIT).v == 1


@given(envelopes, st.integers(0, 400), st.integers(0, 255))
def test_a_mangled_envelope_raises_undecodable_and_nothing_else(
    envelope: Envelope, place: int, byte: int
) -> None:
    data = bytearray(encode_envelope(envelope))
    data[place % len(data)] = byte
    with contextlib.suppress(Undecodable):
        assert open_body(bytes(data), None, limit=LIMIT).v == 1


@pytest.mark.parametrize(
    "bomb",
    [b'[1,"ask",' + b"[" * 30_000, b'[1,"ask",' + b"[" * 30_000 + b"]" * 30_000 + b"]"],
    ids=["open", "closed"],
)
def test_a_nesting_bomb_in_an_envelope(bomb: bytes) -> None:
    with pytest.raises(Undecodable):
        open_body(bomb, None, limit=LIMIT)


def test_the_payload_is_limited_in_both_forms() -> None:
    text = b'"' + b"x" * 98 + b'"'
    for body in (text, b'[1,"ask",' + text + b"]"):
        assert bytes(open_body(body, None, limit=100).payload) == text
        with pytest.raises(Undecodable, match="99"):
            open_body(body, None, limit=99)


def test_an_envelope_around_a_small_payload_is_limited_too() -> None:
    long = b'[1,"ask",{},"' + b"k" * (ENVELOPE_BYTES + 100) + b'"]'
    with pytest.raises(Undecodable):
        open_body(long, None, limit=50)


# -- plain bodies -----------------------------------------------------------------------------
def test_a_plain_body_and_its_headers() -> None:
    headers = {
        KEY_HEADER: "order-17",
        REPLY_TO_HEADER: "_INBOX.x.y",
        DEADLINE_HEADER: "1800000000000",
        TRACE_HEADER: "00-ab-cd-01",
        "Other": "x",
    }
    envelope = open_body(b'{"type":"x"}', headers, limit=99)
    assert plain(envelope) == plain(
        Envelope(
            1,
            "ask",
            Raw(b'{"type":"x"}'),
            key="order-17",
            reply_to="_INBOX.x.y",
            deadline=1_800_000_000_000,
            trace="00-ab-cd-01",
        )
    )


def test_the_servers_message_id_is_no_key() -> None:
    with pytest.raises(
        Undecodable, match=f"{FORBIDDEN_HEADER} is not a key here: use {KEY_HEADER}"
    ):
        open_body(b"{}", {FORBIDDEN_HEADER: "order-17"}, limit=99)


@pytest.mark.parametrize("deadline", ["", "x", "-1", "1.5", "1e3", " 1", "1" * 16, "٣"])
def test_a_deadline_that_is_no_time(deadline: str) -> None:
    with pytest.raises(Undecodable, match="not a Unix time in milliseconds"):
        open_body(b"{}", {DEADLINE_HEADER: deadline}, limit=99)


# -- answers ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("answer", "data"),
    [
        (Answer(reply=raw(5)), b'{"reply":5}'),
        (Answer(reply=raw(None)), b'{"reply":null}'),
        (
            Answer(failure=raw({"type": "x"}), seq=7, version=3),
            b'{"failure":{"type":"x"},"seq":7,"version":3}',
        ),
        (
            Answer(error=raw({"type": "MailboxFull"})),
            b'{"error":{"type":"MailboxFull"}}',
        ),
    ],
)
def test_an_answer_comes_back(answer: Answer, data: bytes) -> None:
    assert encode_answer(answer) == data
    assert plain(decode_answer(data)) == plain(answer)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"5",
        b"[]",
        b'{"reply":1,"error":2}',
        b'{"reply":1,"failure":2,"error":3}',
        b'{"reply":1,"seq":"x"}',
        b'{"reply":',
        b'{"reply":' + b"[" * 5_000,
        b"\xff",
    ],
    ids=range(10),
)
def test_what_is_no_answer(data: bytes) -> None:
    with pytest.raises(Undecodable):
        decode_answer(data)


@given(st.binary(max_size=200))
def test_garbage_is_no_answer_and_no_info(data: bytes) -> None:
    with contextlib.suppress(Undecodable):
        assert decode_answer(data)
    with contextlib.suppress(Undecodable):
        assert decode_info(data)


def test_info_comes_back() -> None:
    info = TypeInfo("account", 1, 16, "r1", 1_800_000_000_000)
    assert decode_info(encode_info(info)) == info
    assert info.schemas is UNSET
    later = encode_info(info)[:-1] + b',"later":1}'
    assert decode_info(later) == info


# -- reply subjects ---------------------------------------------------------------------------
PREFIXES = ("_INBOX", "_R_", "perdure.reply")


@pytest.mark.parametrize("reply", ["_INBOX.a", "_INBOX.a.b.c", "_R_.x.1", "perdure.reply.me.1"])
def test_where_a_runner_may_answer(reply: str) -> None:
    assert reply_allowed(reply, PREFIXES)


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "_INBOX",
        "_INBOXES.a",
        "perdure.log.account.victim",
        "perdure.reply",
        "perdure.replies.x",
        "perdure.to.account.a-1",
        "$JS.API.STREAM.DELETE.PERDURE_LOG_account",
        "_INBOX.*",
        "_INBOX.>",
        "_INBOX.a b",
        "_INBOX.a\r\nPUB x 1",
        "_INBOX.a\0",
        "_INBOX.a\t",
        "_INBOX." + "x" * 600,
        " _INBOX.a",
    ],
)
def test_where_a_runner_must_not_write(reply: str) -> None:
    assert not reply_allowed(reply, PREFIXES)


@given(st.text(st.sampled_from(" *>..ab\x00\t\n\x7f\x85\xa0\u2028\u200bé-_$") | st.characters()))
def test_a_reply_is_tokens_without_white_space_or_wildcards_however_it_is_looked_at(
    rest: str,
) -> None:
    tokens = rest.split(".")
    bad = any(c.isspace() or c in "*>\x7f" or c <= " " for c in rest)
    assert reply_allowed(f"_INBOX.{rest}", PREFIXES) is (all(tokens) and not bad)


@given(st.text(max_size=40))
def test_no_other_text_is_below_a_prefix(reply: str) -> None:
    assert reply_allowed(reply, PREFIXES) is False or reply.startswith(
        tuple(f"{p}." for p in PREFIXES)
    )
    assert not reply_allowed(reply, ())
