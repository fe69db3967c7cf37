"""The engine, the image, one server a test.

Without a container engine the tests skip and say why; where one is required
(`PERDURE_REQUIRE_ENGINE`, set in CI once an engine runs), they fail instead.
"""

from __future__ import annotations

import gc
import importlib.metadata
import os
import shutil
import warnings
from collections.abc import Iterator
from typing import Any

import docker  # type: ignore[import-untyped]
import docker.errors  # type: ignore[import-untyped]
import pytest

from .container import NatsServer, build_image
from .image import APP_TAG, BASE_TAG, IMAGE_TAG, ROOT, build, build_app, make_base


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


@pytest.fixture(scope="session")
def app(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The image of an application; `image` is the server's, and says that there is an engine."""
    if shutil.which("mmdebstrap") is None:
        problem = "no mmdebstrap to make a base image with: apt-get install mmdebstrap"
        if os.environ.get("PERDURE_REQUIRE_ENGINE"):
            pytest.fail(problem)
        pytest.skip(problem)
    version = importlib.metadata.version("perdure")
    base = make_base(tmp_path_factory.mktemp("base"))
    build(ROOT, IMAGE_TAG, "deploy/Dockerfile", BASE=base, VERSION=version, REVISION="f" * 40)
    yield build_app(tmp_path_factory.mktemp("app"))
    engine: Any = docker.from_env()
    for tag in (APP_TAG, IMAGE_TAG, BASE_TAG):
        engine.images.remove(tag, force=True)
    engine.close()


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
