"""Replies: who waits for which answer, over one reply inbox for the whole connection.

A request needs no subscription, no task and no timer of its own: one entry in a dictionary, one
future. Acknowledgements all have the same timeout, so the oldest is always the first in the
dictionary, and one sweep from the front finds what is overdue. When the connection ends, all of
them end at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeAlias

from msgspec import Struct

from ..port import Message
from .denials import LATE_S, violation
from .errors import Denied, Lost

GIVEN_UP = 4_096
"""Given up without an answer, and remembered for LATE_S: more than wait at any time."""


Result: TypeAlias = Message | Lost | Denied
Read: TypeAlias = Callable[[Result], Any]


def itself(result: Result) -> Any:
    """The result as it came."""
    return result


class Waiting(Struct, eq=False):
    """A request under way."""

    future: asyncio.Future[Any]
    subject: str
    deadline: float
    read: Read = itself  # what the future gets of what came
    size: int = 0  # bytes whose room is free once this is over


class Replies:
    """All requests of one connection that wait for an answer."""

    def __init__(
        self, prefix: str, ack_timeout_s: float, free: Callable[[int], None] | None = None
    ) -> None:
        """`free` is told the size of each publish that is over."""
        self.prefix: str = prefix + "."
        self._free = free
        self._cut = len(self.prefix)
        self._ack_timeout_s = ack_timeout_s
        self._loop = asyncio.get_running_loop()
        self._number = 0
        self._acks: dict[str, Waiting] = {}
        self._requests: dict[str, Waiting] = {}
        self._given_up: dict[str, tuple[float, str]] = {}  # token: when, and its subject
        self._denied: dict[str, int] = {}  # violations by subject, of what may still wait

    def __len__(self) -> int:
        return len(self._acks) + len(self._requests)

    def ack(
        self, subject: str, read: Read = itself, size: int = 0
    ) -> tuple[str, asyncio.Future[Any]]:
        """A reply subject, and the future of what `read` makes of the acknowledgement or its lack;
        overdue by `sweep`. `size` is what `free` is told."""
        self._number += 1
        token = f"a{self._number}"
        future: asyncio.Future[Any] = self._loop.create_future()
        deadline = self._loop.time() + self._ack_timeout_s
        self._acks[token] = Waiting(future, subject, deadline, read, size)
        return self.prefix + token, future

    def request(
        self, subject: str, timeout_s: float
    ) -> tuple[str, asyncio.Future[Result], Callable[[], None]]:
        """The same with a timeout of its own; the third is to be called when it is over."""
        self._number += 1
        token = f"r{self._number}"
        future: asyncio.Future[Result] = self._loop.create_future()
        self._requests[token] = Waiting(future, subject, 0.0)
        why = f"no answer on {subject} in {timeout_s:g} s"
        timer = self._loop.call_later(timeout_s, _resolve, future, Lost(why))

        def over() -> None:
            timer.cancel()
            if self._requests.pop(token, None) is not None:
                self._give_up(token, subject)

        return self.prefix + token, future, over

    def settle(self, message: Message) -> None:
        """An answer came."""
        token = message.subject[self._cut :]
        waiting = self._acks.pop(token, None) or self._requests.pop(token, None)
        if waiting is not None:
            self._over(waiting, message)
        else:
            self._given_up.pop(token, None)  # it was taken, after all

    def sweep(self, now: float) -> None:
        """End what is overdue; `now` is the loop's time."""
        while self._given_up and next(iter(self._given_up.values()))[0] < now - LATE_S:
            self._forget_oldest()
        for subject in list(self._denied):  # some of what was sent there is acknowledged by now
            self._settle_denied(subject)
        overdue: list[str] = []
        for token, waiting in self._acks.items():
            if waiting.deadline > now:
                break
            overdue.append(token)
        for token in overdue:
            waiting = self._acks.pop(token)
            self._give_up(token, waiting.subject)
            why = f"no acknowledgement on {waiting.subject} in {self._ack_timeout_s:g} s"
            self._over(waiting, Lost(why))

    def deny(self, subject: str) -> None:
        """The server refused one publish to this subject, without a word which."""
        self._denied[subject] = self._denied.get(subject, 0) + 1
        self._settle_denied(subject)

    def _settle_denied(self, subject: str) -> None:
        """End what waits there, once as many were refused: others may have been taken, as when a
        right was withdrawn in between. What was given up may be what was refused."""
        waiting = [
            (of, token)
            for of in (self._acks, self._requests)
            for token, one in of.items()
            if one.subject == subject
        ]
        given_up = [token for token, (_, where) in self._given_up.items() if where == subject]
        if self._denied[subject] < len(waiting) + len(given_up):
            return
        del self._denied[subject]
        for token in given_up:
            del self._given_up[token]
        for of, token in waiting:
            self._over(of.pop(token), Denied(violation("publish", subject)))

    def _give_up(self, token: str, subject: str) -> None:
        """It ends without an answer: that one may come, or that it was refused."""
        self._given_up[token] = self._loop.time(), subject
        if len(self._given_up) > GIVEN_UP:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        """Of what was given up: and of what was refused there, as that may have been this one."""
        _, subject = self._given_up.pop(next(iter(self._given_up)))
        left = self._denied.pop(subject, 0) - 1
        if left > 0:
            self._denied[subject] = left

    def end(self, why: str) -> None:
        """The connection ended: so does everything that waits."""
        lost, over = Lost(why), (*self._acks.values(), *self._requests.values())
        self._acks.clear()
        self._requests.clear()
        self._given_up.clear()
        self._denied.clear()
        for waiting in over:
            self._over(waiting, lost)

    def _over(self, waiting: Waiting, result: Result) -> None:
        if waiting.size and self._free is not None:
            self._free(waiting.size)
        if waiting.future.done():
            return
        try:
            waiting.future.set_result(waiting.read(result))
        except Exception as error:  # whoever waits must hear of it
            waiting.future.set_exception(error)


def _resolve(future: asyncio.Future[Result], result: Result) -> None:
    if not future.done():
        future.set_result(result)
