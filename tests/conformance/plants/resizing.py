"""Wrong halts and wrong cuts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from perdure.streams.memory import queue as queues
from perdure.streams.memory.broker import MemoryBroker, Streams
from perdure.streams.memory.commands import MemoryCommands
from perdure.streams.memory.consumer import Place
from perdure.streams.memory.queue import Queue
from perdure.streams.port import PublishAnswer
from perdure.streams.subjects import Sharding

from .plant import Patch, noticed_by

_tell = MemoryBroker.tell
_recut = Queue.recut
_broker_recut = MemoryBroker.recut


@noticed_by("a_halted_type_takes_no_tell")
def a_halted_type_takes_tells(patch: Patch) -> None:
    def tell(
        self: MemoryBroker,
        streams: Streams,
        entity: str,
        token: str,
        data: bytes,
        headers: Mapping[str, str] | None,
    ) -> PublishAnswer:
        queue = streams.queues[entity]
        by, queue.halted_by = queue.halted_by, None
        answer = _tell(self, streams, entity, token, data, headers)
        queue.halted_by = by
        return answer

    patch.setattr(MemoryBroker, "tell", tell)


@noticed_by("a_halted_type_takes_no_tell")
def halting_forgets_what_waits(patch: Patch) -> None:
    def halt(self: Any, token: str) -> None:
        self.halted_by = token
        for sequence in list(self._tells):
            self.delete_tell(sequence)

    patch.setattr(Queue, "halt", halt)


@noticed_by("a_halted_type_is_not_provisioned")
def a_halted_type_is_told_as_it_was(patch: Patch) -> None:
    def sharding(self: MemoryBroker, streams: Streams, entity: str) -> Sharding:
        return streams.queues[entity].sharding

    patch.setattr(MemoryBroker, "sharding", sharding)


@noticed_by("tells_go_where_the_type_is_cut_anew")
def a_cut_begins_the_sequences_anew(patch: Patch) -> None:
    def recut(self: Queue, sharding: Sharding) -> None:
        _recut(self, sharding)
        self.last_sequence = 0

    patch.setattr(Queue, "recut", recut)


@noticed_by("tells_go_where_the_type_is_cut_anew", "a_halted_type_is_not_provisioned")
def a_cut_changes_only_the_generation(patch: Patch) -> None:
    def recut(self: Queue, sharding: Sharding) -> None:
        _recut(self, replace(sharding, shards=self.sharding.shards))

    patch.setattr(Queue, "recut", recut)


@noticed_by("an_earlier_generation_gets_no_term")
def nobody_looks_at_the_generation_of_a_term(patch: Patch) -> None:
    def parse(name: str) -> None:
        return None

    patch.setattr(queues, "parse_term", parse)


@noticed_by("a_tell_of_an_earlier_generation_stays_there")
def what_waits_is_cut_anew(patch: Patch) -> None:
    def at(self: Any, place: Place) -> list[int]:
        return [s for s, tell in self._tells.items() if tell.place[1] == place[1]]

    patch.setattr(Queue, "_at", at)


@noticed_by("only_who_halted_it_cuts_it")
def anybody_may_cut(patch: Patch) -> None:
    def recut(
        self: MemoryBroker, streams: Streams, entity: str, sharding: Sharding, token: str
    ) -> None:
        streams.queues[entity].halted_by = token
        _broker_recut(self, streams, entity, sharding, token)

    patch.setattr(MemoryBroker, "recut", recut)


@noticed_by("stored_tells_are_counted")
def tells_without_a_consumer_are_not_counted(patch: Patch) -> None:
    async def count(self: Any, entity: str) -> int:
        queue = self._streams.queues.get(entity)
        return 0 if queue is None else sum(queue._waiting.values())

    patch.setattr(MemoryCommands, "count", count)
