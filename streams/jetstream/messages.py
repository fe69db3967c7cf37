"""Messages: what may be sent at all, and what a received one says beside its data.

Whatever the server would end a connection for is refused here, before it is sent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from .replies import Received

SUBJECT_LENGTH = 960
"""Subject and reply together, in characters: at most 3,840 bytes, below the server's 4 KiB line,
beyond which it ends the connection for good."""

_BLANK = re.compile(r"[\s\x00]")


def check_subject(subject: str, reply: str) -> None:
    """Raises ValueError for what the server wouldn't take."""
    if len(subject) + len(reply) > SUBJECT_LENGTH:
        raise ValueError(f"not a subject: over {SUBJECT_LENGTH} characters")
    if not subject or _BLANK.search(subject) or (reply and _BLANK.search(reply)):
        raise ValueError(f"not a subject: {subject!r}, reply {reply!r}")


def headers_size(headers: Mapping[str, str] | None) -> int:
    """The bytes of headers on the wire, which the server counts as payload."""
    if headers is None:
        return 0
    size = 12 + sum(len(k) + len(v) + 4 for k, v in headers.items())
    return size + sum(len(v.encode()) - len(v) for v in headers.values() if not v.isascii())


def strings(headers: Mapping[str, str] | None) -> dict[str, str] | None:
    """Headers as nats-py wants them."""
    return dict(headers) if headers else None


def no_responders(message: Received) -> bool:
    """Whether it is the server's word that nobody listens."""
    return (
        not message.data and message.headers is not None and message.headers.get("Status") == "503"
    )
