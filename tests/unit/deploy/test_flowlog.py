"""What `perdure flows show` says: pure, from commits to lines. And times as they are typed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given as for_all
from hypothesis import strategies as some
from msgspec import Raw

from perdure.deploy.cli.flowlog import FlowLog, Happening, line_of
from perdure.deploy.cli.moment import coming, moment_of
from perdure.deploy.cli.trouble import UsageError
from perdure.entities.record import (
    Answered,
    Armed,
    Asked,
    Began,
    Cancelled,
    Emitted,
    Fired,
    Opened,
    Ran,
    Record,
    Resolved,
    Waits,
)
from perdure.streams.commit import GENESIS, Commit, Dead, FlowPart, Outcome, Stored, seal
from perdure.streams.token import HIDDEN, Body, make_token, without_tokens

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
NONCE = "5ec4e75ec4e75ec4e75ec4e75ec4e75e"
TOKEN = make_token([b"s" * 32], "perdure", Body(1, "trip", "t-1", "k-0", "ask take", NONCE))


class Log:
    """An entity's log, as it grows."""

    def __init__(self) -> None:
        self.stored: list[Stored] = []
        self._prev, self._version = GENESIS, 0

    def add(self, *outcomes: Outcome) -> None:
        """A commit of these."""
        sequence = len(self.stored) + 1
        self._version += sum(len(outcome.events) for outcome in outcomes)
        commit = Commit(
            v=1,
            id=f"c{sequence}",
            prev=self._prev,
            version=self._version,
            runner="r",
            time=NOON,
            outcomes=outcomes,
        )
        sealed = seal(commit)
        self._prev = sealed.mark
        self.stored.append(Stored(sequence, 1_000, sealed.data, sealed.mark))

    def read(self, key: str) -> tuple[FlowLog, list[Happening]]:
        """What it says of a flow."""
        log = FlowLog(key)
        return log, [found for stored in self.stored for found in log.read(stored)]


def outcome(
    name: str,
    *records: Record,
    key: str = "k",
    parked: str | None = None,
    asker: str | None = None,
    **fields: Any,
) -> Outcome:
    part = FlowPart(key, records, parked, asker)
    return Outcome(name=name, payload_hash="", flow=part, **fields)


COMMAND = Raw(b'{"type":"book","days":3}')


def held(n: int) -> Raw:
    return Raw(b'{"type":"held","n":%d}' % n)


def test_every_kind_of_record_is_told_without_tokens_and_nonces() -> None:
    log = Log()
    log.add(
        outcome(
            "k",
            Began(0),
            Emitted(2, "h"),
            Opened("word", NONCE, 1_764_000_000_000, tell_caller=True),
            Ran("mail", Raw(msgspec.json.encode({"sent": f"https://x/{TOKEN}?a"}))),
            Ran("fail", failure=Raw(b'{"type":"full"}')),
            Ran("break", error=f"no {TOKEN}"),
            Emitted(1, "h"),
            Asked("take", "hotel", "h", Raw(msgspec.json.encode({"type": "take"})), NONCE),
            Armed("(deadline)", 1_764_000_000_000),
            Waits(("deferred word", "timer (time)")),
            command=COMMAND,
            events=(held(1), held(2), held(3)),
            asker=TOKEN.partition(".")[0],
        )
    )
    log.add(outcome("w-1", Answered("take", Raw(b"7")), Fired("(time)"), reply=Raw(b"null")))
    log.add(outcome("w-2", Resolved("word", Raw(b"5")), Cancelled("no more"), Began(3)))
    log.add(outcome("k", reply=Raw(b"9"), events=(held(4),)))
    found, happenings = log.read("k")
    assert found.found
    assert [line_of(one)[25:] for one in happenings] == [
        'command    book {"days":3}, asked by trip/t-1 k-0',
        "began      at version 0",
        'emitted    held {"n":1}, held {"n":2}',
        "opened     word, until 2025-11-24 16:00:00.000",
        f'ran        mail: {{"sent":"https://x/{HIDDEN}?a"}}',
        "ran        fail: refused: full",
        f"ran        break: no {HIDDEN}",
        'emitted    held {"n":3}',
        "asked      take: hotel/h take",
        "armed      its deadline, for 2025-11-24 16:00:00.000",
        "waits      for deferred word and its time",
        "answered   take: 7",
        "fired      its time",
        "resolved   word: 5",
        "cancelled  no more",
        "began      at version 3",
        'ended      9; held {"n":4}',
    ]
    assert {one.time for one in happenings} == {NOON}
    said = msgspec.json.encode(happenings).decode()
    assert TOKEN.partition(".")[0] not in said
    assert NONCE not in said


def test_a_flow_that_is_parked_goes_on_and_breaks() -> None:
    log = Log()
    log.add(outcome("k", Began(0), Waits(("deferred word",)), command=COMMAND))
    log.add(outcome("w-1", Resolved("word", Raw(b"5")), parked="ValueError: x"))
    log.add(outcome("w-2", Fired("t"), parked="ValueError: x"))
    log.add(outcome("w-3", Began(0)))
    error = Raw(b'{"type":"RpcClientError","cause":"step mail failed"}')
    log.add(outcome("k", dead=Dead("defect", error)))
    _, happenings = log.read("k")
    told = [line_of(one)[25:] for one in happenings[3:]]
    assert told == [
        "resolved   word: 5",
        "parked     ValueError: x",
        "fired      t",
        "unparked   ",
        "began      at version 0",
        "ended      defect: step mail failed",
    ]


def test_two_flows_of_one_key_come_one_after_the_other_and_others_dont_count() -> None:
    log = Log()
    log.stored.append(Stored(1, 0, b"foreign", None))
    for reply in (b"1", b"2"):
        log.add(outcome("k", Began(0), Waits(("deferred word",)), command=COMMAND))
        log.add(outcome("other", Began(0), key="other", command=COMMAND))
        log.add(outcome("k", reply=Raw(reply)))
    log.add(Outcome(name="plain", payload_hash="", reply=Raw(b"3")))
    _, happenings = log.read("k")
    assert [one.what for one in happenings] == ["command", "began", "waits", "ended"] * 2
    assert [one.value for one in happenings if one.what == "ended"] == [Raw(b"1"), Raw(b"2")]
    found, happenings = log.read("plain")
    assert (found.found, found.plain, happenings) == (False, True, [])
    found, happenings = log.read("nobody")
    assert (found.found, found.plain, happenings) == (False, False, [])


@for_all(
    some.text(min_size=1, max_size=32),
    some.text(min_size=1, max_size=60),
    some.one_of(some.none(), some.integers(0, 2**53)),
    some.text(max_size=40),
    some.text(max_size=40),
)
def test_whatever_is_around_a_token_it_is_hidden(
    id: str, flow: str, expires: int | None, before: str, after: str
) -> None:
    body = Body(1, "account", id, flow, "approval", NONCE, expires)
    token = make_token([b"s" * 32], "perdure", body)
    assert token not in without_tokens(before + token + after)
    assert without_tokens(f"{before} {token}") == f"{without_tokens(before)} {HIDDEN}"


def test_times_are_with_a_zone_or_from_now() -> None:
    assert moment_of("2026-01-02T13:00:00+01:00", "--time") == NOON
    assert coming("2026-01-02T12:00:00Z", "--at") == NOON
    for text, length in (
        ("90s", timedelta(seconds=90)),
        ("15m", timedelta(minutes=15)),
        ("2h", timedelta(hours=2)),
        ("3d", timedelta(days=3)),
    ):
        earliest = datetime.now(UTC) + length
        assert earliest <= coming(text, "--at") <= datetime.now(UTC) + length
    for text in ("2x", "-2h", "1.5h", "h", "", "2026-01-02T12:00:00", "999999999d"):
        with pytest.raises(UsageError):
            coming(text, "--at")
