"""Past: an entity's history, in pages and as server-sent events.

Places are positions, 1 for the first outcome in the log, and not versions: refusals leave the
version as it is, and after a reconnection none may be missing or come twice. The log is read from
its beginning for each page and each stream, since that is how its chain of hashes is verified.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Raw
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ...entities.errors import ClusterError
from ...streams.client import Cluster
from ...streams.history import Commit
from ...streams.token import without_tokens
from .limits import Limits
from .problems import answer, cluster_body, status_of, tell_operator
from .reading import (
    EVENTS,
    JSON,
    accepts,
    escaped,
    number,
    parameters,
    part,
    preferences,
    wants_events,
)
from .resource import disconnected, within
from .served import Served

MOST = 999_999_999
"""The highest position that can be asked for: nine digits."""
AGAIN_MS = 2_000
"""When a client of an event stream comes again, in milliseconds: enough for a restart."""

_log = logging.getLogger("perdure.gateway")


class Happened(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What came of one command. Resume tokens in it are hidden: who may read may not decide."""

    position: int
    """Its number in the entity's log: 1, 2, …"""
    version: int
    """The entity's number of events after it."""
    at: datetime
    """When it was committed, by its runner's clock; UTC."""
    key: str | None = None
    """The idempotency key; absent for one without."""
    command: Raw | None = None
    """The command with its type."""
    events: tuple[Raw, ...] = ()
    """What happened; absent if it was refused, or changed nothing."""
    reply: Raw | None = None
    """The reply."""
    failure: Raw | None = None
    """The declared failure."""
    dead: str | None = None
    """Why it became a dead letter."""
    sequence: int
    """Of the message in the log; consecutive commands may share one."""


def happened(position: int, commit: Commit[Any]) -> bytes:
    """One record as JSON."""
    record = Happened(
        position=position,
        version=commit.version,
        at=commit.at,
        key=commit.key,
        command=_raw(commit.command),
        events=tuple(Raw(msgspec.json.encode(event)) for event in commit.events),
        reply=_raw(commit.reply),
        failure=_raw(commit.failure),
        dead=commit.dead,
        sequence=commit.sequence,
    )
    return without_tokens(msgspec.json.encode(record).decode()).encode()


def _raw(data: bytes | None) -> Raw | None:
    return None if data is None else Raw(data)


class Turn:
    """One of the pages that are read or sent at once."""

    def __init__(self, turns: asyncio.Semaphore) -> None:
        """Not yet."""
        self._turns, self._has = turns, False

    async def come(self) -> None:
        """Wait for it."""
        await self._turns.acquire()
        self._has = True

    def end(self) -> None:
        """Give it to the next, if it came."""
        if self._has:
            self._has = False
            self._turns.release()


class Page(Response):
    """A page, whose turn ends when its client has taken it or is gone."""

    def __init__(self, page: Response, turn: Turn) -> None:
        """The answer and its turn."""
        super().__init__(page.body, page.status_code, page.headers)
        self._turn = turn

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._turn.end()


class Past:
    """What is read from the log."""

    def __init__(
        self, cluster: Cluster, limits: Limits, draining: asyncio.Event, *, root: str
    ) -> None:
        """Streams end when `draining` is set."""
        self._cluster, self._limits, self._draining = cluster, limits, draining
        self._root = root
        self._pages = asyncio.Semaphore(limits.pages)
        self.streams: int = 0
        """Event streams that are open."""

    async def history(self, request: Request, served: Served) -> Response:
        """A page, or a stream where `Accept` names it."""
        id = part(request, "id")
        streams = request.method == "GET" and wants_events(request)
        if not streams and not accepts(request, JSON):
            raise HTTPException(406, f"there are {JSON} and {EVENTS}")
        values = parameters(request, ("after", "limit", "wait"))
        after = number(values, "after", 0, 0, MOST)
        last = request.headers.get("last-event-id")
        if last is not None:  # what a client sends when it comes again
            after = number({"Last-Event-ID": last}, "Last-Event-ID", 0, 0, MOST)
        if streams:
            return self._stream(served, id, after)
        limit = number(values, "limit", self._limits.page, 1, self._limits.page_most)
        prefers = preferences(request, values, self._limits)
        wait_s = self._limits.call_s if prefers.wait_s is None else prefers.wait_s
        found = self._cluster.history(served.entity, id)
        turn = Turn(self._pages)
        try:
            reading = self._page(turn, found, after, limit)
            items, more = await within(wait_s, request, reading)
            next_page = None
            if more:
                entity, of = escaped(served.entity.name), escaped(id)
                at = f"after={after + len(items)}&limit={limit}"
                next_page = f"{self._root}/entities/{entity}/{of}/history?{at}"
            links = {} if next_page is None else {"Link": f'<{next_page}>; rel="next"'}
            headers = {**links, **prefers.waited}
            page = answer(200, {"items": [Raw(i) for i in items], "next": next_page}, headers)
            return Page(page, turn)
        except BaseException:
            turn.end()
            raise

    def _stream(self, served: Served, id: str, after: int) -> Response:
        if self.streams >= self._limits.streams:
            headers = {"Retry-After": "5"}
            raise HTTPException(503, "too many event streams are open", headers)
        return Stream(self, self._cluster.watch(served.entity, id), after, self._limits)

    async def _page(
        self, turn: Turn, found: AsyncIterator[Commit[Any]], after: int, limit: int
    ) -> tuple[list[bytes], bool]:
        """The records after a position, and whether there are more; when it is its turn."""
        await turn.come()
        items: list[bytes] = []
        size = position = 0
        async with _closing(found) as commits:
            async for commit in commits:
                position += 1
                if position <= after:
                    continue
                if len(items) == limit or size >= self._limits.page_bytes:
                    return items, True
                items.append(happened(position, commit))
                size += len(items[-1])
        return items, False

    def ending(self) -> asyncio.Task[bool]:
        """Done when streams have to end."""
        return asyncio.get_running_loop().create_task(self._draining.wait())


def _closing(found: AsyncIterator[Commit[Any]]) -> aclosing[Any]:
    given: Any = found  # a generator, whose reading of the log ends when it is closed
    return aclosing(given)


class Stream(Response):
    """Server-sent events: what is in the log after a position, and then what comes."""

    def __init__(
        self, past: Past, found: AsyncIterator[Commit[Any]], after: int, limits: Limits
    ) -> None:
        """Counted from here on."""
        super().__init__(media_type=EVENTS, headers={"X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._past, self._found, self._after, self._limits = past, found, after, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the client goes, the gateway drains, or its time is up."""
        loop = asyncio.get_running_loop()
        self._past.streams += 1
        work = loop.create_task(self._run(send))
        ends = [loop.create_task(disconnected(receive)), self._past.ending()]
        try:
            done, _ = await asyncio.wait(
                {work, *ends},
                timeout=self._limits.stream_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if work in done:
                work.result()
        except TimeoutError:  # it takes nothing
            _log.info("an event stream was not read", extra={"action": "http.stream_stuck"})
            return
        finally:
            self._past.streams -= 1
            for task in (work, *ends):
                task.cancel()
            await asyncio.gather(work, *ends, return_exceptions=True)
        if ends[0] not in done:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _run(self, send: Send) -> None:
        headers = self.raw_headers
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send(send, b"retry: %d\n\n" % AGAIN_MS)
        position = 0
        async with _closing(self._found) as commits:
            coming: asyncio.Task[Commit[Any]] | None = None
            try:
                while True:
                    coming = coming or asyncio.ensure_future(anext(commits))
                    await asyncio.wait({coming}, timeout=self._limits.ping_s)
                    if not coming.done():
                        await self._send(send, b": \n\n")
                        continue
                    commit, coming = coming.result(), None
                    position += 1
                    if position > self._after:
                        data = happened(position, commit)
                        text = b"id: %d\nevent: outcome\ndata: %s\n\n" % (position, data)
                        await self._send(send, text)
            except ClusterError as error:
                status = status_of(error)
                tell_operator(error, status)
                body = msgspec.json.encode(cluster_body(error, status))
                await self._send(send, b"event: problem\ndata: %s\n\n" % body)
            finally:
                if coming is not None:
                    coming.cancel()
                    await asyncio.gather(coming, return_exceptions=True)

    async def _send(self, send: Send, text: bytes) -> None:
        """Raises TimeoutError if the client takes nothing for too long."""
        async with asyncio.timeout(self._limits.send_s):
            await send({"type": "http.response.body", "body": text, "more_body": True})


def encode_page_schema() -> Mapping[str, Any]:
    """The schema of a page, for the OpenAPI document."""
    return {
        "type": "object",
        "required": ["items", "next"],
        "properties": {
            "items": {"type": "array", "items": {"$ref": "#/components/schemas/Happened"}},
            "next": {
                "type": ["string", "null"],
                "description": "The path of the next page, null at the end.",
            },
        },
    }
