"""Tells: what is published to a command stream, and how a stored tell is named.

A *cause* names a tell that has no key: generation, sequence in the command stream, the server's
timestamp, and the payload's hash. The sequence alone would not do: a stream that lost its tail
gives it out again. A *term name* names one consumer of one shard, for ever:
`g1-s7-t43-x8k2` is generation 1, shard 7, the 43rd term, and a nonce, since a zombie's
acknowledgement into a consumer of the same name would remove a message.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .commit import At

CAUSE = "@"
"""The first character of a cause; neither a key nor an allowed reply subject starts with it."""


def cause_of(at: At, payload_hash: str) -> str:
    """The name of a tell by its place."""
    return f"{CAUSE}{at.generation}.{at.sequence}.{at.time_ns}.{payload_hash[:16]}"


RETRY = "dead:"
"""The first characters of the key of a retried dead letter."""


def retry_key(cause: str) -> str:
    """The key under which a dead letter is retried: one for each cause, so it happens once.

    A cause's `@` and dots are no characters of a key: it begins behind the one, and has dashes for
    the others.
    """
    return RETRY + cause.removeprefix(CAUSE).replace(".", "-")


@dataclass(frozen=True, slots=True)
class TermName:
    """One term of one shard."""

    generation: int
    shard: int
    number: int
    nonce: str

    def __str__(self) -> str:
        return f"g{self.generation}-s{self.shard}-t{self.number}-{self.nonce}"


_TERM = re.compile(r"g([0-9]{1,9})-s([0-9]{1,9})-t([0-9]{1,18})-([a-z0-9]{1,32})")


def parse_term(name: str) -> TermName | None:
    """The parts of a consumer's name; None if it isn't one of ours."""
    match = _TERM.fullmatch(name)
    if match is None:
        return None
    generation, shard, number, nonce = match.groups()
    term = TermName(int(generation), int(shard), int(number), nonce)
    return term if str(term) == name else None  # leading zeros
