"""Denials: what the server said that this login may not, and which asks that was about. Pure.

The server says of each publish that it denies to which subject it was, and no more: not which one,
and a little later. A right may be withdrawn, or given, between two asks of one entity, and then
the owner has one of them. So a call may only say that nobody got what it sent if as many were
denied there as were sent there, by whichever call; else it goes on asking, and says "may".
"""

from __future__ import annotations

import re
from collections import deque
from typing import Literal, TypeAlias

Verb: TypeAlias = Literal["publish", "subscription"]

REMEMBERED = 4_096
"""Asks, and violations, remembered each: enough for LATE_S at four hundred a second, in less than
1 MB. Who asks more often isn't told soon that it may not, and waits until its time is up."""
LATE_S = 10.0
"""How much later than what it is about a violation may come, in seconds: a connection whose server
has said nothing for nine is given up."""
KNOWN = 100
"""Different violations listed, for metrics, and logged as errors: more say nothing new."""

_VIOLATION = re.compile(
    r'permissions violation for (publish|subscription) to "((?:[^"\\]|\\.)*)"', re.IGNORECASE
)
"""As the server writes it: a subject with a quote or a backslash is escaped, stays so, and so is
no subject that perdure asks about."""


def violation(verb: Verb, subject: str) -> str:
    """A violation in words."""
    return f'permissions violation for {verb} to "{subject}"'


def violation_in(text: str) -> tuple[Verb, str] | None:
    """What the server says was denied, if its error is of that kind."""
    found = _VIOLATION.search(text)
    if found is None:
        return None
    return "publish" if found[1].lower() == "publish" else "subscription", found[2]


class Denials:
    """What one connection was denied, and what it asked; times are the loop's, in seconds."""

    def __init__(self) -> None:
        self.asked: deque[tuple[float, str]] = deque(maxlen=REMEMBERED)
        """What was sent as an ask, and when; whoever sends appends to it, and does nothing else
        on that way, which is hot."""
        self.known: dict[str, None] = {}
        """Each violation once, oldest first, the first KNOWN of them."""
        self._told: deque[tuple[float, str]] = deque()
        self._last: dict[str, float] = {}  # of what is in `_told`: when it was told last
        self._newest = float("-inf")

    def __repr__(self) -> str:
        return f"<Denials {len(self._told)} of {len(self.known)} kinds>"

    def tell(self, verb: Verb, subject: str, now: float) -> bool:
        """The server said so; whether it is worth a line in the log."""
        text = violation(verb, subject)
        if len(self._told) == REMEMBERED:
            at, oldest = self._told.popleft()
            if self._last.get(oldest) == at:
                del self._last[oldest]
        self._told.append((now, text))
        self._last[text] = self._newest = now
        new = text not in self.known and len(self.known) < KNOWN
        if new:
            self.known[text] = None
        return new

    def told(self, verb: Verb, subject: str, since: float) -> str | None:
        """The violation, if it was told since then."""
        if self._newest < since:  # nearly always: nothing is denied
            return None
        text = violation(verb, subject)
        at = self._last.get(text)
        return None if at is None or at < since else text

    def certain(self, subject: str, since: float) -> str | None:
        """Why nobody got any ask that was sent there since then; None unless that is certain."""
        text = self.told("publish", subject, since)
        if text is None:
            return None
        begin, asked = self._asked_since(subject, since)
        denied = 0
        for at, entry in reversed(self._told):
            if at < begin:
                break
            denied += entry == text
        return text if asked and asked == denied else None

    def _asked_since(self, subject: str, begin: float) -> tuple[float, int]:
        """How many asks were sent there since then, or rather since a time before which there were
        none for LATE_S: so all that is denied after it is one of them. 0 if that is forgotten.
        """
        asked = 0
        for at, entry in reversed(self.asked):
            if at < begin - LATE_S:
                return begin, asked
            if entry == subject:
                begin, asked = min(begin, at), asked + 1
        return begin, asked if len(self.asked) < REMEMBERED else 0
