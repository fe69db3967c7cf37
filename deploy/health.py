"""Health: `/livez`, `/readyz` and `/metrics` of a runner's process, by HTTP.

A thread answers, not the event loop: that the loop is stuck is the very thing to be told, and a
server on it couldn't. So it is the standard library's server and not an ASGI one, which would need
a loop of its own in a thread for three GETs. What the runner has is looked at by the loop itself,
for which the thread waits `LOOK_S`; `/livez` needs the loop for nothing, it asks the watchdog.

It is meant for probes and scrapers within a private network: nobody logs in, and nothing secret is
told. Whoever reaches it can keep it busy, not the runner: connections, their time and what they
send are bounded, and a look is kept for a quarter of a second.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import socket
import sys
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from importlib.util import find_spec
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from ..durable.runner import Runner
from ..entities.duration import seconds
from ..entities.settings import Settings
from .look import Look
from .readiness import Check, canary_limit_s, checks, stuck
from .watchdog import Watchdog

if TYPE_CHECKING:
    from .metrics import Metrics

logger: logging.Logger = logging.getLogger("perdure.health")

CONNECTIONS = 16
"""Served at a time; one more is closed at once. A probe and two scrapers need three."""

READ_S = 5.0
"""How long a client may send nothing, in seconds."""

CONNECTION_S = 10.0
"""How long one connection lasts at most, in seconds: sending a byte now and then won't help it."""

LOOK_S = 2.0
"""How long the loop may take to be looked at, in seconds. Twice what Kubernetes waits for a probe
unless it is told otherwise; the longest sane turn of the loop is a tenth of a second."""

DEAD_S = 5.0
"""How long the loop may give no sign of life until `/livez` says so, in seconds: no sane `decide`
takes a hundredth of that. The watchdog ends the process after 30; this is for the impatient."""

POLL_S = 0.2
"""How soon the thread hears that it is to end, in seconds."""

JSON = "application/json"
NO_METRICS = b"metrics need the extra `metrics`: pip install 'perdure[metrics]'\n"


class Stuck(Exception):
    """The event loop didn't answer in time."""


class Answer(NamedTuple):
    """What is sent back."""

    status: HTTPStatus
    content_type: str
    body: bytes


class Probed(msgspec.Struct, frozen=True):
    """The body of an answer to a probe."""

    ok: bool
    checks: tuple[Check, ...]


class Health:
    """What the probes ask, about the runner of this process. Made on its event loop."""

    def __init__(self, settings: Settings, watchdog: Watchdog) -> None:
        self.hosting: bool = False
        """Whether the runner has started, and not ended."""
        self._limit_s = canary_limit_s(seconds(settings.heartbeat))
        self._watchdog = watchdog
        self._runner: Runner | None = None
        self._loop = asyncio.get_running_loop()
        self._metrics: Metrics | None = None
        if find_spec("prometheus_client") is not None:
            from .metrics import Metrics

            self._metrics = Metrics(self.look)

    def __repr__(self) -> str:
        return f"Health({self._runner}, hosting={self.hosting})"

    def runs(self, runner: Runner) -> None:
        """There is a runner now; it may still have to start."""
        self._runner = runner

    # -- from the thread ------------------------------------------------------------------------
    def answer(self, path: str, accept: str) -> Answer:
        """The answer to a GET."""
        match path:
            case "/livez":
                return self._live()
            case "/readyz":
                return self._ready()
            case "/metrics":
                return self._scrape(accept)
            case _:
                text = b"there are /livez, /readyz and /metrics\n"
                return Answer(HTTPStatus.NOT_FOUND, "text/plain", text)

    def look(self) -> Look:
        """What the runner is like, as the loop sees it. Raises Stuck."""
        found: concurrent.futures.Future[Look] = concurrent.futures.Future()

        def work() -> None:
            if not found.set_running_or_notify_cancel():
                return
            try:
                found.set_result(self._look())
            except Exception as error:
                found.set_exception(error)

        try:
            self._loop.call_soon_threadsafe(work)
            return found.result(LOOK_S)
        except TimeoutError:
            found.cancel()
            raise Stuck(f"the event loop didn't answer within {LOOK_S:g} s") from None
        except RuntimeError as error:  # the loop is closed: the process ends
            raise Stuck(f"the event loop doesn't run: {error}") from None

    def _live(self) -> Answer:
        silent_s = self._watchdog.silent_s
        live = silent_s < DEAD_S
        why = "" if live else f"the event loop gave no sign of life for {silent_s:.0f} s"
        return _probed((Check("loop", live, why),))

    def _ready(self) -> Answer:
        try:
            return _probed(self.look().checks)
        except Stuck as error:
            return _probed(stuck(str(error)))

    def _scrape(self, accept: str) -> Answer:
        if self._metrics is None:
            return Answer(HTTPStatus.NOT_IMPLEMENTED, "text/plain", NO_METRICS)
        try:
            return Answer(HTTPStatus.OK, *self._metrics.render(accept))
        except Stuck as error:
            text = f"{error}\n".encode()
            return Answer(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", text)

    # -- on the loop ----------------------------------------------------------------------------
    def _look(self) -> Look:
        runner = self._runner
        stats = None if runner is None else runner.stats()
        connected = runner is not None and runner.session.connected
        found = checks(stats, hosting=self.hosting, connected=connected, limit_s=self._limit_s)
        return Look(stats, found)


def _probed(found: tuple[Check, ...]) -> Answer:
    ok = all(check.ok for check in found)
    status = HTTPStatus.OK if ok else HTTPStatus.SERVICE_UNAVAILABLE
    return Answer(status, JSON, msgspec.json.encode(Probed(ok, found)) + b"\n")


class _Handler(BaseHTTPRequestHandler):
    """One connection, one request."""

    server_version = "perdure"
    sys_version = ""
    timeout = READ_S
    error_message_format = "%(code)d %(message)s\n"
    error_content_type = "text/plain"

    def do_GET(self) -> None:
        """Answer."""
        answer = self._answer()
        with contextlib.suppress(OSError):  # it went away, or its time is over
            self.wfile.write(answer.body)

    def do_HEAD(self) -> None:
        """The same without a body."""
        self._answer()

    def _answer(self) -> Answer:
        assert isinstance(self.server, HealthServer)
        accept = self.headers.get("Accept", "")
        answer = self.server.ask(self.path.partition("?")[0], accept)
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Cache-Control", "no-store")
        with contextlib.suppress(OSError):
            self.end_headers()
        return answer

    def log_message(self, format: str, *args: Any) -> None:
        """A request every few seconds, for ever, is nothing to log."""


class HealthServer(ThreadingMixIn, TCPServer):
    """Serves a bounded number of connections, each in a thread, for a bounded time."""

    daemon_threads = True
    block_on_close = False  # a client that dawdles must not delay the end
    allow_reuse_address = True
    request_queue_size = CONNECTIONS

    def __init__(self, host: str | None, port: int, ask: Callable[[str, str], Answer]) -> None:
        """Listen there; None: on all interfaces, by IPv6 where there is some. Raises OSError."""
        self.ask: Callable[[str, str], Answer] = ask
        self._room = threading.Semaphore(CONNECTIONS)
        address = (host or "", port)
        super().__init__(address, _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket: socket.socket = _listening(host, port)
        self.server_address: Any = self.socket.getsockname()
        self.port: int = self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve it in a thread, if there is room."""
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            self._room.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve it until its time is over."""
        limit = threading.Timer(CONNECTION_S, _cut, (request,))
        limit.daemon = True
        try:
            limit.start()
            super().process_request_thread(request, client_address)
        finally:
            limit.cancel()
            self.shutdown_request(request)  # a second time, unless no thread could be started
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that broke is the client's business; a bug is logged."""
        broke = isinstance(sys.exc_info()[1], OSError)
        level = logging.DEBUG if broke else logging.ERROR
        logger.log(level, "a request failed", exc_info=True, extra={"action": "health.failed"})


def _listening(host: str | None, port: int) -> socket.socket:
    if host is not None:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=CONNECTIONS)
    if socket.has_dualstack_ipv6():
        return socket.create_server(
            ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=CONNECTIONS
        )
    return socket.create_server(("", port), backlog=CONNECTIONS)


def _cut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it is closed
        connection.shutdown(socket.SHUT_RDWR)


@asynccontextmanager
async def serving(health: Health, host: str | None, port: int) -> AsyncGenerator[int]:
    """Answer probes there meanwhile; the port, which the system chooses for 0. Raises OSError."""
    server = await asyncio.to_thread(HealthServer, host, port, health.answer)
    thread = threading.Thread(
        target=server.serve_forever, args=(POLL_S,), name="perdure-health", daemon=True
    )
    thread.start()
    logger.info(
        "answers probes on port %d", server.port, extra={"action": "health", "port": server.port}
    )
    try:
        yield server.port
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()
