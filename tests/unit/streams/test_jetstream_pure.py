"""The parts of the JetStream backend that need no server."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.entities.clock import to_datetime
from perdure.entities.settings import Settings
from perdure.streams.jetstream.api import RawMessage, parse_time
from perdure.streams.jetstream.consumer import delivery_of
from perdure.streams.jetstream.denials import LATE_S
from perdure.streams.jetstream.errors import (
    ApiError,
    Denied,
    Lost,
    Problem,
    api_error,
    append_answer,
    check_version,
    publish_answer,
)
from perdure.streams.jetstream.login import options, servers
from perdure.streams.jetstream.messages import headers_block, received
from perdure.streams.jetstream.outbox import PENDING_BYTES, Outbox
from perdure.streams.jetstream.pull import Credit
from perdure.streams.jetstream.reader import headers_of
from perdure.streams.jetstream.replies import GIVEN_UP, Replies
from perdure.streams.jetstream.room import Room
from perdure.streams.port import (
    Appended,
    Full,
    Incompatible,
    Message,
    NoAck,
    Refused,
    Taken,
    Unreachable,
    WrongLast,
)


# -- what the server says -----------------------------------------------------------------------
@pytest.mark.parametrize("version", ["2.15.1", "2.15.10", "2.16.0-RC.1", "3.0.0", "2.15.1+build"])
def test_servers_that_are_new_enough(version: str) -> None:
    check_version(version)


@pytest.mark.parametrize("version", ["2.15.0", "2.9.25", "1.99.99", "2.15.1-RC.1"])
def test_older_servers_are_refused_with_both_versions(version: str) -> None:
    with pytest.raises(Incompatible, match=f"{version}, perdure needs 2.15.1") as caught:
        check_version(version)
    assert "upgrade" in str(caught.value)


def test_a_version_that_can_not_be_read() -> None:
    with pytest.raises(Incompatible, match="can't be read"):
        check_version("unknown")


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2026-11-24T10:02:45.362643306Z", 1_795_514_565_362_643_306),
        ("2026-11-24T10:02:45.3Z", 1_795_514_565_300_000_000),
        ("2026-11-24T10:02:45.000000001Z", 1_795_514_565_000_000_001),
    ],
)
def test_the_servers_times(text: str, ns: int) -> None:
    assert parse_time(text) == ns


@given(st.integers(min_value=0, max_value=9_000_000_000_000_000_000))
def test_times_are_read_to_the_nanosecond(ns: int) -> None:
    whole = to_datetime(ns - ns % 1_000_000_000).strftime("%Y-%m-%dT%H:%M:%S")
    text = f"{whole}.{ns % 1_000_000_000:09}".rstrip("0").rstrip(".")
    assert parse_time(text + "Z") == ns


@pytest.mark.parametrize("text", ["", "2026-11-24T10:02:45+01:00", "2026-11-24T10:02:45.xZ", "Z"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"time|isoformat"):
        parse_time(text)


def test_headers_of_stored_messages() -> None:
    raw = b"NATS/1.0\r\nPerdure-Commit: ab\r\nA:  b:c \r\nno colon\r\n\r\n"
    assert headers_of(raw) == {"Perdure-Commit": "ab", "A": "b:c"}
    plain = RawMessage(7, "1970-01-01T00:00:01Z", "s", b"x")
    assert plain.headers() is None
    assert plain.stored().mark is None
    assert plain.stored().time_ns == 1_000_000_000


def test_deliveries_are_read_from_both_forms_of_their_acknowledgement() -> None:
    short = "$JS.ACK.BANK_CMD_account.g1-s7-t43-x8k2.2.1234.56.1795514567379057666.4"
    long = "$JS.ACK.dom.acchash.BANK_CMD_account.g1-s7-t43-x8k2.2.1234.56.1795514567379057666.4.r"
    for handle in (short, long, long.removesuffix(".r")):
        delivery = delivery_of(Message("bank.cmd.account.1.7.a=2E1", b"data", handle, {"h": "v"}))
        assert delivery.consumer == "g1-s7-t43-x8k2"
        assert delivery.consumer_sequence == 56
        assert delivery.sequence == 1234
        assert delivery.time_ns == 1795514567379057666
        assert delivery.token == "a=2E1"
        assert delivery.handle == handle
        assert delivery.headers == {"h": "v"}


OK = b'{"stream":"S","seq":5}'


def error(code: int, text: str = "why") -> bytes:
    return b'{"error":{"code":400,"err_code":%d,"description":"%s"},"stream":"S","seq":0}' % (
        code,
        text.encode(),
    )


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (OK, Appended(5)),
        (error(10071, "wrong last sequence: 5"), WrongLast()),
        (error(10164), WrongLast()),
        (error(10077, "maximum bytes exceeded"), Refused(10077, "maximum bytes exceeded")),
        (error(10054), Refused(10054, "why")),
    ],
)
def test_answers_to_an_append(data: bytes, answer: object) -> None:
    assert append_answer(data, stream="S", no_responders=False) == answer


@pytest.mark.parametrize("data", [b"", b"ok", b"[]", b"\xff", b'{"stream":"T","seq":5}', b"{}"])
def test_somebody_elses_answer_is_none(data: bytes) -> None:
    assert isinstance(append_answer(data, stream="S", no_responders=False), NoAck)
    assert isinstance(publish_answer(data, stream="S"), NoAck)


def test_nobody_answers() -> None:
    append = append_answer(b"", stream="S", no_responders=True)
    assert isinstance(append, Refused)
    assert append.code == 503


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (OK, Appended(5)),
        (error(10077, "maximum messages per subject exceeded"), Full()),
        (error(10077, "maximum bytes exceeded"), Refused(10077, "maximum bytes exceeded")),
        (error(10071), Refused(10071, "why")),
    ],
)
def test_answers_to_a_tell(data: bytes, answer: object) -> None:
    assert publish_answer(data, stream="S") == answer


def test_a_swallowed_duplicate_was_not_stored() -> None:
    data = b'{"stream":"S","seq":5,"duplicate":true}'
    answer = publish_answer(data, stream="S")
    assert isinstance(answer, Refused)
    assert "Nats-Msg-Id" in answer.why


@pytest.mark.parametrize(
    ("code", "kind", "text"),
    [
        (10039, Incompatible, "enable it on the server"),
        (10076, Incompatible, "enable it on the server"),
        (10065, Incompatible, "another namespace"),
        (10047, Incompatible, "command_stream_bytes"),
        (10074, Incompatible, "replicas"),
        (10148, Taken, "why"),
        (10100, Taken, "why"),
        (10026, ApiError, "why"),
    ],
)
def test_errors_of_the_api(code: int, kind: type[Exception], text: str) -> None:
    raised = api_error("STREAM.CREATE.S", Problem(400, code, "why"))
    assert type(raised) is kind
    assert "api_prefix" in str(raised) or "enable" not in str(raised)
    assert text in str(raised)
    assert f"({code})" in str(raised)


def test_an_error_that_the_server_calls_temporary_is_no_refusal() -> None:
    assert type(api_error("STREAM.INFO.S", Problem(503, 10008, "no leader"))) is Unreachable


def test_where_there_is_no_jetstream_the_prefix_that_was_set_comes_first() -> None:
    raised = api_error("STREAM.INFO.S", Problem(503, 10039, "no"), "JS.CORE.API")
    assert isinstance(raised, Incompatible)
    found = str(raised)
    assert 0 < found.index("`api_prefix`, which is JS.CORE.API") < found.index("enable it")


def test_no_responders_is_a_status_without_data() -> None:
    assert received("s", "", b"", {"Status": "503"}).no_responders
    assert not received("s", "", b"x", {"Status": "503"}).no_responders
    assert not received("s", "", b"", {"Status": "404"}).no_responders
    assert not received("s", "", b"", None).no_responders


def test_the_size_of_headers() -> None:
    assert headers_block(None) == headers_block({}) == b""
    assert headers_block({"A": "é"}) == "NATS/1.0\r\nA: é\r\n\r\n".encode()
    assert headers_block({"A": " b\r\nC: d"}) == b"NATS/1.0\r\nA: b  C: d\r\n\r\n"
    assert headers_block({"A": "1", "B-c": ""}) == b"NATS/1.0\r\nA: 1\r\nB-c: \r\n\r\n"
    for name in ("", "a b", "a:", "a\r\nb", "é"):
        with pytest.raises(ValueError, match="not a header's name"):
            headers_block({name: "x"})


# -- what waits to be sent ----------------------------------------------------------------------
class Stuck:
    """A client whose socket takes nothing, and whose connection ends."""

    pending_data_size = PENDING_BYTES + 1
    is_connected = True

    def put(self, frame: bytes) -> None:
        raise AssertionError(frame)

    async def flush(self) -> None:
        self.is_connected = False


async def test_an_outbox_ends_with_its_connection() -> None:
    client: Any = Stuck()
    outbox = Outbox(client)
    assert outbox.put(b"one")
    assert outbox.put(b"two")
    assert len(outbox) == 2
    async with asyncio.timeout(1):
        await outbox.empty(60)
    assert (len(outbox), outbox.size) == (0, client.pending_data_size)
    outbox.stop()


# -- credit -------------------------------------------------------------------------------------
def test_credit_is_asked_for_at_once_and_then_by_halves() -> None:
    credit = Credit()
    assert credit.take() == 0
    credit.grant(256)
    assert credit.take() == 256
    asked: list[int] = []
    for _ in range(512):
        credit.arrived()
        credit.grant(1)
        asked.append(credit.take())
    assert [n for n in asked if n] == [128, 128, 128, 128]
    assert credit.free + credit.out == 256


def test_what_a_request_did_not_use_is_free_again() -> None:
    credit = Credit()
    credit.grant(10)
    credit.take()
    credit.arrived()
    credit.returned(9)
    assert (credit.free, credit.out) == (9, 0)
    assert credit.take() == 9
    credit.returned(100)
    assert (credit.free, credit.out) == (9, 0)
    credit.take()
    credit.forget()
    assert (credit.free, credit.out) == (9, 0)


@given(st.lists(st.tuples(st.sampled_from("gatrf"), st.integers(0, 50))))
def test_no_more_is_asked_for_than_was_granted(steps: list[tuple[str, int]]) -> None:
    credit, granted, came = Credit(), 0, 0
    for step, number in steps:
        match step:
            case "g":
                credit.grant(number)
                granted += number
            case "a" if credit.out:
                credit.arrived()
                came += 1
            case "t":
                credit.take()
            case "r":
                credit.returned(number)
            case "f":
                credit.forget()
            case _:
                credit.take()
        assert credit.free >= 0
        assert credit.out >= 0
        assert credit.free + credit.out + came == granted


# -- replies and room ---------------------------------------------------------------------------
async def test_replies_find_who_waits() -> None:
    replies = Replies("_INBOX.x", 60.0)
    subject, future = replies.ack("s")
    other, second = replies.ack("s")
    assert subject != other
    answer = Message(subject, b"")
    replies.settle(answer)
    replies.settle(answer)  # once more: nobody waits
    replies.settle(Message("_INBOX.x.nothing", b""))
    assert await future is answer
    assert not second.done()
    assert len(replies) == 1
    replies.end("gone")
    assert await second == Lost("gone")
    assert len(replies) == 0


async def test_overdue_acknowledgements_are_swept_oldest_first() -> None:
    now = asyncio.get_running_loop().time()
    replies = Replies("_INBOX.x", 10.0)
    _, first = replies.ack("s.1")
    replies.sweep(now + 5)
    assert not first.done()
    replies.sweep(now + 11)
    assert isinstance(await first, Lost)
    assert len(replies) == 0


async def test_a_request_has_its_own_timeout() -> None:
    replies = Replies("_INBOX.x", 10.0)
    _, future, over = replies.request("s", 0.01)
    result = await asyncio.wait_for(future, 5)
    assert result == Lost("no answer on s in 0.01 s")
    over()
    assert len(replies) == 0


async def test_a_cancelled_request_is_no_trouble() -> None:
    replies = Replies("_INBOX.x", 10.0)
    subject, future = replies.ack("s")
    future.cancel()
    replies.settle(Message(subject, b""))
    _, future = replies.ack("s")
    future.cancel()
    replies.end("gone")
    assert len(replies) == 0


async def test_denied_publishes_end_what_waits_for_them_only() -> None:
    replies = Replies("_INBOX.x", 10.0)
    _, denied = replies.ack("log.A")
    _, other = replies.ack("log.a")
    _, asked, over = replies.request("log.A", 10)
    replies.deny("log.A")
    assert not denied.done(), "it may be the other one that was denied"
    assert not asked.done()
    replies.deny("log.A")
    told = Denied('permissions violation for publish to "log.A"')
    assert await denied == await asked == told
    assert not other.done()
    over()


async def test_what_was_taken_before_a_right_was_withdrawn_gets_its_answer() -> None:
    replies = Replies("_INBOX.x", 10.0)
    taken, first = replies.ack("log.a")
    _, second = replies.ack("log.a")
    replies.deny("log.a")
    replies.sweep(now := asyncio.get_running_loop().time())
    assert not first.done()
    assert not second.done()
    answer = Message(taken, b"")
    replies.settle(answer)
    assert await first is answer
    replies.sweep(now + 11)  # looks once more before it says that the other is lost
    assert await second == Denied('permissions violation for publish to "log.a"')


@pytest.mark.parametrize("late", [True, False])
async def test_what_was_given_up_may_be_what_was_denied(late: bool) -> None:
    replies = Replies("_INBOX.x", 1.0)
    begin = asyncio.get_running_loop().time()
    subject, lost = replies.ack("log.a")
    if not late:
        _, _, over = replies.request("log.a", 10)
        replies.deny("log.a")
        over()  # one of the two was denied
    replies.sweep(begin + 1.1)
    assert await lost == Lost("no acknowledgement on log.a in 1 s")
    _, next_one = replies.ack("log.a")
    if late:
        replies.deny("log.a")
    assert not next_one.done()
    replies.settle(Message(subject, b""))  # it came after all
    replies.sweep(begin + 0.5)
    assert next_one.done() is late


async def test_a_denial_of_what_nobody_waits_for_is_forgotten() -> None:
    replies = Replies("_INBOX.x", 1.0)
    replies.deny("log.a")
    _, one = replies.ack("log.a")
    _, other = replies.ack("log.a")
    replies.deny("log.a")
    assert not one.done()
    assert not other.done()
    replies.end("gone")
    _, one = replies.ack("log.a")
    replies.deny("log.a")
    assert isinstance(await one, Denied)


async def test_what_was_given_up_is_forgotten_in_time() -> None:
    replies = Replies("_INBOX.x", 1.0)
    begin = asyncio.get_running_loop().time()
    _, lost = replies.ack("log.a")
    replies.sweep(begin + 1.1)
    assert await lost == Lost("no acknowledgement on log.a in 1 s")
    replies.sweep(begin + LATE_S + 1)
    _, one = replies.ack("log.a")
    replies.deny("log.a")
    assert isinstance(await one, Denied)


async def test_a_denial_of_what_was_given_up_is_forgotten_with_it() -> None:
    replies = Replies("_INBOX.x", 1.0)
    begin = asyncio.get_running_loop().time()
    _, lost = replies.ack("log.a")
    replies.sweep(begin + 1.1)
    assert isinstance(await lost, Lost)
    _, waiting, over = replies.request("log.a", 60)
    replies.deny("log.a")
    replies.sweep(begin + LATE_S + 1)
    assert not waiting.done(), "it was taken"
    over()


async def test_what_was_given_up_is_bounded() -> None:
    replies = Replies("_INBOX.x", 1.0)
    for number in range(GIVEN_UP + 1):
        replies.ack(f"log.{number}")
    replies.sweep(asyncio.get_running_loop().time() + 1.1)
    for number, certain in ((0, True), (1, False)):
        _, one = replies.ack(f"log.{number}")
        replies.deny(f"log.{number}")
        assert one.done() is certain


async def test_room_is_given_in_turn() -> None:
    room = Room(100)
    await room.take(60)
    large = asyncio.ensure_future(room.take(50))
    small = asyncio.ensure_future(room.take(10))
    for _ in range(3):
        await asyncio.sleep(0)
    assert not large.done()
    assert not small.done()  # the large one would starve
    room.give(60)
    await asyncio.gather(large, small)
    assert room.taken == 60


async def test_a_message_larger_than_the_room_gets_all_of_it() -> None:
    room = Room(100)
    await room.take(1000)
    waiting = asyncio.ensure_future(room.take(1))
    await asyncio.sleep(0)
    assert not waiting.done()
    room.give(1000)
    await waiting


async def test_who_gives_up_takes_no_room() -> None:
    room = Room(100)
    await room.take(100)
    first, second = (asyncio.ensure_future(room.take(100)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    room.give(100)
    await second
    third = asyncio.ensure_future(room.take(100))
    await asyncio.sleep(0)
    room.give(100)
    third.cancel()  # it was its turn, and it doesn't know yet
    with pytest.raises(asyncio.CancelledError):
        await third
    assert room.taken == 0


async def test_the_end_lets_everybody_go() -> None:
    room = Room(100)
    await room.take(100)
    waiting = asyncio.ensure_future(room.take(100))
    await asyncio.sleep(0)
    room.end()
    await waiting
    room.give(100)
    room.give(100)
    assert room.taken == 0


# -- logging in ---------------------------------------------------------------------------------
def test_servers_of_a_url() -> None:
    assert servers(Settings(url="nats://a:1,b")) == ["nats://a:1", "b"]
    with pytest.raises(Incompatible, match="can't be mixed"):
        servers(Settings(url="ws://a,nats://b"))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def nothing(_name: str) -> None:
        return None

    monkeypatch.setattr("importlib.util.find_spec", nothing)
    with pytest.raises(Incompatible, match="pip install aiohttp"):
        servers(Settings(url="ws://a"))
    seed = tmp_path / "seed"
    seed.write_text("SU…")
    with pytest.raises(Incompatible, match="pip install nkeys"):
        options(Settings(nkey_seed=str(seed)))
    with pytest.raises(Incompatible, match="pip install nkeys"):
        options(Settings(credentials=str(seed)))


def test_log_in_options() -> None:
    assert options(Settings()) == {}
    assert options(Settings(user="u", password="p")) == {"user": "u", "password": "p"}
    assert options(Settings(user="u")) == {"user": "u", "password": ""}
    assert options(Settings(token="t")) == {"token": "t"}


class Nkeys:
    """Stands in for the package nkeys, which is only there where credentials are used."""

    @staticmethod
    def from_seed(seed: bytearray) -> Nkeys:
        if not seed.startswith(b"SU"):
            raise ZeroDivisionError("whatever nkeys raises")
        return Nkeys()

    def wipe(self) -> None:
        pass


def test_files_that_can_not_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(_name: str) -> object:
        return object()

    monkeypatch.setattr("importlib.util.find_spec", found)
    monkeypatch.setitem(sys.modules, "nkeys", Nkeys)
    missing = str(tmp_path / "missing")
    file = tmp_path / "file"
    file.write_text("something else")
    for setting in ("tls_ca", "credentials", "nkey_seed"):
        given: dict[str, Any] = {setting: missing}
        with pytest.raises(Incompatible, match=rf"{setting}: .*missing: No such file"):
            options(Settings(**given))
        given = {setting: str(file)}
        with pytest.raises(Incompatible, match=rf"{setting}: .*file: "):
            options(Settings(**given))
    file.write_text("BEGIN NATS USER JWT … BEGIN USER NKEY SEED")
    assert options(Settings(credentials=str(file))) == {"user_credentials": str(file)}
    file.write_text("SUA…")
    assert options(Settings(nkey_seed=str(file))) == {"nkeys_seed": str(file)}
