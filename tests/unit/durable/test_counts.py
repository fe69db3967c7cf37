"""What a runner counts: buckets, bounds, and each result once."""

from __future__ import annotations

import msgspec
import pytest

from perdure.durable.counts import BOUNDS_S, REST, SERIES, Counted, Counts, Times
from perdure.streams.asks import raw
from perdure.streams.commit import Dead, Outcome


def counted(counts: Counts) -> dict[tuple[str, str, str], int]:
    return {(one.way, one.result, one.tag): one.count for one in counts.told().commands}


@pytest.mark.parametrize(
    ("length_s", "bucket"),
    [(0.0, 0), (0.000249, 0), (0.00025, 1), (0.0009, 2), (0.001, 3), (30.0, 17), (33.0, 18)],
)
def test_a_time_is_in_the_bucket_below_its_bound(length_s: float, bucket: int) -> None:
    times = Times()
    times.add(length_s)
    assert times.counts.index(1) == bucket
    if bucket < len(BOUNDS_S):
        assert length_s < BOUNDS_S[bucket]
    if bucket > 0:
        assert length_s >= BOUNDS_S[bucket - 1]
    times.add(1e9)
    assert (sum(times.counts), times.counts[-1], times.sum_s) == (
        2,
        1 + (bucket == 18),
        1e9 + length_s,
    )


def test_outcomes_are_counted_by_what_they_are() -> None:
    counts = Counts()
    error = raw({"type": "MalformedMessage"})
    failure = raw({"type": "too_few", "total": 3})
    counts.decided("ask", Outcome(name="a", payload_hash="", reply=raw(1)), 0.001)
    counts.decided("ask", Outcome(name="b", payload_hash="", failure=failure), 0.002)
    counts.decided("tell", Outcome(name="c", payload_hash="", dead=Dead("poison", error)), 0.003)
    counts.decided("flow", Outcome(name="d", payload_hash="", reply=raw(2)))
    assert counted(counts) == {
        ("ask", "reply", ""): 1,
        ("ask", "failure", "too_few"): 1,
        ("tell", "dead", "poison"): 1,
        ("flow", "reply", ""): 1,
    }
    assert [sum(times.counts) for times in counts.times.values()] == [2, 1, 0]


def test_what_is_counted_apart_is_bounded() -> None:
    counts = Counts()
    for n in range(2 * SERIES):
        counts.answered("ask", "failure", f"t{n}")
    found = counted(counts)
    assert len(found) == SERIES + 1
    assert found["ask", "failure", REST] == SERIES


def test_it_is_told_as_it_is_read() -> None:
    counts = Counts()
    counts.answered("query", "error", "MailboxFull")
    counts.end("gap")
    told = counts.told(7, (0, 0, 2))
    assert msgspec.json.decode(msgspec.json.encode(told), type=Counted) == told
    assert (told.ended, told.in_batches, told.batch_sizes) == ({"gap": 1}, 7, (0, 0, 2))
