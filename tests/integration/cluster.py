"""Three NATS servers in containers that are one cluster, on a network of their own."""

from __future__ import annotations

from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network

from perdure.containers import PerdureContainer

from .container import CLIENT_PORT, MONITOR_PORT, free_port, healthy

NAMES = ("n1", "n2", "n3")
ROUTE_PORT = 6222


class NatsCluster:
    """The servers, by name. They are removed at the end, with what they stored."""

    def __init__(self, image: str) -> None:
        self._network = Network()
        self._network.create()
        self._ports = {name: free_port() for name in NAMES}
        routes = ",".join(f"nats://{name}:{ROUTE_PORT}" for name in NAMES)
        self._servers = {
            name: DockerContainer(image)
            .with_network(self._network)
            .with_network_aliases(name)
            .with_bind_ports(CLIENT_PORT, self._ports[name])
            .with_exposed_ports(MONITOR_PORT)
            .with_command(
                f"--server_name {name} --cluster_name integration "
                f"--cluster nats://0.0.0.0:{ROUTE_PORT} --routes {routes}"
            )
            for name in NAMES
        }

    @property
    def url(self) -> str:
        """Where clients outside connect: all of them, whoever is alive."""
        host = self._servers[NAMES[0]].get_container_host_ip()
        return ",".join(f"nats://{host}:{port}" for port in self._ports.values())

    def start(self) -> None:
        """Start all; returns when each has JetStream, so a majority has a leader."""
        for server in self._servers.values():
            server.start()
        for server in self._servers.values():
            healthy().wait_until_ready(server)

    def kill(self, name: str) -> None:
        """Kill -9 one; its container stays, stopped."""
        container = self._servers[name].get_wrapped_container()
        container.kill(signal="SIGKILL")
        container.wait()

    def start_again(self, name: str) -> None:
        """Start a killed one; returns when it is up to date."""
        self._servers[name].get_wrapped_container().start()
        healthy().wait_until_ready(self._servers[name])

    def runner(self, image: str, app: str) -> PerdureContainer:
        """A runner beside them, with three copies of every stream."""
        url = ",".join(f"nats://{name}:{CLIENT_PORT}" for name in NAMES)
        runner = PerdureContainer(image, app, url=url).with_network(self._network)
        return runner.with_env("PERDURE_REPLICAS", "3").with_env("PERDURE_SHARDS", "8")

    def close(self) -> None:
        """Remove everything."""
        for server in self._servers.values():
            server.stop()
        self._network.remove()
