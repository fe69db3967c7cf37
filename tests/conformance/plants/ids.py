"""Wrong registries of ids."""

from __future__ import annotations

from typing import Any

from perdure.streams.commit import Stored
from perdure.streams.memory.broker import MemoryBroker
from perdure.streams.memory.ids import IdStore, MemoryIds
from perdure.streams.port import Appended, NoAck, NoStream, PublishAnswer

from .plant import Patch, noticed_by

_store_add = IdStore.add
_between = IdStore.between
_add = MemoryIds.add
_logged = MemoryIds.logged
_capture: Any = vars(MemoryBroker)["_capture"]


@noticed_by("a_whole_page_takes_the_place_of_its_parts")
def a_whole_page_leaves_its_parts(patch: Patch) -> None:
    def add(self: IdStore, page: str, data: bytes, time_ns: int, *, whole: bool) -> Appended:
        return _store_add(self, page, data, time_ns, whole=False)

    patch.setattr(IdStore, "add", add)


@noticed_by("a_whole_page_takes_the_place_of_its_parts")
def a_whole_page_takes_other_pages_along(patch: Patch) -> None:
    def add(self: Any, page: str, data: bytes, time_ns: int, *, whole: bool) -> Appended:
        if whole:
            self._messages.clear()
            self._pages.clear()
        return _store_add(self, page, data, time_ns, whole=whole)

    patch.setattr(IdStore, "add", add)


@noticed_by("registrations_come_in_their_order", "a_whole_page_takes_the_place_of_its_parts")
def every_part_is_a_whole(patch: Patch) -> None:
    def add(self: IdStore, page: str, data: bytes, time_ns: int, *, whole: bool) -> Appended:
        return _store_add(self, page, data, time_ns, whole=True)

    patch.setattr(IdStore, "add", add)


@noticed_by("registrations_come_in_their_order")
def a_read_goes_beyond_its_end(patch: Patch) -> None:
    def between(self: IdStore, after: int, upto: int, bytes: int) -> list[Stored]:
        return _between(self, after, upto + 1, bytes)

    patch.setattr(IdStore, "between", between)


@noticed_by("registrations_come_in_their_order")
def a_read_begins_too_early(patch: Patch) -> None:
    def between(self: IdStore, after: int, upto: int, bytes: int) -> list[Stored]:
        return _between(self, after - 1, upto, bytes)

    patch.setattr(IdStore, "between", between)


@noticed_by("a_long_registry_is_read_in_pieces")
def a_read_has_no_bound(patch: Patch) -> None:
    def between(self: IdStore, after: int, upto: int, bytes: int) -> list[Stored]:
        return _between(self, after, upto, bytes * 1000)

    patch.setattr(IdStore, "between", between)


@noticed_by("a_long_registry_is_read_in_pieces")
def what_is_too_large_for_a_read_is_left_out(patch: Patch) -> None:
    def between(self: IdStore, after: int, upto: int, bytes: int) -> list[Stored]:
        return [s for s in _between(self, after, upto, bytes) if len(s.data) <= bytes]

    patch.setattr(IdStore, "between", between)


@noticed_by("anybody_may_write_to_a_page")
def a_plain_publish_is_no_registration(patch: Patch) -> None:
    def capture(self: MemoryBroker, subject: str, *args: Any) -> PublishAnswer:
        if ".ids." in subject:
            return NoStream()
        answer: PublishAnswer = _capture(self, subject, *args)
        return answer

    patch.setattr(MemoryBroker, "_capture", capture)


@noticed_by("what_isnt_confirmed_is_unknown")
def a_lost_acknowledgement_is_a_confirmation(patch: Patch) -> None:
    async def add(
        self: MemoryIds, entity: str, page: str, data: bytes, *, whole: bool
    ) -> PublishAnswer:
        answer = await _add(self, entity, page, data, whole=whole)
        return Appended(1) if isinstance(answer, NoAck) else answer

    patch.setattr(MemoryIds, "add", add)


@noticed_by("the_log_tells_who_is_in_it")
def the_log_tells_all_again(patch: Patch) -> None:
    async def logged(self: MemoryIds, entity: str, *, skip: int) -> list[str]:
        return await _logged(self, entity, skip=0)

    patch.setattr(MemoryIds, "logged", logged)
