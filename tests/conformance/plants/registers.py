"""Wrong members buckets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from perdure.streams.memory.ports import MemoryMembers
from perdure.streams.memory.registers import SECOND_NS, Registers
from perdure.streams.port import Entry, Unreachable

from .plant import Patch, noticed_by

_put = Registers.put
_delete = Registers.delete
_entries = Registers.entries
_listed = MemoryMembers.entries


@noticed_by("a_member_changes_only_as_expected")
def members_take_any_expectation(patch: Patch) -> None:
    def put(
        self: Registers, key: str, value: bytes, expected: int | None, ttl_s: int | None = None
    ) -> int | None:
        return _put(self, key, value, None, ttl_s)

    patch.setattr(Registers, "put", put)


@noticed_by("of_concurrent_creations_exactly_one_wins")
def creating_a_member_always_works(patch: Patch) -> None:
    def put(
        self: Registers, key: str, value: bytes, expected: int | None, ttl_s: int | None = None
    ) -> int | None:
        return _put(self, key, value, expected or None, ttl_s)

    patch.setattr(Registers, "put", put)


@noticed_by("a_deleted_member_can_be_created_again")
def a_removed_member_counts_as_a_value(patch: Patch) -> None:
    def delete(self: Any, key: str, upto: int | None) -> None:
        if key in self._entries:
            self._entries[key] = Entry(b"", self._entries[key].revision)

    patch.setattr(Registers, "delete", delete)


@noticed_by("a_deleted_member_can_be_created_again")
def revisions_are_of_the_key(patch: Patch) -> None:
    def put(
        self: Any, key: str, value: bytes, expected: int | None, ttl_s: int | None = None
    ) -> int | None:
        done = _put(self, key, value, expected, ttl_s)
        if done is not None and expected == 0:
            self._entries[key] = replace(self._entries[key], revision=1)
            return 1
        return done

    patch.setattr(Registers, "put", put)


# -- a time to live ---------------------------------------------------------------------------
@noticed_by("a_member_with_a_time_to_live_goes_by_itself", "a_member_that_is_put_again_lives_on")
def nothing_goes_by_itself(patch: Patch) -> None:
    def put(
        self: Registers, key: str, value: bytes, expected: int | None, ttl_s: int | None = None
    ) -> int | None:
        return _put(self, key, value, expected)

    patch.setattr(Registers, "put", put)


@noticed_by("a_member_with_a_time_to_live_goes_by_itself")
def values_go_too_soon(patch: Patch) -> None:
    def put(
        self: Any, key: str, value: bytes, expected: int | None, ttl_s: int | None = None
    ) -> int | None:
        done = _put(self, key, value, expected, ttl_s)
        if ttl_s is not None:
            self._until[key] -= SECOND_NS // 2
        return done

    patch.setattr(Registers, "put", put)


@noticed_by("a_member_with_a_time_to_live_goes_by_itself")
def a_time_to_live_is_the_key_s_for_ever(patch: Patch) -> None:
    def put(
        self: Any, key: str, value: bytes, expected: int | None, ttl_s: int | None = None
    ) -> int | None:
        until = self._until.get(key)
        done = _put(self, key, value, expected, ttl_s)
        if ttl_s is None and until is not None:
            self._until[key] = until
        return done

    patch.setattr(Registers, "put", put)


@noticed_by("a_member_that_is_put_again_lives_on")
def a_put_renews_nothing(patch: Patch) -> None:
    def put(
        self: Any, key: str, value: bytes, expected: int | None, ttl_s: int | None = None
    ) -> int | None:
        until = self._until.get(key)
        done = _put(self, key, value, expected, ttl_s)
        if until is not None and ttl_s is not None:
            self._until[key] = until
        return done

    patch.setattr(Registers, "put", put)


@noticed_by("a_member_with_a_time_to_live_goes_by_itself")
def what_went_by_itself_is_still_listed(patch: Patch) -> None:
    def entries(self: Any, head: str) -> dict[str, Entry]:
        found: dict[str, Entry] = self._entries
        return {key: found[key] for key in found if key.rpartition(".")[0] == head}

    def get(self: Any, key: str) -> Entry | None:
        gone = self._until.get(key, self._now_ns() + 1) <= self._now_ns()
        entry: Entry | None = self._entries.get(key)
        return None if gone else entry

    patch.setattr(Registers, "get", get)
    patch.setattr(Registers, "entries", entries)


# -- a removal with a bound -------------------------------------------------------------------
@noticed_by("a_removal_spares_what_is_newer")
def a_removal_takes_what_is_newer(patch: Patch) -> None:
    def delete(self: Registers, key: str, upto: int | None) -> None:
        _delete(self, key, None)

    patch.setattr(Registers, "delete", delete)


@noticed_by("a_removal_spares_what_is_newer")
def a_bound_of_a_removal_is_spared_too(patch: Patch) -> None:
    def delete(self: Registers, key: str, upto: int | None) -> None:
        _delete(self, key, None if upto is None else upto - 1)

    patch.setattr(Registers, "delete", delete)


@noticed_by("a_removal_spares_what_is_newer")
def a_removal_wants_the_very_revision(patch: Patch) -> None:
    def delete(self: Registers, key: str, upto: int | None) -> None:
        entry = self.get(key)
        if upto is None or entry is None or entry.revision == upto:
            _delete(self, key, upto)

    patch.setattr(Registers, "delete", delete)


# -- listings ---------------------------------------------------------------------------------
@noticed_by("a_listing_has_the_values_below_a_head")
def a_listing_goes_deeper(patch: Patch) -> None:
    def entries(self: Any, head: str) -> dict[str, Entry]:
        return {k: e for k, e in self._entries.items() if k.startswith(f"{head}.")}

    patch.setattr(Registers, "entries", entries)


@noticed_by("a_listing_has_the_values_below_a_head")
def a_listing_goes_by_the_first_letters(patch: Patch) -> None:
    def entries(self: Any, head: str) -> dict[str, Entry]:
        return {k: e for k, e in self._entries.items() if k.startswith(head) and k.count(".") == 1}

    patch.setattr(Registers, "entries", entries)


@noticed_by("a_listing_has_the_values_below_a_head")
def a_listing_names_tokens_only(patch: Patch) -> None:
    def entries(self: Registers, head: str) -> dict[str, Entry]:
        return {k.rpartition(".")[2]: e for k, e in _entries(self, head).items()}

    patch.setattr(Registers, "entries", entries)


@noticed_by("a_listing_needs_a_connection")
def without_a_connection_a_listing_is_empty(patch: Patch) -> None:
    async def entries(self: MemoryMembers, head: str) -> dict[str, Entry]:
        try:
            return await _listed(self, head)
        except Unreachable:
            return {}

    patch.setattr(MemoryMembers, "entries", entries)
