"""Wrong batches of appends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from perdure.streams.memory.logs import LogStore
from perdure.streams.memory.ports import MemoryLog
from perdure.streams.port import Append, AppendAnswer, Appended

from .plant import Patch, noticed_by

_batch = MemoryLog.append_batch


@noticed_by(
    "one_wrong_expectation_refuses_a_batch", "an_unacknowledged_batch_is_found_by_its_marks"
)
def a_batch_stores_what_it_can(patch: Patch) -> None:
    patch.setattr(LogStore, "ends_at", lambda self, token, expected: True)  # pyright: ignore


@noticed_by("a_batch_is_stored_in_its_order", "the_largest_batch_is_taken")
def a_batch_answers_with_its_first_sequence(patch: Patch) -> None:
    async def append_batch(self: Any, appends: Sequence[Append]) -> AppendAnswer:
        answer = await _batch(self, appends)
        if isinstance(answer, Appended):
            return Appended(answer.sequence - len(appends) + 1)
        return answer

    patch.setattr(MemoryLog, "append_batch", append_batch)


@noticed_by("two_commits_of_one_entity_refuse_a_batch")
def a_batch_takes_the_newer_of_two(patch: Patch) -> None:
    async def append_batch(self: Any, appends: Sequence[Append]) -> AppendAnswer:
        return await _batch(self, list({a.address: a for a in appends}.values()))

    patch.setattr(MemoryLog, "append_batch", append_batch)


@noticed_by("a_batch_is_stored_in_its_order")
def a_batch_is_stored_backwards(patch: Patch) -> None:
    async def append_batch(self: Any, appends: Sequence[Append]) -> AppendAnswer:
        return await _batch(self, list(reversed(appends)))

    patch.setattr(MemoryLog, "append_batch", append_batch)


@noticed_by("a_batch_with_one_that_is_too_large_is_refused")
def what_is_too_large_is_left_out_of_a_batch(patch: Patch) -> None:
    async def append_batch(self: Any, appends: Sequence[Append]) -> AppendAnswer:
        return await _batch(self, [a for a in appends if len(a.commit.data) < 1000])

    patch.setattr(MemoryLog, "append_batch", append_batch)


@noticed_by("a_batch_of_a_type_without_a_log_is_refused")
def a_batch_makes_its_log(patch: Patch) -> None:
    async def append_batch(self: Any, appends: Sequence[Append]) -> AppendAnswer:
        self._streams.logs.setdefault(appends[0].address.entity, LogStore())
        return await _batch(self, appends)

    patch.setattr(MemoryLog, "append_batch", append_batch)
