"""Registration: one message of the registry of ids, and how a page of it is written.

An id is registered before its entity's first commit is published, so whoever has a log is listed;
who is listed may have none, if the runner ended in between. A page belongs to one run of one
runner. It is written in parts, one a registration, and after PARTS of them its whole replaces
them: so a million entities that come one by one leave some 16,000 messages to read, not a
million. A part may hold many ids, if many came at once; a page whose parts are large anyway is
left as it is, and the next one begun.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

FORMAT = 1
PARTS = 64
"""After so many messages a page is rolled up: each id is written twice then, and a reader has
1/64 of the messages. More would save little, and leave more behind at a crash."""
PAGE_BYTES = 64 * 1024
"""Of a page's parts, as they are written. What came in fewer than PARTS is large enough as it is,
and the whole of a page fits into a message, with the largest part as its last one."""


class Registration(msgspec.Struct, frozen=True):
    """Ids that are about to have a log."""

    v: int
    ids: list[str]


class Unreadable(Exception):
    """A registration of a newer format; the text says which."""


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Registration)


def encode(ids: Sequence[str]) -> bytes:
    """The message that registers these ids."""
    return _encoder.encode(Registration(FORMAT, list(ids)))


def decode(data: bytes) -> list[str] | None:
    """The ids of a message; None if it is foreign. Raises Unreadable."""
    try:
        found = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if found.v > FORMAT:
        raise Unreadable(f"a registration of format {found.v}; this release reads {FORMAT}")
    return found.ids


class Page:
    """A page under way: what was published to it, acknowledged or not."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.full: bool = False  # the next registration needs another page
        self._ids: list[str] = []
        self._parts = 0
        self._bytes = 0

    def next(self, ids: Sequence[str]) -> tuple[bytes, bool]:
        """What to publish to register these, and whether it is the whole page.

        All that was ever tried is in the whole: a part whose acknowledgement was lost may be
        stored, and would be lost with the others.
        """
        self._ids += ids
        self._parts += 1
        part = encode(ids)
        self._bytes += len(part)
        whole = self._parts == PARTS
        self.full = whole or self._bytes >= PAGE_BYTES
        return (encode(self._ids) if whole else part), whole
