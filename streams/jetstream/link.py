"""Link: one live connection, made with a nats-py client that is used once.

nats-py can reconnect by itself, but what it buffered then goes out late: an acknowledgement of an
earlier term, an append that was given up. Some errors also end its client for good. So a link
that is lost is thrown away with everything in it, and `connection.py` makes a new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

from nats.aio.client import Client, Server
from nats.aio.subscription import Subscription
from nats.errors import Error

from ...entities.settings import without_login
from ..port import Unreachable
from .errors import check_version
from .outbox import Outbox
from .reader import Handler, Reader

logger: logging.Logger = logging.getLogger("perdure.jetstream")

CONNECT_TIMEOUT_S = 2
"""For each step of connecting to one server, in seconds (nats-py takes whole ones)."""
DIAL_TIMEOUT_S = 10.0
"""For one round over all servers."""
PING_S = 3
"""How often the server must show that it lives: with PINGS, a dead peer is found in 9 s."""
PINGS = 2
CLOSE_TIMEOUT_S = 2.0
"""For the last flush, and for closing the socket."""
CANCELS = 20
CANCEL_S = 0.1
"""How often, and with what pause, something that was given up is told so."""
PARKED_S = 3600.0
"""nats-py waits this long before it would reconnect; we are gone long before."""


class Link:
    """One connection. Lost for good when `alive` is false."""

    def __init__(self, client: Reader) -> None:
        self.client = client
        self.outbox: Outbox = Outbox(client)
        self.ended: bool = False
        self._subscriptions: set[Subscription] = set()

    @property
    def alive(self) -> bool:
        """Whether it can still be used."""
        return not self.ended and self.client.is_connected

    @property
    def version(self) -> str:
        """The server's."""
        return _version(self.client)

    async def subscribe(self, subject: str, handler: Handler) -> Subscription:
        """Listen; handlers are plain and never wait."""
        subscription = await self.client.listen(subject, handler)
        self._subscriptions.add(subscription)
        return subscription

    async def unsubscribe(self, subscription: Subscription) -> None:
        """Listen no more."""
        self._subscriptions.discard(subscription)
        if not self.client.is_closed:
            with contextlib.suppress(Error):  # it is lost, and its subscriptions with it
                await self.client.leave(subscription)

    async def sync(self) -> None:
        """Wait until the server has handled what was sent before. Raises Unreachable.

        Twice: nats-py writes the first ping ahead of what its buffer still holds.
        """
        try:
            for _ in range(2):
                await self.client.flush(CONNECT_TIMEOUT_S)
        except (Error, OSError) as error:
            raise Unreachable(f"the connection was lost: {error!r}") from None

    async def close(self, *, flush: bool) -> None:
        """End it. Nothing is raised: there is nothing that could be done about it."""
        if flush and self.alive:
            await self.outbox.empty(CLOSE_TIMEOUT_S)
            with contextlib.suppress(Unreachable):
                await self.sync()
        self.ended = True
        self.outbox.stop()
        for subscription in list(self._subscriptions):
            await self.unsubscribe(subscription)
        await _close(self.client)


async def dial(
    urls: list[str],
    options: dict[str, Any],
    name: str,
    *,
    on_end: Callable[[Client], None],
    on_error: Callable[[Exception], Awaitable[None]],
    on_said: Callable[[Client, str], bool],
) -> Link:
    """A new link to one of the servers. `on_said` is given each error as the server says it, and
    takes it or leaves it to `on_error`. Raises Unreachable, Incompatible."""
    client = Reader()
    client.on_error = partial(on_said, client)
    errors: list[Exception] = []

    async def failed(error: Exception) -> None:
        if client.is_connected:
            await on_error(error)
        else:
            errors.append(error)
            del errors[:-10]

    async def ended() -> None:
        on_end(client)

    try:
        await _within(
            DIAL_TIMEOUT_S,
            client.connect(
                servers=urls,
                name=name,
                error_cb=failed,
                disconnected_cb=ended,
                closed_cb=ended,
                connect_timeout=CONNECT_TIMEOUT_S,
                reconnect_time_wait=0,
                max_reconnect_attempts=1,
                ping_interval=PING_S,
                max_outstanding_pings=PINGS,
                pending_size=0,
                reconnect_to_server_handler=_park,
                **options,
            ),
        )
        check_version(_version(client))
        client.hasten()
    except (Error, OSError, TimeoutError) as error:
        await _close(client)
        why = _cause([error, *errors])
        where = ", ".join(without_login(url) for url in urls)
        raise Unreachable(f"can't connect to {where}: {_told(why)}") from None
    except BaseException:
        await _close(client)
        raise
    return Link(client)


def _park(servers: list[Server], info: dict[str, Any]) -> tuple[Server | None, float]:
    return None, PARKED_S


def _version(client: Client) -> str:
    version = client.connected_server_version
    numbers = f"{version.major}.{version.minor}.{version.patch}"
    return f"{numbers}-{version.prerelease}" if version.prerelease else numbers


def _cause(errors: list[Exception]) -> Exception:
    """The one that says most: what a server said rather than how its line broke thereafter."""
    said = [error for error in errors[1:] if isinstance(error, Error)]
    return said[-1] if said else errors[-1]


def _told(error: Exception) -> str:
    return str(error) or repr(error)


async def _within(timeout_s: float, work: Coroutine[Any, Any, None]) -> None:
    """Wait for work that may swallow its cancellation, as `wait_for` in it does on 3.11."""
    task = asyncio.get_running_loop().create_task(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=timeout_s)
    except asyncio.CancelledError:
        await _give_up(task)
        raise
    if not done:
        await _give_up(task)
        raise TimeoutError(f"not within {timeout_s:g} s")
    task.result()


async def _give_up(task: asyncio.Task[None]) -> None:
    for _ in range(CANCELS):
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=CANCEL_S)
        if done and not task.cancelled():
            logger.debug("after giving up: %r", task.exception())
        if done:
            return


async def _close(client: Client) -> None:
    try:
        await _within(CLOSE_TIMEOUT_S, client.close())
    except (Error, OSError, TimeoutError, AttributeError, AssertionError, RuntimeError) as error:
        # nats-py writes its rest to a transport that is gone (AttributeError is its WebSocket's,
        # RuntimeError uvloop's), or it never got as far as to have one.
        logger.debug("while closing: %r", error)
