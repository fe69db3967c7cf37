"""Attempt marks: counted once, also when nobody confirms them."""

from __future__ import annotations

import pytest

from perdure.durable import marks
from perdure.durable.marks import add_mark, has_mark, remove_mark
from perdure.streams.port import Entry, Unreachable


class Members:
    """A register whose acknowledgements can be lost, with or without the message."""

    def __init__(self) -> None:
        self.kept: dict[str, Entry] = {}
        self.lose: list[str] = []  # what happens to the next puts
        self._revision = 0

    async def get(self, key: str) -> Entry | None:
        return self.kept.get(key)

    async def put(
        self,
        key: str,
        value: bytes,
        *,
        expected: int | None = None,
        ttl_s: int | None = None,
    ) -> int | None:
        fate = self.lose.pop(0) if self.lose else ""
        if fate == "message":
            raise Unreachable("lost on its way")
        entry = self.kept.get(key)
        if expected is not None and expected != (0 if entry is None else entry.revision):
            return None
        self._revision += 1
        self.kept[key] = Entry(value, self._revision)
        if fate == "acknowledgement":
            raise Unreachable("no answer")
        return self._revision

    async def delete(self, key: str, *, upto: int | None = None) -> None:
        self.kept.pop(key, None)

    async def entries(self, head: str) -> dict[str, Entry]:
        return {key: entry for key, entry in self.kept.items() if key.startswith(f"{head}.")}


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marks, "RETRY_S", 0)


async def test_marks_are_counted_until_they_are_removed() -> None:
    members = Members()
    assert not await has_mark(members, "account", "c")
    assert [await add_mark(members, "account", "c") for _ in range(3)] == [1, 2, 3]
    assert await add_mark(members, "account", "another") == 1
    assert await has_mark(members, "account", "c")
    await remove_mark(members, "account", "c")
    assert await add_mark(members, "account", "c") == 1


@pytest.mark.parametrize("lost", ["acknowledgement", "message"])
async def test_a_put_that_nobody_confirms_counts_once(lost: str) -> None:
    members = Members()
    for count in (1, 2, 3):
        members.lose = [lost, lost] if lost == "message" else [lost]
        assert await add_mark(members, "account", "c") == count


async def test_who_was_overtaken_counts_on() -> None:
    """Another runner's mark came first: it isn't taken for the own one."""
    members = Members()
    put, overtaken = members.put, 0

    async def late(
        key: str, value: bytes, *, expected: int | None = None, ttl_s: int | None = None
    ) -> int | None:
        nonlocal overtaken
        if not overtaken:
            overtaken = 1
            await put(key, b"1", expected=0)
        return await put(key, value, expected=expected)

    members.put = late  # type: ignore[method-assign]
    assert await add_mark(members, "account", "c") == 2
