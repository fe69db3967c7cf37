"""Resource: what HTTP asks of every path, so that the resources themselves are plain functions.

Methods (405 with `Allow`, OPTIONS, HEAD as GET), what the client accepts (406), errors as
problems, and the work for a client that went away is ended. ASGI goes no further than this file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeAlias, TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from ...entities.errors import ClusterError
from .limits import PIECE_BYTES
from .problems import gone_wrong, of_cluster, problem
from .reading import JSON, Gone, accepts

T = TypeVar("T")
Handler: TypeAlias = Callable[[Request], Awaitable[Response]]
Ways: TypeAlias = Callable[[Request], Mapping[str, Handler]]
"""The methods of a path and what each does; raises HTTPException if there is no such thing."""

CLOSED = 499
"""The status in the log, as nginx has it, of a request whose client went away."""


class Resource:
    """A path, or a family of them, as an ASGI application."""

    def __init__(self, ways: Ways, *, negotiates: bool = False) -> None:
        """`negotiates`: its handlers look themselves at what a client accepts."""
        self._ways, self._negotiates = ways, negotiates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        response = await self._response(request)
        await response(scope, receive, in_pieces(send))

    async def _response(self, request: Request) -> Response:
        try:
            ways = self._ways(request)
            method = "GET" if request.method == "HEAD" else request.method
            allowed = {"Allow": ", ".join(_methods(ways))}
            if method == "OPTIONS":
                return Response(status_code=204, headers=allowed)
            if method not in ways:
                raise HTTPException(405, headers=allowed)
            if not (self._negotiates or accepts(request, JSON)):
                raise HTTPException(406, f"there is {JSON}")
            return await ways[method](request)
        except HTTPException as error:
            return problem(error)
        except ClusterError as error:
            return of_cluster(error)
        except Gone:
            return Response(status_code=CLOSED)
        except Exception:
            return gone_wrong("a request failed")


def in_pieces(send: Send) -> Send:
    """`send` for whole answers of any size, which are written as their client takes them.

    In one piece an answer would be written at once, and its request be over, while the whole of it
    still waits for its client: nothing would bound how much of that there is.
    """

    async def sent(message: Message) -> None:
        body: bytes = message.get("body", b"")
        if message.get("more_body") or len(body) <= PIECE_BYTES:
            await send(message)
            return
        for begin in range(0, len(body), PIECE_BYTES):
            piece = body[begin : begin + PIECE_BYTES]
            more = begin + PIECE_BYTES < len(body)
            await send({**message, "body": piece, "more_body": more})

    return sent


def _methods(ways: Mapping[str, Handler]) -> list[str]:
    head = ["HEAD"] if "GET" in ways else []
    return sorted([*ways, *head, "OPTIONS"])


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns; it is cancelled, and Gone raised, if its client goes away before."""
    loop = asyncio.get_running_loop()
    task, gone = loop.create_task(work), loop.create_task(disconnected(request.receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Gone
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def within(wait_s: float, request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The same for what has no timeout of its own: 504 when its time is up."""
    try:
        async with asyncio.timeout(wait_s):
            return await unless_gone(request, work)
    except TimeoutError:
        why = f"it couldn't be read within {wait_s:g} s"
        raise HTTPException(504, why, {"Retry-After": "1"}) from None


async def disconnected(receive: Receive) -> None:
    """Returns when the client has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass
