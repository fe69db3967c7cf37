"""The memory of a listing."""

from __future__ import annotations

from perdure.streams.seen import Seen


def test_each_is_new_once() -> None:
    seen = Seen()
    ids = [f"a-{n}" for n in range(20_000)]
    assert all(seen.add(id) for id in ids)
    assert not any(seen.add(id) for id in ids)
    assert seen.add("b")


def test_the_newest_are_remembered() -> None:
    seen = Seen(generation=1000)
    for n in range(10_000):
        assert seen.add(f"a-{n}")
        assert not seen.add(f"a-{max(0, n - 900)}")
    assert seen.add("a-0")


def test_its_memory_is_bounded() -> None:
    """By two tables of at most eight slots an id."""
    seen = Seen(generation=1000)
    for n in range(10_000):
        seen.add(f"a-{n}")
    tables = (seen._young, seen._old)  # pyright: ignore[reportPrivateUsage]
    slots = [len(table._slots) for table in tables]  # pyright: ignore[reportPrivateUsage]
    assert max(slots) <= 8 * 1000
    assert [table.count <= 1000 for table in tables] == [True, True]
