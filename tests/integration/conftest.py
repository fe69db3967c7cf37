"""The engine, the image, one server a test.

Without a container engine the tests skip and say why; where one is required
(`PERDURE_REQUIRE_ENGINE`, set in CI once an engine runs), they fail instead.
"""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Iterator
from typing import Any

import docker  # type: ignore[import-untyped]
import docker.errors  # type: ignore[import-untyped]
import pytest

from .container import NatsServer, build_image


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server's image."""
    problem = _engine_problem()
    if problem is not None:
        if os.environ.get("PERDURE_REQUIRE_ENGINE"):
            pytest.fail(problem)
        pytest.skip(problem)
    built = build_image(tmp_path_factory.mktemp("image"))
    yield str(built)
    built.remove()


@pytest.fixture
def server(image: str) -> Iterator[NatsServer]:
    """A fresh server, running."""
    server = NatsServer(image)
    try:
        server.start()
        yield server
    finally:
        server.close()


def _engine_problem() -> str | None:
    """Why no engine can be reached; None if one can."""
    with warnings.catch_warnings():
        # A client that can't connect leaves its socket to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            client: Any = docker.from_env(timeout=10)
            client.info()
            client.close()
        except docker.errors.DockerException as error:
            problem = f"no container engine: {error}"
        else:
            return None
        gc.collect()
        return problem
