"""Wrong core NATS."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace

from perdure.streams.memory.asks import MemoryAsks, MemoryInbox, MemorySubscription
from perdure.streams.memory.broker import MemoryBroker
from perdure.streams.memory.connection import Connection
from perdure.streams.memory.core import Core, Listener
from perdure.streams.memory.session import MemorySession
from perdure.streams.port import Message, NoStream, PublishAnswer

from .plant import Patch, nothing, noticed_by

_match = Core.match
_deliver = Core.deliver
_arrive = Listener.arrive
_send = MemoryAsks.send
_post = Connection.post


@noticed_by("a_request_is_answered")
def headers_are_lost_on_the_way(patch: Patch) -> None:
    def arrive(self: Listener, message: Message) -> None:
        _arrive(self, replace(message, headers=None))

    patch.setattr(Listener, "arrive", arrive)


@noticed_by("nobody_listening_is_told_at_once", "a_closed_session_listens_no_more")
def nobody_is_told_of_silence(patch: Patch) -> None:
    patch.setattr(Core, "no_responders", nothing)


@noticed_by("silence_is_unreachable")
def a_listener_counts_as_nobody(patch: Patch) -> None:
    def deliver(self: Core, *args: Any) -> bool:
        _deliver(self, *args)
        return False

    patch.setattr(Core, "deliver", deliver)


@noticed_by("inboxes_are_apart")
def inboxes_forget_the_suffix(patch: Patch) -> None:
    def subject(self: Any, suffix: str) -> str:
        prefix: str = self._prefix
        return f"{prefix}.1"

    patch.setattr(MemoryInbox, "subject", subject)


@noticed_by("inboxes_are_apart")
def a_closed_inbox_still_hears(patch: Patch) -> None:
    patch.setattr(MemoryInbox, "close", nothing)


@noticed_by("all_who_listen_hear")
def only_one_listener_hears(patch: Patch) -> None:
    def match(self: Core, subject: str) -> list[Listener]:
        return _match(self, subject)[:1]

    patch.setattr(Core, "match", match)


@noticed_by("all_who_listen_hear")
def a_stopped_listener_still_hears(patch: Patch) -> None:
    async def stop(self: MemorySubscription) -> None:
        return

    patch.setattr(MemorySubscription, "stop", stop)


@noticed_by("messages_keep_their_order")
def messages_overtake_each_other(patch: Patch) -> None:
    counts: dict[Connection, int] = {}

    def post(self: Connection, callback: Callable[..., None], *args: Any) -> None:
        counts[self] = counts.get(self, 0) + 1
        if counts[self] % 5 == 0:
            self.loop.call_soon(_post, self, callback, *args)
        else:
            _post(self, callback, *args)

    patch.setattr(Connection, "post", post)


@noticed_by("a_listener_may_send")
def callbacks_run_at_once(patch: Patch) -> None:
    def post(self: Connection, callback: Callable[..., None], *args: Any) -> None:
        callback(*args)

    patch.setattr(Connection, "post", post)


@noticed_by("a_closed_session_listens_no_more")
def a_closed_session_stays_connected(patch: Patch) -> None:
    async def close(self: MemorySession) -> None:
        return

    patch.setattr(MemorySession, "close", close)


@noticed_by("listening_survives_a_reconnect")
def a_reconnect_forgets_who_listens(patch: Patch) -> None:
    restore = MemorySession.restore

    def restoring(self: Any) -> None:
        self._broker.core.forget_connection(self._connection)
        restore(self)

    patch.setattr(MemorySession, "restore", restoring)


@noticed_by("listening_survives_a_reconnect")
def what_is_sent_offline_goes_out_later(patch: Patch) -> None:
    restore = MemorySession.restore
    kept: list[tuple[MemoryAsks, str, bytes]] = []

    def send(self: Any, subject: str, data: bytes, **kwargs: Any) -> None:
        if not self._connection.up:
            kept.append((self, subject, data))
        _send(self, subject, data, **kwargs)

    def restoring(self: MemorySession) -> None:
        restore(self)
        for asks, subject, data in kept:
            _send(asks, subject, data)

    patch.setattr(MemoryAsks, "send", send)
    patch.setattr(MemorySession, "restore", restoring)


@noticed_by("a_plain_publish_is_a_tell", "a_reply_subject_can_be_a_log")
def streams_hear_no_plain_publish(patch: Patch) -> None:
    def capture(
        self: MemoryBroker, subject: str, data: bytes, headers: Mapping[str, str] | None
    ) -> PublishAnswer:
        return NoStream()

    patch.setattr(MemoryBroker, "_capture", capture)
