"""The gateway as an ASGI application: its paths, and the bounds around all of them.

Paths are matched as they were sent, percent-encoded, so that an id may hold a `/`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Message, Receive, Scope, Send

from ...entities.entity import Entity
from ...streams.client import Cluster
from ...streams.token import without_tokens
from .calls import Calls
from .document import document
from .health import Health
from .limits import TARGET_BYTES, Limits
from .past import Past
from .problems import problem
from .resource import CLOSED, Handler, Resource
from .served import types_of

_log = logging.getLogger("perdure.gateway")

_ALWAYS = (
    # What an entity says is for who asked, and true when it was asked.
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
)
_PROBES = ("/livez", "/readyz")


class Gateway:
    """All of it, over one connection."""

    def __init__(
        self,
        cluster: Cluster,
        entities: Sequence[Entity[Any, Any]],
        limits: Limits | None = None,
        *,
        require_key: bool = False,
        root: str = "",
    ) -> None:
        """`root` is the path below which a proxy shows it, "" for none."""
        self.limits: Limits = limits or Limits()
        self.draining: asyncio.Event = asyncio.Event()
        """Set it when the process ends: event streams end, and it isn't ready any more."""
        self.requests: int = 0
        """Requests in hand, event streams aside."""
        types = types_of(entities)
        self.document: bytes = document(types, self.limits, require_key=require_key, root=root)
        """The OpenAPI document."""
        self._calls = Calls(cluster, types, self.limits, require_key=require_key, root=root)
        self._past = Past(cluster, self.limits, self.draining, root=root)
        self._health = Health(cluster, types, self.limits, self.draining)
        self._router = self._routes()

    @property
    def streams(self) -> int:
        """Event streams that are open."""
        return self._past.streams

    async def close(self) -> None:
        """End what it does by itself."""
        await self._health.close()

    def _routes(self) -> Router:
        calls, health = self._calls, self._health
        at = "/entities/{type}/{id}"
        return Router(
            [
                _route("/livez", {"GET": health.live}),
                _route("/readyz", {"GET": health.ready}),
                _route("/openapi.json", {"GET": self._openapi}),
                _route("/resume", {"POST": calls.resume}),
                _route("/resume/{token}", {"POST": calls.resume_by_path}),
                Route(f"{at}/outcomes/{{name}}/{{key}}", Resource(calls.outcome_ways)),
                Route(f"{at}/history", Resource(self._below_entity, negotiates=True)),
                Route(f"{at}/{{name}}", Resource(self._below_entity)),
                Route("/{path:path}", Resource(_nothing)),
            ],
            redirect_slashes=False,
        )

    def _below_entity(self, request: Request) -> dict[str, Handler]:
        name = request.path_params.setdefault("name", "history")
        ways = self._calls.message_ways(request)
        if name == "history":
            ways["GET"] = self._history
        elif name == "state":
            ways["GET"] = self._calls.state
        elif not ways:
            raise HTTPException(404, "no such command or query")
        return ways

    async def _history(self, request: Request) -> Response:
        return await self._past.history(request, self._calls.type_of(request))

    async def _openapi(self, request: Request) -> Response:
        return Response(self.document, media_type="application/json")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, within the bounds, and log it."""
        if scope["type"] != "http":
            raise ValueError(f"not HTTP: {scope['type']}")
        raw: str = scope["raw_path"].decode("latin-1")
        scope = {**scope, "path": raw, "root_path": ""}
        probe = raw in _PROBES
        told = _Told(send, head=scope["method"] == "HEAD")
        loop = asyncio.get_running_loop()
        began = loop.time()
        self.requests += not probe
        try:
            refusal = None if probe else self._refusal(scope)
            if refusal is not None:
                await refusal(scope, receive, told)
            else:
                await self._router(scope, receive, told)
        except asyncio.CancelledError:
            if told.status != CLOSED or not self.draining.is_set():
                raise
            await _unfinished()(scope, receive, told)  # its time to end is over
        finally:
            self.requests -= not probe
            if not probe:
                took_ms = round(1000 * (loop.time() - began), 1)
                _log.info(
                    "%s %s %s",
                    *(scope["method"], shown(raw), told.status),
                    extra={"action": "http.request", "status": told.status, "ms": took_ms},
                )

    def _refusal(self, scope: Scope) -> Response | None:
        if len(scope["raw_path"]) + len(scope["query_string"]) > TARGET_BYTES:
            return problem(HTTPException(414))
        if self.requests - self.streams > self.limits.requests:
            return problem(HTTPException(503, "too many requests at once", {"Retry-After": "1"}))
        return None


def shown(path: str) -> str:
    """A path for a log: without resume tokens, and without the query string, which isn't in it."""
    return "/resume/(token)" if path.startswith("/resume/") else without_tokens(path)[:1000]


def _unfinished() -> Response:
    why = "the gateway ends; it may have taken effect: repeat with the same key"
    return problem(HTTPException(503, why, {"Retry-After": "1", "Connection": "close"}))


class _Told:
    """Sends, with the headers that every answer has, and without a body to HEAD."""

    def __init__(self, send: Send, *, head: bool) -> None:
        self._send, self._head = send, head
        self.status: int = CLOSED

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": [*message["headers"], *_ALWAYS]}
        elif self._head:
            message = {**message, "body": b""}
        await self._send(message)


def _route(path: str, ways: dict[str, Handler]) -> Route:
    return Route(path, Resource(lambda _request: ways))


def _nothing(_request: Request) -> dict[str, Handler]:
    raise HTTPException(404)
