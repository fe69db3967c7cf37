"""The reader's parser: lines are divided at single spaces, and only nonsense ends it."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.msg import Msg
from nats.errors import ProtocolError

from perdure.streams.jetstream import reader
from perdure.streams.jetstream.reader import (
    BURST_BYTES,
    HEADERS,
    LINE_BYTES,
    SHORT,
    Reader,
    StrictParser,
    headers_of,
)
from perdure.streams.port import Message

Got = tuple[int, bytes, bytes, bytes, bytes | None]


class Heard:
    """Stands in for nats-py's client: what its parser calls."""

    def __init__(self) -> None:
        self.messages: list[Got] = []
        self.natspy: list[Any] = []
        self.takes = True
        self.signals: list[Any] = []
        self.said: list[str] = []
        self.takes_errors = False

    def take(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None
    ) -> bool:
        self.messages.append((sid, subject, reply, data, headers))
        return self.takes

    async def _process_msg(self, *message: Any) -> None:
        self.natspy.append(message)

    def taken(self, error: str) -> bool:
        self.said.append(error)
        return self.takes_errors

    async def _process_ping(self) -> None:
        self.signals.append("ping")

    async def _process_pong(self) -> None:
        self.signals.append("pong")

    async def _process_info(self, info: Any) -> None:
        self.signals.append(info)

    async def _process_err(self, error: str) -> None:
        self.signals.append(error)


def parse(*pieces: bytes) -> Heard:
    """What comes out of some bytes, given piece by piece."""
    heard = Heard()
    parser = StrictParser(heard)

    async def feed() -> None:
        for piece in pieces:
            await parser.parse(piece)

    asyncio.run(feed())
    return heard


STREAM = (
    b'INFO {"server_id": "x"} \r\n'
    b"MSG a.b 1 2\r\n{}\r\n"
    b"PING\r\n"
    b"MSG a.b 12 _INBOX.r 2\r\n\r\n\r\n"
    b"+OK\r\n"
    b"HMSG a.b 3 16 19\r\nNATS/1.0\r\na:\r\n\r\nxyz\r\n"
    b"HMSG a.b 3 _INBOX.r 12 12\r\nNATS/1.0\r\n\r\n\r\n"
    b"PONG\r\n"
    b"-ERR 'Permissions Violation for Publish to \"X\"'\r\n"
)


def check(heard: Heard) -> None:
    assert heard.messages == [
        (1, b"a.b", b"", b"{}", None),
        (12, b"a.b", b"_INBOX.r", b"\r\n", None),
        (3, b"a.b", b"", b"xyz", b"NATS/1.0\r\na:\r\n\r\n"),
        (3, b"a.b", b"_INBOX.r", b"", b"NATS/1.0\r\n\r\n"),
    ]
    assert heard.signals == [
        {"server_id": "x"},
        "ping",
        "pong",
        "'permissions violation for publish to \"x\"'",
    ]
    assert heard.said == ["'Permissions Violation for Publish to \"X\"'"], "as it was sent"


def test_all_that_a_server_sends() -> None:
    check(parse(STREAM))
    check(parse(*(bytes([byte]) for byte in STREAM)))


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_wherever_it_is_cut(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    check(parse(*(STREAM[a:b] for a, b in pairwise(edges))))


def test_an_error_that_is_taken_is_not_for_nats_py() -> None:
    heard = Heard()
    heard.takes_errors = True
    asyncio.run(StrictParser(heard).parse(b"-ERR 'Stale Connection'\r\n"))
    assert (heard.said, heard.signals) == (["'Stale Connection'"], [])


@pytest.mark.parametrize("space", [b"\x0b", b"\x0c", b"\x1c", b"\x85", b"\xa0", b"\x00"])
def test_other_white_space_divides_nothing(space: bytes) -> None:
    """`x<VT>1` in a subject must not choose the subscription 1."""
    subject = b"ask.x" + space + b"1"
    heard = parse(b"MSG " + subject + b" 12 2\r\n{}\r\n")
    assert heard.messages == [(12, subject, b"", b"{}", None)]
    heard = parse(b"MSG a 12 " + subject + b" 2\r\n{}\r\n")
    assert heard.messages == [(12, b"a", subject, b"{}", None)]


def test_nats_py_is_given_utf_8_alone() -> None:
    """It decodes strictly: what it can't would end its connection."""
    heard = Heard()
    heard.takes = False
    asyncio.run(StrictParser(heard).parse(b"MSG a\xff 12 b\x80 2\r\n{}\r\n"))
    replaced = "\ufffd".encode()
    assert heard.natspy == [(12, b"a" + replaced, b"b" + replaced, b"{}", None)]


@given(
    st.binary(min_size=1, max_size=20).filter(lambda b: not set(b) & set(b" \t\r\n")),
    st.binary(max_size=20).filter(lambda b: not set(b) & set(b" \t\r\n")),
    st.binary(max_size=40),
    st.binary(max_size=40),
)
def test_any_bytes_arrive_whole(subject: bytes, reply: bytes, block: bytes, data: bytes) -> None:
    words = [b"HMSG", subject, b"7", *([reply] if reply else [])]
    words += [str(len(block)).encode(), str(len(block + data)).encode()]
    heard = parse(b" ".join(words) + b"\r\n" + block + data + b"\r\nPING\r\n")
    ((sid, got_subject, got_reply, got_data, headers),) = heard.messages
    assert (sid, got_data) == (7, data)
    assert (got_subject, got_reply) == (subject, reply)
    assert headers is None or headers.partition(b"\r\n")[0].isascii()
    assert heard.signals == ["ping"]


@given(st.binary(max_size=60))
def test_nats_py_can_read_the_headers_that_are_passed_on(block: bytes) -> None:
    heard = parse(b"HMSG a 1 %d %d\r\n" % (len(block), len(block)) + block + b"\r\n")
    headers = heard.messages[0][4]
    client: Any = Reader()
    found = asyncio.run(client._process_headers(headers))
    assert found is None or all(isinstance(v, str) for v in found.values())


LINES = st.lists(st.one_of(st.binary(max_size=20), st.from_regex(rb"[!-~]{1,9}:[ -~]{0,9}")))


@given(LINES)
def test_headers_are_read_as_nats_py_reads_them(lines: list[bytes]) -> None:
    block = b"NATS/1.0\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"
    client: Any = Reader()
    theirs: dict[str, str] = client._parse_header_lines(block[len(b"NATS/1.0\r\n") :])
    visible = {n: v for n, v in theirs.items() if n and n.isprintable()}
    assert headers_of(block) == visible


@pytest.mark.parametrize(
    "block",
    [
        b"NATS/1.0 503\r\n\r\n",
        b"NATS/1.0 404 No Messages\r\n\r\n",
        b"NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: 7\r\n\r\n",
        b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 0\r\nNats-Last-Stream: 12\r\n\r\n",
        b"NATS/1.0 409 Consumer Deleted\r\n\r\n",
        b"NATS/1.0\r\nA: b\r\n\r\n",
    ],
)
def test_a_status_is_read_as_nats_py_reads_it(block: bytes) -> None:
    client: Any = Reader()
    assert headers_of(block) == asyncio.run(client._process_headers(block))


@pytest.mark.parametrize(
    "first", [b"NATS/1.0 5", b"NATS/1.0 abc", b"NATS/1.0 1000", b"NATS/2.0 503"]
)
def test_what_is_no_status_is_none(first: bytes) -> None:
    assert headers_of(first + b"\r\nA: b\r\n\r\n") == {"A": "b"}


def test_what_a_stranger_chose_is_not_remembered() -> None:
    caches: list[Any] = [vars(reader)["_known_status"], vars(reader)["_known_name"]]
    before = [cache.cache_info().currsize for cache in caches]
    long = b"x" * SHORT
    for number in range(3):
        block = b"NATS/1.0 200 %d%b\r\n%d%b: y\r\n\r\n" % (number, long, number, long)
        assert len(headers_of(block)) == 3
    assert [cache.cache_info().currsize for cache in caches] == before
    assert headers_of(b"NATS/1.0 299\r\nShort-One: y\r\n\r\n")["Short-One"] == "y"
    assert [cache.cache_info().currsize for cache in caches] == [b + 1 for b in before]


def test_many_headers_are_read_up_to_a_bound() -> None:
    block = b"NATS/1.0\r\n" + b"".join(b"H%d: y\r\n" % n for n in range(100_000)) + b"\r\n"
    assert len(headers_of(block)) == HEADERS - 1


def test_a_header_is_no_status_beside_one() -> None:
    block = b"NATS/1.0 100 Idle Heartbeat\r\nStatus: 409\r\n\r\n"
    assert headers_of(block) == {"Status": "100", "Description": "Idle Heartbeat"}


@pytest.mark.parametrize(
    "line",
    [
        b"MSG\r\n",
        b"MSG a\r\n",
        b"MSG a 1\r\n",
        b"MSG a x 2\r\n",
        b"MSG a 1 b c 2\r\n",
        b"HMSG a 1 12\r\n",
        b"NONSENSE\r\n",
        b"INFO {\r\n",
        b"x" * (LINE_BYTES + 1),
    ],
)
def test_nonsense_of_the_server_ends_the_connection(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse(line)


def test_an_empty_reply_is_none() -> None:
    """As nats-server 2.15.1 writes it where it acknowledges a part of a stream's restore."""
    heard = parse(b"MSG a.b 1  2\r\n{}\r\n", b"HMSG a 2  12 13\r\nNATS/1.0\r\n\r\nx\r\n")
    block = b"NATS/1.0\r\n\r\n"
    assert heard.messages == [(1, b"a.b", b"", b"{}", None), (2, b"a", b"", b"x", block)]


async def test_a_message_before_its_subscription_is_known_reaches_the_handler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Subscribing may wait for nats-py's flusher after the server knows of it."""
    reader, heard = Reader(), list[Any]()

    class Known:
        _id = 7

    async def subscribe(subject: str, cb: Any) -> Known:
        await cb(Msg(reader, subject, data=b"early"))
        return Known()

    monkeypatch.setattr(reader, "subscribe", subscribe)
    await reader.listen("a.b", heard.append)
    assert reader.take(7, b"a.b", b"", b"late", None)
    assert [(one.subject, one.data) for one in heard] == [("a.b", b"early"), ("a.b", b"late")]


@given(
    st.binary(min_size=1, max_size=20).filter(lambda b: not set(b) & set(b" \t\r\n")),
    st.binary(max_size=20).filter(lambda b: not set(b) & set(b" \t\r\n")),
    st.sampled_from([None, b"NATS/1.0\r\nA: b\r\n\r\n"]),
)
def test_a_handler_is_given_text_whatever_the_bytes(
    subject: bytes, reply: bytes, headers: bytes | None
) -> None:
    reader, heard = Reader(), list[Message]()
    reader.handlers[7] = heard.append
    assert reader.take(7, subject, reply, b"x", headers)
    (got,) = heard
    assert got.subject == subject.decode(errors="replace")
    assert got.reply == reply.decode(errors="replace")
    assert got.data == b"x"


class Socket:
    """A transport that may be closing, and nats-py's around it."""

    def __init__(
        self, *, closing: bool = False, full: bool = False, error: Exception | None = None
    ) -> None:
        self.closing, self.full, self.error = closing, full, error
        self.written: list[bytes] = []

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return int(self.full)

    def writelines(self, lines: list[bytes]) -> None:
        if self.error is not None:
            raise self.error
        self.written += lines


def reader_on(socket: Socket) -> Any:
    reader: Any = Reader()
    reader._socket = reader._transport = socket
    reader._flush_queue = asyncio.Queue()
    return reader


async def test_a_burst_is_written_at_once_and_less_in_the_next_round() -> None:
    socket = Socket()
    reader = reader_on(socket)
    reader.put(b"x")
    assert socket.written == []
    reader.put(bytes(BURST_BYTES))
    assert socket.written == [b"x", bytes(BURST_BYTES)]
    await asyncio.sleep(0)
    reader.put(b"y")
    reader.put(b"z")
    assert socket.written == [b"x", bytes(BURST_BYTES)]
    await asyncio.sleep(0)
    assert socket.written[2:] == [b"y", b"z"]
    assert reader.pending_data_size == 0
    assert reader._flush_queue.empty()


async def test_what_a_full_socket_does_not_take_is_left_to_the_flusher() -> None:
    socket = Socket(full=True)
    reader = reader_on(socket)
    for _ in range(3):
        reader.put(bytes(BURST_BYTES))
        await asyncio.sleep(0)
    assert socket.written == []
    assert reader._flush_queue.qsize() == 1
    assert reader.pending_data_size == 3 * BURST_BYTES


async def test_a_connection_that_just_ended_takes_what_is_put_and_raises_nothing() -> None:
    """uvloop refuses to write then; nats-py hears of the end a round of the loop later."""
    for error in (RuntimeError("closed=True"), ConnectionResetError(), AttributeError("None")):
        reader = reader_on(Socket(error=error))
        reader.put(bytes(BURST_BYTES))
        reader.put(b"x")
    closing = Socket(closing=True)
    reader = reader_on(closing)
    reader.put(bytes(BURST_BYTES))
    assert closing.written == []
    assert reader.pending_data_size == BURST_BYTES
