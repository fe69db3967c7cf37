"""Messages: what may be sent at all, and what a received one says beside its data.

Whatever the server would end a connection for is refused here, before it is sent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from ..port import Message

SUBJECT_LENGTH = 960
"""Subject and reply together, in characters: at most 3,840 bytes, below the server's 4 KiB line,
beyond which it ends the connection for good."""

_BLANK = re.compile(r"[\s\x00]")
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_NEWLINES = str.maketrans({"\r": " ", "\n": " "})


def check_subject(subject: str, reply: str) -> None:
    """Raises ValueError for what the server wouldn't take, or what can't be encoded."""
    both = subject + reply
    if subject and len(both) <= SUBJECT_LENGTH and both.isprintable() and " " not in both:
        return  # nearly all
    if len(subject) + len(reply) > SUBJECT_LENGTH:
        raise ValueError(f"not a subject: over {SUBJECT_LENGTH} characters")
    if not subject or _blank(subject) or _blank(reply):
        raise ValueError(f"not a subject: {subject!r}, reply {reply!r}")


def _blank(subject: str) -> bool:
    """Whether there is white space in it. Raises ValueError for what can't be encoded."""
    subject.encode()  # half a surrogate pair isn't printable
    return _BLANK.search(subject) is not None


def headers_block(headers: Mapping[str, str] | None) -> bytes:
    """Headers as they go over the wire, which the server counts as payload; none: nothing.

    A value can't end its line. Raises ValueError for a name that is none.
    """
    if not headers:
        return b""
    lines = [_line_start(name) + _value(value) for name, value in headers.items()]
    return "NATS/1.0\r\n{}\r\n\r\n".format("\r\n".join(lines)).encode()


@lru_cache(maxsize=256)
def _line_start(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"not a header's name: {name[:80]!r}")
    return f"{name}: "


def _value(value: str) -> str:
    value = value.strip()
    return value if value.isprintable() else value.translate(_NEWLINES)


def frame(subject: str, reply: str, block: bytes, data: bytes) -> bytes:
    """A publish as the protocol has it, with headers if `block` holds any."""
    to = f"{subject} {reply}" if reply else subject
    if not block:
        return b"".join((f"PUB {to} {len(data)}\r\n".encode(), data, b"\r\n"))
    size = len(block)
    head = f"HPUB {to} {size} {size + len(data)}\r\n".encode()
    return b"".join((head, block, data, b"\r\n"))


def received(subject: str, reply: str, data: bytes, headers: dict[str, str] | None) -> Message:
    """A message as it came. Without data and with that status it is the server's word that nobody
    listens."""
    if headers is None:
        return Message(subject, data, reply)
    nobody = not data and headers.get("Status") == "503"
    return Message(subject, data, reply, headers, nobody)
