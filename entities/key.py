"""IdempotencyKey: the name of one intention, so that it takes effect once.

The pattern is narrow so that a key is safe in a header, a subject, a log line and a URL. Keys that
the client makes by itself, and request ids, are the client's business and not here.
"""

from __future__ import annotations

import re

_PATTERN = re.compile(r"[A-Za-z0-9:_-]{1,255}")


def is_key(text: str) -> bool:
    """Whether the text is 1-255 characters of `A-Za-z0-9:_-`."""
    return _PATTERN.fullmatch(text) is not None


class IdempotencyKey(str):
    """1-255 characters of `A-Za-z0-9:_-`. Anything else raises ValueError.

    Wherever a key is taken, a plain `str` is accepted too.

    Gotcha: as a `str` subclass it can't be a field of a message; declare `str` there.
    """

    __slots__ = ()

    def __new__(cls, value: str) -> IdempotencyKey:
        """The text as a key; ValueError if it isn't one."""
        if not is_key(value):
            raise ValueError(
                f"not an idempotency key: {value[:60]!r} (1-255 characters of A-Z a-z 0-9 : _ -)"
            )
        return super().__new__(cls, value)
