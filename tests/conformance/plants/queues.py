"""Wrong command streams and consumers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from perdure.entities.address import Address
from perdure.entities.settings import Settings
from perdure.streams.memory import consumer as consumers
from perdure.streams.memory import queue as queues
from perdure.streams.memory.broker import MemoryBroker, Streams
from perdure.streams.memory.commands import MemoryCommands, MemoryConsumer
from perdure.streams.memory.consumer import Attached, Place, QueueConsumer
from perdure.streams.memory.queue import FULL_CODE, Limits, Queue
from perdure.streams.memory.session import MemorySession
from perdure.streams.port import ConsumerInfo, Delivery, Full, NoAck, PublishAnswer, Refused, Taken
from perdure.streams.subjects import Sharding

from ..backend import SHARDS, TYPE
from .plant import Patch, nothing, noticed_by

_publish = Queue.publish
_by_sequence = Queue.by_sequence
_oldest = Queue.oldest
_create = Queue.create
_delete = Queue.delete
_settle = QueueConsumer.settle
_pump = QueueConsumer.pump
_provision = MemoryBroker.provision
_tell = MemoryBroker.tell
_rewind = Queue.rewind
_close = MemorySession.close
_init_queue = Queue.__init__
_init_consumer = QueueConsumer.__init__
_publish_port = MemoryCommands.publish


def _capacity(patch: Patch, more: int) -> None:
    def init(self: Queue, sharding: Sharding, limits: Limits, *args: Any) -> None:
        _init_queue(self, sharding, Limits(limits.per_entity + more, limits.bytes), *args)

    patch.setattr(Queue, "__init__", init)


# -- the stream -------------------------------------------------------------------------------
@noticed_by("the_101st_waiting_tell_is_refused", "of_concurrent_tells_exactly_100_are_stored")
def a_mailbox_is_one_larger(patch: Patch) -> None:
    _capacity(patch, 1)


@noticed_by("the_101st_waiting_tell_is_refused", "of_concurrent_tells_exactly_100_are_stored")
def a_mailbox_is_one_smaller(patch: Patch) -> None:
    _capacity(patch, -1)


@noticed_by("the_101st_waiting_tell_is_refused")
def a_full_mailbox_loses_its_oldest(patch: Patch) -> None:
    def publish(self: Any, token: str, *args: Any) -> PublishAnswer:
        if self._waiting.get(token, 0) >= self.limits.per_entity:
            self._remove(next(s for s, t in self._tells.items() if t.token == token))
        return _publish(self, token, *args)

    patch.setattr(Queue, "publish", publish)


@noticed_by("an_acknowledged_tell_frees_one_place")
def an_ack_frees_the_whole_mailbox(patch: Patch) -> None:
    def remove(self: Any, sequence: int) -> None:
        tell = self._tells.pop(sequence)
        self._waiting.pop(tell.token, None)

    patch.setattr(Queue, "_remove", remove)


@noticed_by("an_acknowledged_tell_frees_one_place")
def a_delivery_frees_a_place(patch: Patch) -> None:
    emit = Queue._emit  # pyright: ignore[reportPrivateUsage]

    def emitting(self: Any, consumer: QueueConsumer, sequence: int) -> None:
        emit(self, consumer, sequence)
        self._waiting[self._tells[sequence].token] -= 1

    patch.setattr(Queue, "_emit", emitting)


@noticed_by("a_full_stream_is_no_full_mailbox")
def a_full_stream_looks_like_a_full_mailbox(patch: Patch) -> None:
    def publish(self: Queue, *args: Any) -> PublishAnswer:
        answer = _publish(self, *args)
        return Full() if isinstance(answer, Refused) and answer.code == FULL_CODE else answer

    patch.setattr(Queue, "publish", publish)


@noticed_by("nobody_stores_tells_of_an_unknown_type")
def streams_are_made_on_demand(patch: Patch) -> None:
    def tell(self: MemoryBroker, streams: Streams, entity: str, *args: Any) -> PublishAnswer:
        self.provision(self.settings, entity)
        return _tell(self, streams, entity, *args)

    patch.setattr(MemoryBroker, "tell", tell)


@noticed_by("an_existing_sharding_wins")
def provisioning_cuts_anew(patch: Patch) -> None:
    def provision(self: MemoryBroker, settings: Settings, entity: str) -> Sharding:
        self.streams(settings.namespace).queues.pop(entity, None)
        return _provision(self, settings, entity)

    patch.setattr(MemoryBroker, "provision", provision)


@noticed_by("the_shard_is_the_servers_partition")
def shards_are_numbered_from_1(patch: Patch) -> None:
    def create(self: Queue, shard: int, name: str, **kwargs: Any) -> None:
        _create(self, (shard + 1) % SHARDS, name, **kwargs)

    patch.setattr(Queue, "create", create)


@noticed_by("a_tell_is_stored_as_it_was", "a_plain_publish_is_a_tell")
def headers_are_dropped(patch: Patch) -> None:
    def publish(
        self: Queue, token: str, data: bytes, headers: Mapping[str, str] | None, size: int
    ) -> PublishAnswer:
        return _publish(self, token, data, None, size)

    patch.setattr(Queue, "publish", publish)


@noticed_by("an_unacknowledged_tell_is_stored_once")
def a_tell_without_an_answer_is_repeated(patch: Patch) -> None:
    async def publish(self: MemoryCommands, address: Address, *args: Any) -> PublishAnswer:
        answer = await _publish_port(self, address, *args)
        if isinstance(answer, NoAck):
            await _publish_port(self, address, *args)
        return answer

    patch.setattr(MemoryCommands, "publish", publish)


# -- deliveries -------------------------------------------------------------------------------
@noticed_by("deliveries_are_in_order_and_numbered_from_1")
def the_newest_comes_first(patch: Patch) -> None:
    def stored(self: Any, sequence: int) -> None:
        self._new.appendleft(sequence)
        self.pump()

    def init(self: QueueConsumer, *args: Any, waiting: list[int], **kwargs: Any) -> None:
        _init_consumer(self, *args, waiting=waiting[::-1], **kwargs)

    patch.setattr(QueueConsumer, "stored", stored)
    patch.setattr(QueueConsumer, "__init__", init)


@noticed_by(
    "deliveries_are_in_order_and_numbered_from_1", "a_new_term_begins_with_the_first_unacked"
)
def deliveries_are_numbered_from_0(patch: Patch) -> None:
    def init(self: QueueConsumer, *args: Any, **kwargs: Any) -> None:
        _init_consumer(self, *args, **kwargs)
        self.consumer_sequence = -1

    patch.setattr(QueueConsumer, "__init__", init)


@noticed_by("nothing_comes_without_credit")
def credit_is_ignored(patch: Patch) -> None:
    def pump(self: Any) -> None:
        self._credit = 1_000
        _pump(self)

    patch.setattr(QueueConsumer, "pump", pump)


@noticed_by("nothing_comes_without_credit")
def an_ack_gives_credit_back(patch: Patch) -> None:
    def settle(self: QueueConsumer, sequence: int) -> bool:
        self.grant(1)
        return _settle(self, sequence)

    patch.setattr(QueueConsumer, "settle", settle)


@noticed_by("nothing_comes_without_credit")
def a_grant_replaces_the_credit(patch: Patch) -> None:
    def grant(self: Any, credit: int) -> None:
        if credit > 2:
            self._credit = credit - 1
        else:
            self._credit = credit
        self.pump()

    patch.setattr(QueueConsumer, "grant", grant)


@noticed_by("a_new_term_begins_with_the_first_unacked", "a_term_ends_with_its_connection")
def a_new_term_goes_on_where_the_old_one_was(patch: Patch) -> None:
    delivered: dict[Place, int] = {}

    def delete(self: Any, name: str) -> None:
        gone = self._consumers.get(name)
        if gone is not None:
            delivered[gone.place] = gone.delivered
        _delete(self, name)

    def init(
        self: QueueConsumer, name: str, place: Place, *args: Any, waiting: list[int], **kwargs: Any
    ) -> None:
        left = [s for s in waiting if s > delivered.get(place, 0)]
        _init_consumer(self, name, place, *args, waiting=left, **kwargs)

    patch.setattr(Queue, "delete", delete)
    patch.setattr(QueueConsumer, "__init__", init)


@noticed_by("a_new_term_begins_with_the_first_unacked")
def a_new_term_gets_new_tells_first(patch: Patch) -> None:
    def init(self: QueueConsumer, *args: Any, waiting: list[int], **kwargs: Any) -> None:
        _init_consumer(self, *args, waiting=waiting[2:] + waiting[:2], **kwargs)

    patch.setattr(QueueConsumer, "__init__", init)


# -- terms ------------------------------------------------------------------------------------
@noticed_by(
    "a_second_term_is_refused",
    "of_concurrent_claims_exactly_one_wins",
    "a_consumer_outlives_its_session",
)
def a_second_term_takes_over(patch: Patch) -> None:
    def create(self: Queue, *args: Any, **kwargs: Any) -> None:
        try:
            _create(self, *args, **kwargs)
        except Taken:
            for info in self.consumers():
                self.delete(info.name)
            _create(self, *args, **kwargs)

    patch.setattr(Queue, "create", create)


@noticed_by("a_second_term_is_refused")
def the_same_name_may_be_created_again(patch: Patch) -> None:
    def create(self: Queue, shard: int, name: str, **kwargs: Any) -> None:
        if self.info(name) is not None:
            return
        _create(self, shard, name, **kwargs)

    patch.setattr(Queue, "create", create)


@noticed_by("a_second_term_is_refused")
def a_refused_term_hurts_the_winner(patch: Patch) -> None:
    def create(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            _create(self, *args, **kwargs)
        except Taken:
            for consumer in self._consumers.values():
                consumer.consumer_sequence = 0
            raise

    patch.setattr(Queue, "create", create)


@noticed_by("a_zombie_hits_nothing")
def an_ack_needs_no_consumer(patch: Patch) -> None:
    def ack(self: Any, handle: str) -> None:
        sequence = int(handle.split()[1]) if " " in handle else 0
        if sequence in self._tells:
            self._remove(sequence)

    patch.setattr(Queue, "ack", ack)
    patch.setattr(MemoryConsumer, "_bound", True)


@noticed_by("a_lost_term_is_told_once")
def a_lost_term_is_told_twice(patch: Patch) -> None:
    def lost(self: Any, reason: str) -> None:
        self._on_lost(reason)

    patch.setattr(MemoryConsumer, "lost", lost)


@noticed_by("a_lost_term_is_told_once", "a_new_term_begins_with_the_first_unacked")
def a_deleted_term_is_not_told(patch: Patch) -> None:
    def delete(self: Any, name: str) -> None:
        gone = self._consumers.pop(name, None)
        if gone is not None:
            gone.end()

    patch.setattr(Queue, "delete", delete)


@noticed_by("a_term_without_credit_is_told_too")
def only_who_waits_is_told(patch: Patch) -> None:
    def delete(self: Any, name: str) -> None:
        gone = self._consumers.get(name)
        if gone is not None and not gone.statistics().credit:
            gone.detach()
        _delete(self, name)

    patch.setattr(Queue, "delete", delete)


@noticed_by("a_term_ends_with_its_connection")
def a_term_survives_a_reconnect(patch: Patch) -> None:
    patch.setattr(MemoryCommands, "part", nothing)
    patch.setattr(MemoryCommands, "lose", nothing)


@noticed_by("a_lost_term_acks_nothing")
def a_lost_term_still_acks(patch: Patch) -> None:
    def up(self: MemoryConsumer) -> bool:
        return self.connection.up

    patch.setattr(MemoryConsumer, "_bound", property(up))


@noticed_by("a_stopped_term_takes_nothing_more")
def a_stopped_term_goes_on(patch: Patch) -> None:
    async def stop(self: MemoryConsumer) -> None:
        return

    patch.setattr(MemoryConsumer, "stop", stop)


@noticed_by("a_stopped_term_takes_nothing_more")
def a_stopped_term_acks_nothing(patch: Patch) -> None:
    async def stop(self: Any) -> None:
        self._queue.detach(self.name, self)
        self._taking = False
        self._told = True

    patch.setattr(MemoryConsumer, "stop", stop)


@noticed_by("consumers_are_listed_with_their_owners")
def nobody_owns_a_consumer(patch: Patch) -> None:
    def create(self: Queue, *args: Any, owner: str, **kwargs: Any) -> None:
        _create(self, *args, owner="", **kwargs)

    patch.setattr(Queue, "create", create)


@noticed_by("deliveries_count_only_what_was_given")
def deliveries_are_told_as_sequences(patch: Patch) -> None:
    info = Queue.info

    def informing(self: Queue, name: str) -> ConsumerInfo | None:
        found = info(self, name)
        return None if found is None else replace(found, deliveries=found.delivered)

    patch.setattr(Queue, "info", informing)


@noticed_by("a_consumer_outlives_its_session")
def consumers_go_with_their_session(patch: Patch) -> None:
    async def close(self: Any) -> None:
        for queue in self._streams.queues.values():
            for info in queue.consumers():
                queue.delete(info.name)
        await _close(self)

    patch.setattr(MemorySession, "close", close)


# -- acknowledgements and time ----------------------------------------------------------------
@noticed_by("what_is_not_acked_comes_again", "a_redelivery_needs_credit")
def nothing_is_delivered_twice(patch: Patch) -> None:
    patch.setattr(QueueConsumer, "_look", nothing)


@noticed_by("what_is_not_acked_comes_again")
def redeliveries_are_out_of_order(patch: Patch) -> None:
    def backwards(held: Any) -> list[int]:
        return sorted(held)[::-1]

    patch.setattr(consumers, "sorted", backwards, raising=False)


@noticed_by("what_is_not_acked_comes_again")
def a_redelivery_keeps_its_number(patch: Patch) -> None:
    def pump(self: Any) -> None:
        again = bool(self._due)
        number = self.consumer_sequence
        _pump(self)
        if again:
            self.consumer_sequence = number

    look = QueueConsumer._look  # pyright: ignore[reportPrivateUsage]

    def looking(self: Any) -> None:
        self.consumer_sequence -= 1
        look(self)

    patch.setattr(QueueConsumer, "pump", pump)
    patch.setattr(QueueConsumer, "_look", looking)


@noticed_by("what_is_not_acked_comes_again")
def only_the_newest_handle_counts(patch: Patch) -> None:
    ack = Queue.ack

    def acking(self: Any, handle: str) -> None:
        name, _, number = handle.split() if handle.count(" ") == 2 else ("", "", "0")
        consumer = self._consumers.get(name)
        if consumer is not None and int(number) > consumer.consumer_sequence - 2:
            ack(self, handle)

    patch.setattr(Queue, "ack", acking)


@noticed_by("a_redelivery_needs_credit")
def a_redelivery_is_free(patch: Patch) -> None:
    def pump(self: Any) -> None:
        self._credit += len(self._due)
        _pump(self)

    patch.setattr(QueueConsumer, "pump", pump)


@noticed_by("a_redelivery_needs_credit")
def new_tells_come_before_redeliveries(patch: Patch) -> None:
    def pump(self: Any) -> None:
        due: dict[int, None] = self._due
        self._due = dict[int, None]()
        _pump(self)
        self._due = {**due, **self._due}
        if not self._new:
            _pump(self)

    patch.setattr(QueueConsumer, "pump", pump)


@noticed_by("progress_postpones_a_redelivery")
def progress_is_ignored(patch: Patch) -> None:
    patch.setattr(QueueConsumer, "extend", nothing)


@noticed_by("unacked_tells_block_no_neighbour")
def only_1000_may_be_unacked(patch: Patch) -> None:
    def pump(self: Any) -> None:
        if len(self._held) < 1_000:
            _pump(self)

    patch.setattr(QueueConsumer, "pump", pump)


@noticed_by("an_unknown_ack_is_ignored")
def an_unknown_ack_hits_the_next(patch: Patch) -> None:
    ack = Queue.ack

    def acking(self: Any, handle: str) -> None:
        before = len(self)
        ack(self, handle)
        if len(self) == before and before:
            self._remove(min(self._tells))

    patch.setattr(Queue, "ack", acking)


@noticed_by("a_rewound_stream_gives_its_sequences_again")
def a_rewound_stream_goes_on_counting(patch: Patch) -> None:
    def rewind(self: Queue, keep: int) -> list[Attached]:
        last = self.last_sequence
        attached = _rewind(self, keep)
        self.last_sequence = last
        return attached

    patch.setattr(Queue, "rewind", rewind)


@noticed_by("a_rewound_stream_gives_its_sequences_again")
def nobody_hears_of_a_rewind(patch: Patch) -> None:
    def rewind(self: MemoryBroker, entity: str, keep: int) -> None:
        self.streams("perdure").queues[TYPE].rewind(keep)

    patch.setattr(MemoryBroker, "rewind", rewind)


# -- the walk along the stream ----------------------------------------------------------------
@noticed_by("a_token_with_a_del_is_never_delivered")
def a_del_is_a_byte_like_others(patch: Patch) -> None:
    patch.setattr(queues, "UNINDEXED", "no token has this")


@noticed_by("a_token_with_a_del_is_never_delivered")
def the_walk_uses_the_index(patch: Patch) -> None:
    def oldest(self: Any, after: int) -> Delivery | None:
        left = (s for s, t in self._tells.items() if s > after and "\x7f" not in t.token)
        return _by_sequence(self, next(left, 0))

    patch.setattr(Queue, "oldest", oldest)


@noticed_by("the_oldest_tell_beyond_a_sequence")
def the_walk_never_moves(patch: Patch) -> None:
    def oldest(self: Queue, after: int) -> Delivery | None:
        return _oldest(self, 0)

    patch.setattr(Queue, "oldest", oldest)


@noticed_by("the_oldest_tell_beyond_a_sequence")
def the_walk_gives_the_same_again(patch: Patch) -> None:
    def oldest(self: Queue, after: int) -> Delivery | None:
        return _oldest(self, after - 1)

    patch.setattr(Queue, "oldest", oldest)


@noticed_by("a_removed_tell_is_gone")
def nothing_is_removed(patch: Patch) -> None:
    patch.setattr(Queue, "delete_tell", nothing)


@noticed_by("a_removed_tell_is_gone")
def a_removed_tell_keeps_its_place(patch: Patch) -> None:
    def delete_tell(self: Any, sequence: int) -> None:
        for consumer in self._consumers.values():
            consumer.forget(sequence)
        self._tells.pop(sequence, None)

    patch.setattr(Queue, "delete_tell", delete_tell)


@noticed_by("a_removed_tell_is_gone")
def what_is_held_cannot_be_removed(patch: Patch) -> None:
    delete_tell = Queue.delete_tell

    def deleting(self: Any, sequence: int) -> None:
        if not any(sequence in consumer._held for consumer in self._consumers.values()):
            delete_tell(self, sequence)

    patch.setattr(Queue, "delete_tell", deleting)
