"""Who listens where: the broker's core NATS, with wildcards, echo and "no responders".

Listeners are kept by the part of their subject before the first wildcard, so finding those of a
message takes one look-up for each of its tokens. Nothing here is stored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from ..port import Message
from .connection import Connection

_SUBJECT = re.compile(r"(?![*>](?:\.|\Z))[^ \t\r\n\0.]+(?:\.(?![*>](?:\.|\Z))[^ \t\r\n\0.]+)*")
_FILTER = re.compile(r"(?!>\.)[^ \t\r\n\0.]+(?:\.(?!>\.)[^ \t\r\n\0.]+)*")
"""Tokens with dots between. `*` and `>` alone are wildcards, and `>` is only the last one."""


def check_subject(subject: str, *, wildcards: bool) -> None:
    """Raises ValueError for what a server wouldn't take as a subject."""
    if not (_FILTER if wildcards else _SUBJECT).fullmatch(subject):
        raise ValueError(f"not a subject: {subject[:80]!r}")


class Listener:
    """A subject that somebody listens to, and where messages go."""

    __slots__ = ("active", "connection", "head", "on_message", "tail")

    def __init__(
        self, subject: str, connection: Connection, on_message: Callable[[Message], None]
    ) -> None:
        tokens = subject.split(".")
        cut = next((i for i, t in enumerate(tokens) if t in ("*", ">")), len(tokens))
        self.head: tuple[str, ...] = tuple(tokens[:cut])
        self.tail: tuple[str, ...] = tuple(tokens[cut:])
        self.connection: Connection = connection
        self.on_message: Callable[[Message], None] = on_message
        self.active: bool = True

    def hears(self, rest: tuple[str, ...]) -> bool:
        """Whether the tokens after `head` match."""
        for index, token in enumerate(self.tail):
            if token == ">":
                return len(rest) > index
            if index >= len(rest) or token not in ("*", rest[index]):
                return False
        return len(rest) == len(self.tail)

    def arrive(self, message: Message) -> None:
        """A message arrives at the session's end."""
        if self.active:
            self.on_message(message)


class Core:
    """All listeners of a broker."""

    def __init__(self) -> None:
        self._by_head: dict[tuple[str, ...], list[Listener]] = {}

    def __len__(self) -> int:
        return sum(len(listeners) for listeners in self._by_head.values())

    def listen(
        self, subject: str, connection: Connection, on_message: Callable[[Message], None]
    ) -> Listener:
        """Register a listener. Raises ValueError for an invalid subject."""
        check_subject(subject, wildcards=True)
        listener = Listener(subject, connection, on_message)
        self._by_head.setdefault(listener.head, []).append(listener)
        return listener

    def forget(self, listener: Listener) -> None:
        """Remove a listener; also one that was removed before."""
        listener.active = False
        listeners = self._by_head.get(listener.head, [])
        if listener in listeners:
            listeners.remove(listener)
            if not listeners:
                del self._by_head[listener.head]

    def forget_connection(self, connection: Connection) -> None:
        """Remove all listeners of a connection."""
        for listeners in list(self._by_head.values()):
            for listener in [x for x in listeners if x.connection is connection]:
                self.forget(listener)

    def match(self, subject: str) -> list[Listener]:
        """Those who hear a subject right now."""
        tokens = tuple(subject.split("."))
        return [
            listener
            for cut in range(len(tokens) + 1)
            for listener in self._by_head.get(tokens[:cut], ())
            if listener.connection.up and listener.hears(tokens[cut:])
        ]

    def deliver(
        self, subject: str, data: bytes, reply: str, headers: Mapping[str, str] | None
    ) -> bool:
        """Give a message to all who hear it; whether there was anybody."""
        listeners = self.match(subject)
        message = Message(subject, data, reply, dict(headers) if headers else None)
        for listener in listeners:
            listener.connection.post(listener.arrive, message)
        return bool(listeners)

    def no_responders(self, sender: Connection, reply: str) -> None:
        """Tell a sender that nobody listened; only its own listener hears that."""
        for listener in self.match(reply):
            if listener.connection is sender:
                message = Message(reply, b"", no_responders=True)
                sender.post(listener.arrive, message)
                return
