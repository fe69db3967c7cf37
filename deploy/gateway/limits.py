"""Limits: every bound of the gateway, with its unit and the reason of its default."""

from __future__ import annotations

import msgspec

from ...entities.duration import seconds
from ...entities.settings import Settings

HEAD_BYTES = 16_384
"""A request's line and headers at most: what nginx takes by default and more than browsers send.
It bounds what is held for a connection that never ends its headers."""

TARGET_BYTES = 8_192
"""A request's path and query at most: an id of 255 bytes and a key take 1,100, percent-encoded."""

PARAMETERS = 100
"""Parameters in one query string at most: more than a query has fields."""

LEAST_WAIT_S = 0.1
"""The shortest `wait`, in seconds: in less hardly a commit is acknowledged, and who is told that
nothing is known learns nothing."""

KEEP_ALIVE_S = 65
"""How long an idle connection stays open, in seconds: longer than proxies keep theirs (nginx: 60),
so that it isn't this side that closes one just when it is used again."""

PIECE_BYTES = 65_536
"""What is written of an answer before its client took what was written before. Hardly more waits
here, of each connection, for a client that doesn't read, when its request is over."""

SPARE_CONNECTIONS = 500
"""Connections beyond those with a request in hand: proxies keep some open for the next."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one gateway takes at most."""

    body_bytes: int = 524_288
    """A request's body. What a runner takes of a message (`max_payload_bytes`)."""
    body_s: float = 10.0
    """How long a body may take to come: half a megabyte at 50 kB/s."""
    requests: int = 1_000
    """Requests at once; more are refused with 503. Each costs some 30 kB, so 30 MB, beside its
    body and its answer: a gigabyte if all were of the largest. It is in hand until its client has
    taken its answer, but for PIECE_BYTES."""
    streams: int = 100
    """Event streams at once, beside these; more are refused with 503. Each reads a log."""
    call_s: float = 30.0
    """How long a request waits without a `wait` of its own (`ask_timeout`)."""
    wait_s: float = 60.0
    """The longest `wait` that a request may ask for: what proxies commonly allow."""
    outcome_s: float = 1.0
    """How long `GET …/outcomes/…` waits without a `wait`: it is asked again anyhow."""
    page: int = 100
    """Outcomes on a page of history without a `limit`."""
    page_most: int = 1_000
    """Outcomes on a page at most."""
    page_bytes: int = 4_194_304
    """Where a page ends, however few outcomes it has: eight of the largest messages."""
    pages: int = 16
    """Pages read or sent at once; others wait. Each is held twice while it is put together, so all
    of them take 150 MB at most."""
    ping_s: float = 15.0
    """How often a silent event stream says that it lives: proxies end it after 60 s."""
    stream_s: float = 3_600.0
    """How long an event stream lasts: then its client comes again, maybe to another gateway."""
    send_s: float = 30.0
    """How long a client may take none of what an event stream has for it; then it is ended. Of
    other answers the connection sees to it (`Protocol`)."""
    ready_s: float = 2.0
    """How long an owner may take to answer for `/readyz`: a takeover takes about one second."""
    ready_every_s: float = 1.0
    """How long an answer of `/readyz` is told again, so that who asks often costs no more."""
    drain_s: float = 10.0
    """How long what runs may take to end after SIGTERM (`drain_timeout`)."""

    @staticmethod
    def of(settings: Settings) -> Limits:
        """Those that follow from the settings."""
        call_s = seconds(settings.ask_timeout)
        return Limits(
            body_bytes=settings.max_payload_bytes,
            call_s=call_s,
            wait_s=max(60.0, call_s),
            drain_s=seconds(settings.drain_timeout),
        )
