"""Probe: a bare connection that looks at a server without changing anything.

It takes the backend's way to connect, but no session: a check must also work where that would
refuse to start. Each call here either has no effect, or is one that the server refuses (see
permissions.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Sequence
from typing import Any, Literal, cast

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError

from ..entities.settings import Settings
from ..streams.jetstream.denials import Verb, violation_in
from ..streams.jetstream.link import Link, dial
from ..streams.jetstream.login import options, servers
from .permissions import INBOX, PROBE, PROBE_HEADERS, Need

ANSWER_S = 2.0
"""How long one answer may take, in seconds."""

NOBODY = f"{INBOX}.{PROBE}.answers"
"""Where answers to probes go: unheard."""

logger: logging.Logger = logging.getLogger("perdure.check")

_VERBS: dict[Verb, Literal["publish", "subscribe"]] = {
    "publish": "publish",
    "subscription": "subscribe",
}


class Silent(Exception):
    """No answer in time."""


class Nobody(Exception):
    """The server's word that nobody listens there."""


class Probe:
    """A connection for looking. Raises Incompatible for settings that can't work."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._urls, self._options = servers(settings), options(settings)
        self._client: Any = None  # nats-py's own annotations are partial
        self._link: Link | None = None
        self._violations: set[tuple[str, str]] = set()

    async def open(self) -> None:
        """Connect. Raises Unreachable, and Incompatible for a server that is too old."""
        self._link = await dial(
            self._urls,
            self._options,
            "perdure-check",
            on_end=lambda _client: None,
            on_error=self._on_error,
            on_said=self._said,
        )
        self._client = self._link.client

    async def close(self) -> None:
        """End the connection."""
        if self._link is not None:
            await self._link.close(flush=False)

    @property
    def version(self) -> str:
        """The server's version."""
        version = self._client.connected_server_version
        return f"{version.major}.{version.minor}.{version.patch}"

    async def request(self, subject: str, body: bytes = b"") -> bytes:
        """One answer. Raises Nobody, Silent."""
        try:
            answer = await self._client.request(subject, body, timeout=ANSWER_S)
        except NoRespondersError:
            raise Nobody(subject) from None
        except (TimeoutError, NatsError, OSError) as error:
            raise Silent(f"no answer within {ANSWER_S:g} s ({type(error).__name__})") from None
        return bytes(answer.data)

    async def collect(self, subject: str, window_s: float) -> list[bytes]:
        """All that answer within a while; none where nobody listens. Raises Silent."""
        loop = asyncio.get_running_loop()
        found: list[bytes] = []
        until = loop.time() + window_s
        try:
            inbox = self._client.new_inbox()
            heard = await self._client.subscribe(inbox)
            await self._client.publish(subject, b"", inbox)
            with contextlib.suppress(TimeoutError):
                while (left_s := until - loop.time()) > 0:
                    answer = await heard.next_msg(timeout=left_s)
                    if not answer.headers:  # a status: nobody listens
                        found.append(bytes(answer.data))
            await heard.unsubscribe()
        except (NatsError, OSError) as error:
            raise Silent(f"the connection was lost: {error}") from None
        return found

    async def api(self, request: str, body: object = None) -> dict[str, Any]:
        """A JetStream API request that only reads; the error, if any, is in the answer.

        Raises Nobody, Silent; the latter at once where this login may not ask.
        """
        subject = f"{self.settings.api_prefix}.{request}"
        if await self.denied([Need("publish", subject, "read", subject)]):
            raise Silent(f"this login may not publish {subject}")
        data = b"" if body is None else json.dumps(body).encode()
        answer = json.loads(await self.request(subject, data))
        return cast("dict[str, Any]", answer if isinstance(answer, dict) else {})

    async def denied(self, needs: Sequence[Need]) -> list[Need]:
        """Those that this login may not do. Raises Silent when the connection is lost."""
        self._violations.clear()
        try:
            for need in needs:
                if need.verb == "publish":
                    headers = dict(PROBE_HEADERS)
                    await self._client.publish(need.probe, need.body, NOBODY, headers)
                else:
                    subscription = await self._client.subscribe(need.probe)
                    await subscription.unsubscribe()
            await self._barrier()
        except (NatsError, OSError) as error:
            raise Silent(f"the connection was lost: {error}") from None
        return [need for need in needs if (need.verb, need.probe) in self._violations]

    async def _barrier(self) -> None:
        """Return when the server has seen all that was sent, and we all that it said.

        Twice, as nats-py writes the first ping ahead of what it still holds.
        """
        for _ in range(2):
            await self._client.flush(timeout=int(ANSWER_S))

    def _said(self, _: Client, error: str) -> bool:
        found = violation_in(error)
        if found is not None:
            verb, subject = found
            self._violations.add((_VERBS[verb], subject))
        return found is not None

    async def _on_error(self, error: Exception) -> None:
        logger.debug("while looking: %r", error)  # what failed is told where it is missed
