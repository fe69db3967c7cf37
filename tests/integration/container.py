"""A NATS server in a container: an image FROM scratch around the installed `nats-server` program.

No image is pulled, so this works on a machine without an image registry. The JetStream store is on
a volume that outlives the container, and the client port stays the same over restarts, since a
published port that the engine chooses would change.
"""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Any

from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.docker_client import DockerClient
from testcontainers.core.image import DockerImage
from testcontainers.core.wait_strategies import HttpWaitStrategy

from perdure.deploy.server import find_server

CLIENT_PORT = 4222
MONITOR_PORT = 8222
START_TIMEOUT_S = 60

DOCKERFILE = """\
FROM scratch
COPY nats-server /nats-server
COPY server.conf /server.conf
ENTRYPOINT ["/nats-server", "--config", "/server.conf"]
"""
CONFIG = f"""\
server_name: integration
listen: 0.0.0.0:{CLIENT_PORT}
http: 0.0.0.0:{MONITOR_PORT}
jetstream {{
    store_dir: /data
    sync_interval: always
    max_file_store: 16GB
}}
"""

# The clean-up container would have to be pulled; what is started here is removed here.
testcontainers_config.ryuk_disabled = True


def build_image(context: Path) -> DockerImage:
    """The image, built from a folder that is filled here. The caller removes it."""
    (context / "Dockerfile").write_text(DOCKERFILE)
    (context / "server.conf").write_text(CONFIG)
    shutil.copy(find_server(), context / "nats-server")
    return DockerImage(context, tag="perdure-integration-nats:local").build()


class NatsServer:
    """One server, its port and its volume. A context manager; gone afterwards, data included."""

    def __init__(self, image: str) -> None:
        self._image = image
        self._port = free_port()
        self._engine: Any = DockerClient().client
        self._volume: Any = self._engine.volumes.create()
        self._container: DockerContainer | None = None

    @property
    def url(self) -> str:
        """Where clients connect, before and after restarts."""
        assert self._container is not None
        return f"nats://{self._container.get_container_host_ip()}:{self._port}"

    @property
    def inner_url(self) -> str:
        """Where other containers connect, until it is started anew."""
        container = self._wrapped()
        container.reload()
        address = container.attrs["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
        return f"nats://{address}:{CLIENT_PORT}"

    def start(self) -> None:
        """A new container on the volume; returns when JetStream is ready."""
        container = (
            DockerContainer(self._image)
            .with_bind_ports(CLIENT_PORT, self._port)
            .with_exposed_ports(MONITOR_PORT)
            .with_volume_mapping(self._volume.name, "/data", "rw")
            .waiting_for(healthy())
        )
        self._container = container.start()

    def kill(self) -> None:
        """Kill -9 the server; its container stays, stopped."""
        self._wrapped().kill(signal="SIGKILL")
        self._wrapped().wait()

    def start_again(self) -> None:
        """Start the killed container; returns when JetStream is ready."""
        assert self._container is not None
        self._wrapped().start()
        healthy().wait_until_ready(self._container)

    def remove(self) -> None:
        """Remove the container, running or not; the volume stays."""
        if self._container is not None:
            self._container.stop()
            self._container = None

    def close(self) -> None:
        """Remove everything."""
        self.remove()
        self._volume.remove(force=True)
        self._engine.close()

    def _wrapped(self) -> Any:
        assert self._container is not None
        return self._container.get_wrapped_container()


def healthy() -> HttpWaitStrategy:
    """Waits until a server has JetStream, and in a cluster is up to date."""
    return HttpWaitStrategy(MONITOR_PORT, "/healthz").with_startup_timeout(START_TIMEOUT_S)


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
