"""Servers in containers, for tests: `testcontainers` with what perdure needs of a server.

    with NatsContainer() as nats:
        async with connect(nats.url, serving=[account]) as cluster: ...

Needs `pip install testcontainers` and a container engine.
"""

from __future__ import annotations

from typing import Any, Self

import docker.errors  # type: ignore[import-untyped]
from testcontainers.core.container import DockerContainer
from testcontainers.core.exceptions import ContainerStartException
from testcontainers.core.wait_strategies import HttpWaitStrategy

IMAGE = "nats:2.15"
"""The official image; perdure needs a server of 2.15.1 or newer."""
CLIENT_PORT = 4222
MONITOR_PORT = 8222
HEALTH_PORT = 9090
START_TIMEOUT_S = 60
"""How long a server may take until JetStream is ready, in seconds; an image is pulled before."""


class NoEngine(RuntimeError):
    """There is no container engine that can be used, or it can't get the image."""


class _Container(DockerContainer):
    """One that says so where it can't be started."""

    def __init__(self, image: str, **kwargs: Any) -> None:
        try:
            super().__init__(image, **kwargs)
        except docker.errors.DockerException as error:
            raise NoEngine(str(error)) from error

    def start(self) -> Self:
        """Start it; returns when it is ready.

        Raises NoEngine, or TimeoutError, with the container's log as a note, for one that runs and
        isn't ready within START_TIMEOUT_S. That one is removed.
        """
        try:
            super().start()
        except (docker.errors.DockerException, ContainerStartException) as error:
            raise NoEngine(str(error)) from error
        except TimeoutError:
            self.stop()  # `with` would leave it running
            raise
        return self


class NatsContainer(_Container):
    """One nats-server with JetStream; a context manager. `url` is where clients connect.

    Its store is the container's, and goes with it. Options of DockerContainer are taken too.
    Raises NoEngine where it can't be started, TimeoutError if it isn't ready in START_TIMEOUT_S.
    """

    def __init__(self, image: str = IMAGE, *, options: str = "", **kwargs: Any) -> None:
        """`options` are more of nats-server's own, as on its command line."""
        super().__init__(image, **kwargs)
        self.with_command(f"--jetstream --http_port {MONITOR_PORT} {options}".strip())
        self.with_exposed_ports(CLIENT_PORT, MONITOR_PORT)
        self.waiting_for(
            HttpWaitStrategy(MONITOR_PORT, "/healthz").with_startup_timeout(START_TIMEOUT_S)
        )

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://{self.get_container_host_ip()}:{self.get_exposed_port(CLIENT_PORT)}"


class PerdureContainer(_Container):
    """A runner in a container, of an image with your application (docs/kubernetes.md has its three
    lines); a context manager. It is ready once it owns its shards, or stands by.

    `url` is the server's as the container sees it, `app` what `perdure run` gets. Options of
    DockerContainer are taken too. Raises NoEngine where it can't be started, TimeoutError if it
    isn't ready in START_TIMEOUT_S: its log, a note of the error, says why.
    """

    def __init__(self, image: str, app: str, *, url: str, **kwargs: Any) -> None:
        super().__init__(image, **kwargs)
        self.with_command(["run", app])
        self.with_env("PERDURE_URL", url)
        self.with_env("PERDURE_HEALTH_PORT", str(HEALTH_PORT))
        self.with_exposed_ports(HEALTH_PORT)
        self.waiting_for(
            HttpWaitStrategy(HEALTH_PORT, "/readyz").with_startup_timeout(START_TIMEOUT_S)
        )

    @property
    def health_url(self) -> str:
        """Where it answers `/livez`, `/readyz` and `/metrics`."""
        return f"http://{self.get_container_host_ip()}:{self.get_exposed_port(HEALTH_PORT)}"
