"""Commits as bytes: what was written comes back, anything else is told apart."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Raw

from perdure.streams.codec import digest
from perdure.streams.commit import (
    FORMAT,
    GENESIS,
    At,
    Commit,
    Damaged,
    Dead,
    Outcome,
    Sealed,
    Stored,
    check_link,
    seal,
    unseal,
)

raws = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
).map(lambda value: Raw(msgspec.json.encode(value)))
maybe_raws = st.just(UNSET) | raws
maybe_text = st.none() | st.text(max_size=40)
counts = st.integers(0, 2**62)
ats = st.builds(At, counts, counts, counts)
deads = st.builds(
    Dead, st.sampled_from(["poison", "defect"]), raws, maybe_text, st.none() | st.binary()
)
outcomes = st.builds(
    Outcome,
    name=st.text(min_size=1, max_size=40),
    payload_hash=st.text("0123456789abcdef", min_size=32, max_size=32),
    at=st.none() | ats,
    birth=st.none() | counts,
    command=maybe_raws,
    events=st.lists(raws, max_size=3).map(tuple),
    reply=maybe_raws,
    failure=maybe_raws,
    dead=st.none() | deads,
    request=maybe_text,
    trace=maybe_text,
)
commits = st.builds(
    Commit,
    v=st.just(FORMAT),
    id=st.text(min_size=1, max_size=32),
    prev=st.text("0123456789abcdef", max_size=32),
    version=counts,
    runner=st.text(max_size=20),
    time=st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)).map(
        lambda t: t.replace(tzinfo=UTC)
    ),
    outcomes=st.lists(outcomes, min_size=1, max_size=4).map(tuple),
)


def plain(value: Any) -> Any:
    """With the raw parts as bytes, which compare."""
    if isinstance(value, Raw):
        return bytes(value)
    if isinstance(value, msgspec.Struct):
        return {n: plain(getattr(value, n)) for n in value.__struct_fields__}
    return [plain(item) for item in value] if isinstance(value, tuple) else value  # pyright: ignore[reportUnknownVariableType]


def stored(sealed: Sealed, sequence: int = 7) -> Stored:
    return Stored(sequence, 0, sealed.data, sealed.mark)


def deposit(version: int = 1, prev: str = GENESIS, events: int = 1) -> Commit:
    outcome = Outcome(
        name="order-17",
        payload_hash="0" * 32,
        events=tuple(Raw(b'{"type":"deposited","cents":5}') for _ in range(events)),
        reply=Raw(b"5"),
    )
    at = datetime(2026, 1, 2, tzinfo=UTC)
    return Commit(
        v=1, id="c1", prev=prev, version=version, runner="r1", time=at, outcomes=(outcome,)
    )


SEALED = seal(deposit())


@given(commits)
def test_a_commit_comes_back(commit: Commit) -> None:
    sealed = seal(commit)
    assert sealed.mark == digest(sealed.data)
    assert sealed.id == commit.id
    back = unseal(stored(sealed))
    assert plain(back) == plain(commit)
    assert seal(back or commit) == sealed  # what is published again is the same to the byte


@given(commits)
def test_it_comes_back_from_messagepack_with_the_same_values(commit: Commit) -> None:
    sealed = seal(commit, "msgpack")
    assert sealed.mark == digest(sealed.data)
    back = unseal(stored(sealed))
    assert back is not None
    assert msgspec.json.decode(seal(back).data) == msgspec.json.decode(seal(commit).data)


def test_messagepack_is_smaller_and_told_by_its_first_byte() -> None:
    sealed = seal(deposit(), "msgpack")
    assert sealed.data[:1] != b"{"
    assert len(sealed.data) < len(SEALED.data)
    assert msgspec.msgpack.decode(sealed.data)["id"] == "c1"


def test_what_messagepack_cannot_hold_stays_json() -> None:
    outcome = msgspec.structs.replace(deposit().outcomes[0], reply=Raw(str(2**70).encode()))
    sealed = seal(msgspec.structs.replace(deposit(), outcomes=(outcome,)), "msgpack")
    assert sealed.data[:1] == b"{"
    back = unseal(stored(sealed))
    assert back is not None
    assert plain(back.outcomes[0])["reply"] == str(2**70).encode()


@given(commits)
def test_its_bytes_are_json_with_the_format_first(commit: Commit) -> None:
    data = seal(commit).data
    assert data.startswith(b'{"v":1,')
    assert msgspec.json.decode(data)["id"] == commit.id


def test_any_flipped_bit_is_damage() -> None:
    for index in range(len(SEALED.data)):
        for bit in range(8):
            data = bytearray(SEALED.data)
            data[index] ^= 1 << bit
            with pytest.raises(Damaged, match="sequence 7: the bytes don't match their hash"):
                unseal(Stored(7, 0, bytes(data), SEALED.mark))


@given(st.integers(0, len(SEALED.data) - 1))
def test_a_part_of_a_commit_is_damage(length: int) -> None:
    with pytest.raises(Damaged):
        unseal(Stored(7, 0, SEALED.data[:length], SEALED.mark))


def test_any_other_mark_is_damage() -> None:
    for mark in ("", "x", SEALED.mark.upper(), digest(b"")):
        with pytest.raises(Damaged):
            unseal(Stored(7, 0, SEALED.data, mark))


def test_a_commit_without_its_mark_is_damage_and_not_foreign() -> None:
    with pytest.raises(Damaged, match="without its hash"):
        unseal(Stored(7, 0, SEALED.data, None))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"{}",
        b"null",
        b"[1]",
        b'{"stream":"PERDURE_CMD_account","seq":5}',
        b'{"error":{"code":503}}',
        b'{"v":1}',
        b'{"v":"1","id":"x"}',
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"v":' + b"[" * 100_000,
    ],
    ids=range(12),
)
def test_what_somebody_else_published_is_foreign(data: bytes) -> None:
    assert unseal(Stored(7, 0, data, None)) is None


@given(st.binary(max_size=200))
def test_garbage_is_foreign_without_a_mark_and_damage_with_one(data: bytes) -> None:
    assert unseal(Stored(7, 0, data, None)) is None
    with pytest.raises(Damaged):
        unseal(Stored(7, 0, data, digest(data)))
    with pytest.raises(Damaged):
        unseal(Stored(7, 0, data, digest(data + b"x")))


@pytest.mark.parametrize("v", [0, 2, 3, 99, -1])
def test_another_format_is_refused_and_never_misread(v: int) -> None:
    data = SEALED.data.replace(b'{"v":1,', b'{"v":%d,' % v)
    with pytest.raises(Damaged, match="not a commit of format 1"):
        unseal(Stored(7, 0, data, digest(data)))


def test_fields_of_a_later_minor_release_are_ignored() -> None:
    tree = msgspec.json.decode(SEALED.data)
    tree["later"] = 1
    tree["outcomes"][0]["later"] = {"x": 1}
    data = msgspec.json.encode(tree)
    assert plain(unseal(Stored(7, 0, data, digest(data)))) == plain(deposit())


@pytest.mark.parametrize("missing", ["id", "prev", "version", "runner", "time", "outcomes"])
def test_a_commit_with_a_hole_is_damage(missing: str) -> None:
    tree = msgspec.json.decode(SEALED.data)
    del tree[missing]
    data = msgspec.json.encode(tree)
    with pytest.raises(Damaged):
        unseal(Stored(7, 0, data, digest(data)))


# -- the chain --------------------------------------------------------------------------------
@given(st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_a_chain_links(counts: list[int]) -> None:
    prev, version = GENESIS, 0
    for events in counts:
        commit = deposit(version + events, prev, events)
        check_link(commit, prev=prev, version=version, sequence=1)
        prev, version = seal(commit).mark, version + events


@given(st.integers(0, 3), st.integers(-3, 3))
def test_a_version_that_does_not_follow_is_damage(events: int, off: int) -> None:
    commit = deposit(5 + events + off, "p", events)
    if off == 0:
        check_link(commit, prev="p", version=5, sequence=9)
        return
    with pytest.raises(Damaged, match=f"sequence 9: version .*, expected {5 + events}"):
        check_link(commit, prev="p", version=5, sequence=9)


def test_a_hole_and_a_fork_are_damage() -> None:
    one = deposit(1)
    two = deposit(2, seal(one).mark)
    fork = seal(msgspec.structs.replace(one, time=one.time + timedelta(seconds=1)))
    check_link(two, prev=seal(one).mark, version=1, sequence=2)
    for prev in (GENESIS, fork.mark):
        with pytest.raises(Damaged, match="sequence 2: the hash chain is broken"):
            check_link(two, prev=prev, version=1, sequence=2)
