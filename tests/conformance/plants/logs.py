"""Wrong logs, snapshots, members and dead letters."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from perdure.entities.address import Address
from perdure.streams.commit import Sealed, Stored
from perdure.streams.memory import ports
from perdure.streams.memory.broker import Dead, MemoryBroker, Streams
from perdure.streams.memory.logs import LogStore
from perdure.streams.memory.ports import MemoryDeadLetters, MemoryLog, MemorySnapshots
from perdure.streams.port import AppendAnswer, Appended, NoAck, WrongLast
from perdure.streams.subjects import escape

from .plant import Patch, nothing, noticed_by

_append = LogStore.append
_last = LogStore.last
_between = LogStore.between
_read = MemoryLog.read
_append_port = MemoryLog.append
_snapshot_put = MemorySnapshots.put


@noticed_by("a_first_append_expects_0")
def a_log_takes_0_for_anything(patch: Patch) -> None:
    def append(self: LogStore, *args: Any, expected: int | None) -> Appended | WrongLast:
        return _append(self, *args, expected=expected or None)

    patch.setattr(LogStore, "append", append)


@noticed_by("an_expectation_is_of_the_entity_and_exact", "of_concurrent_appends_exactly_one_wins")
def a_log_takes_any_expectation(patch: Patch) -> None:
    def append(self: LogStore, *args: Any, expected: int | None) -> Appended | WrongLast:
        return _append(self, *args, expected=None)

    patch.setattr(LogStore, "append", append)


@noticed_by("an_expectation_is_of_the_entity_and_exact")
def a_log_expects_its_own_last_sequence(patch: Patch) -> None:
    def append(self: LogStore, token: str, *args: Any, expected: int | None) -> Any:
        if expected == len(self):
            expected = None
        return _append(self, token, *args, expected=expected)

    patch.setattr(LogStore, "append", append)


@noticed_by("messages_are_counted_by_entity")
def a_log_counts_everybodys_messages(patch: Patch) -> None:
    patch.setattr(LogStore, "count", lambda self, token: len(self))  # pyright: ignore


@noticed_by("an_unacknowledged_append_is_found_by_its_mark")
def a_repeated_mark_is_appended_again(patch: Patch) -> None:
    def append(
        self: LogStore, token: str, data: bytes, mark: str | None, time_ns: int, **kwargs: Any
    ) -> Appended | WrongLast:
        last = _last(self, token)
        if last is not None and mark is not None and last.mark == mark:
            kwargs["expected"] = last.sequence
        return _append(self, token, data, mark, time_ns, **kwargs)

    patch.setattr(LogStore, "append", append)


@noticed_by("without_a_connection_nothing_is_known")
def an_append_is_sent_later(patch: Patch) -> None:
    async def append(
        self: Any, address: Address, commit: Sealed, *, expected: int
    ) -> AppendAnswer:
        if self._connection.up:
            return await _append_port(self, address, commit, expected=expected)
        log = self._streams.logs[address.entity]
        now = self._broker.clock.now_ns()
        log.append(escape(address.id), commit.data, commit.mark, now, expected=expected)
        return NoAck("later")

    patch.setattr(MemoryLog, "append", append)


@noticed_by("a_read_is_complete")
def a_read_ends_after_one_batch(patch: Patch) -> None:
    async def read(
        self: MemoryLog, address: Address, *, after: int, upto: int
    ) -> AsyncIterator[Stored]:
        count = 0
        async for stored in _read(self, address, after=after, upto=upto):
            yield stored
            count += 1
            if count == ports.BATCH:
                return

    patch.setattr(MemoryLog, "read", read)


@noticed_by("a_read_is_complete")
def a_read_goes_too_far(patch: Patch) -> None:
    def between(
        self: LogStore, token: str, after: int, upto: int | None, limit: int
    ) -> list[Stored]:
        return _between(self, token, after, None, limit)

    patch.setattr(LogStore, "between", between)


@noticed_by("a_read_never_ends_early")
def a_read_ends_where_a_replica_does(patch: Patch) -> None:
    async def read(
        self: MemoryLog, address: Address, *, after: int, upto: int
    ) -> AsyncIterator[Stored]:
        async for stored in _read(self, address, after=after, upto=upto):
            if stored.sequence < upto or upto % 7:
                yield stored

    patch.setattr(MemoryLog, "read", read)


@noticed_by("a_read_never_ends_early")
def a_read_beyond_the_end_is_silent(patch: Patch) -> None:
    async def read(self: Any, address: Address, *, after: int, upto: int) -> AsyncIterator[Stored]:
        log = self._streams.logs[address.entity]
        for stored in log.between(escape(address.id), after, upto, 10_000):
            yield stored

    patch.setattr(MemoryLog, "read", read)


@noticed_by("the_last_message_is_the_leaders")
def the_last_message_may_be_stale(patch: Patch) -> None:
    def last(self: LogStore, token: str) -> Stored | None:
        found = _last(self, token)
        if found is not None and found.sequence % 10 == 0:
            return self.by_sequence(found.sequence - 1)
        return found

    patch.setattr(LogStore, "last", last)


@noticed_by("a_message_is_found_by_its_sequence")
def sequences_count_from_0(patch: Patch) -> None:
    def by_sequence(self: Any, sequence: int) -> Stored | None:
        messages = self._messages
        return messages[sequence][1] if sequence < len(messages) else None

    patch.setattr(LogStore, "by_sequence", by_sequence)


@noticed_by("a_foreign_message_counts_and_has_no_mark")
def a_foreign_message_is_left_out(patch: Patch) -> None:
    def between(self: LogStore, *args: Any) -> list[Stored]:
        return [s for s in _between(self, *args) if s.mark is not None]

    patch.setattr(LogStore, "between", between)


@noticed_by("a_foreign_message_counts_and_has_no_mark", "a_reply_subject_can_be_a_log")
def a_foreign_message_gets_a_mark(patch: Patch) -> None:
    def append(
        self: LogStore, token: str, data: bytes, mark: str | None, time_ns: int, **kwargs: Any
    ) -> Appended | WrongLast:
        return _append(self, token, data, mark or "a mark", time_ns, **kwargs)

    patch.setattr(LogStore, "append", append)


@noticed_by("every_id_has_its_own_log", "every_id_has_its_own_snapshot")
def ids_are_folded(patch: Patch) -> None:
    def folded(id: str) -> str:
        return escape(id.lower())

    patch.setattr(ports, "escape", folded)


@noticed_by("following_has_no_gap")
def a_follower_misses_what_came_meanwhile(patch: Patch) -> None:
    def watch(self: LogStore, token: str, watcher: Any) -> Any:
        return lambda: None

    patch.setattr(LogStore, "watch", watch)


@noticed_by("following_has_no_gap", "following_survives_a_reconnect")
def a_follower_sees_the_last_one_twice(patch: Patch) -> None:
    async def follow(self: Any, address: Address, *, after: int) -> AsyncIterator[Stored]:
        while True:
            log = self._streams.logs[address.entity]
            found = log.between(escape(address.id), after, None, 10)
            for stored in found:
                yield stored
                after = stored.sequence - 1
            await self._sleep(log, escape(address.id))

    patch.setattr(MemoryLog, "follow", follow)


@noticed_by("following_survives_a_reconnect")
def a_follower_sleeps_through_a_reconnect(patch: Patch) -> None:
    patch.setattr(MemoryLog, "wake", nothing)


# -- snapshots, members, dead letters ---------------------------------------------------------
@noticed_by("a_snapshot_is_replaced")
def the_first_snapshot_stays(patch: Patch) -> None:
    async def put(self: Any, address: Address, data: bytes, part: str | None = None) -> bool:
        if await self.get(address, part) is not None:
            return True
        return await _snapshot_put(self, address, data, part)

    patch.setattr(MemorySnapshots, "put", put)


@noticed_by("a_snapshot_is_replaced", "every_id_has_its_own_snapshot")
def parts_share_a_subject(patch: Patch) -> None:
    def subject(self: Any, address: Address, part: str | None) -> str:
        text: str = self._streams.subjects.snapshot(address.entity, escape(address.id), None)
        return text

    patch.setattr(MemorySnapshots, "_subject", subject)


@noticed_by("without_a_connection_nothing_is_confirmed")
def everything_is_confirmed(patch: Patch) -> None:
    async def put(self: Any, address: Address, data: bytes, part: str | None = None) -> bool:
        await _snapshot_put(self, address, data, part)
        return True

    patch.setattr(MemorySnapshots, "put", put)


@noticed_by("dead_letters_are_kept")
def only_the_newest_dead_letter_is_kept(patch: Patch) -> None:
    def dead_letters(self: MemoryBroker, *, namespace: str | None = None) -> list[Dead]:
        streams: Streams = self.streams(namespace or self.settings.namespace)
        return list({dead.token: dead for dead in streams.dead}.values())

    patch.setattr(MemoryBroker, "dead_letters", dead_letters)


@noticed_by("dead_letters_are_kept", "without_a_connection_nothing_is_confirmed")
def dead_letters_go_nowhere(patch: Patch) -> None:
    async def put(self: MemoryDeadLetters, address: Address, data: bytes) -> bool:
        return True

    patch.setattr(MemoryDeadLetters, "put", put)
