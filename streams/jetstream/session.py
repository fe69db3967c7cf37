"""A session on JetStream: one connection, and the ports behind it."""

from __future__ import annotations

from ...entities.clock import Clock, SystemClock, ahead_s
from ...entities.entropy import Entropy, SystemEntropy
from ...entities.settings import Settings
from ..port import Asks, Commands, DeadLetters, Ids, Log, Members, Schedules, Snapshots
from ..subjects import Sharding, Subjects
from ..topology import Difference
from . import resizing, topology
from .asks import JetStreamAsks
from .commands import JetStreamCommands
from .connection import Connection, Statistics
from .dead import JetStreamDeadLetters
from .ids import JetStreamIds
from .log import JetStreamLog
from .members import JetStreamMembers
from .schedules import JetStreamSchedules
from .snapshots import JetStreamSnapshots


class JetStreamSession:
    """`port.Session` on JetStream; made by `open_session`."""

    def __init__(
        self, connection: Connection, settings: Settings, clock: Clock, entropy: Entropy
    ) -> None:
        self.clock: Clock = clock
        self.entropy: Entropy = entropy
        self.subjects: Subjects = Subjects(settings.namespace)
        self.log: Log = JetStreamLog(connection, self.subjects, entropy)
        self.commands: Commands = JetStreamCommands(connection, self.subjects, settings, entropy)
        self.asks: Asks = JetStreamAsks(connection)
        self.snapshots: Snapshots = JetStreamSnapshots(connection, self.subjects)
        self.members: Members = JetStreamMembers(connection, self.subjects)
        self.dead: DeadLetters = JetStreamDeadLetters(connection, self.subjects)
        self.ids: Ids = JetStreamIds(connection, self.subjects)
        self.schedules: Schedules = JetStreamSchedules(connection, self.subjects)
        self._settings = settings
        self._connection = connection

    def __repr__(self) -> str:
        return f"<JetStreamSession {self._connection!r}>"

    @property
    def connection(self) -> Connection:
        """What is beneath, for those who look at whole streams (scan.py)."""
        return self._connection

    @property
    def connected(self) -> bool:
        """Whether there is a connection right now."""
        return self._connection.alive

    @property
    def epoch(self) -> int:
        """Which connection this is: another number once it was lost."""
        return self._connection.links

    @property
    def max_payload(self) -> int:
        """The server's limit of one message with its headers, in bytes."""
        return self._connection.max_payload

    @property
    def violations(self) -> tuple[str, ...]:
        """The permissions that the server said this login lacks, oldest first."""
        return tuple(self._connection.denials.known)

    def statistics(self) -> Statistics:
        """What the connection does right now."""
        return self._connection.statistics()

    async def sharding(self, entity: str) -> Sharding | None:
        """How the type is cut, None if it has no streams yet.

        Raises Unreachable, Incompatible, Halted.
        """
        return await topology.sharding(self._connection, self.subjects, entity)

    async def provision(self, entity: str) -> Sharding:
        """Create what is missing of the type's streams, check what is there.

        Raises Incompatible, Halted, Unreachable.
        """
        return await topology.provision(self._connection, self._settings, self.subjects, entity)

    async def halt(self, entity: str, token: str) -> Sharding:
        """Let the type's command stream take no tells until it is cut; how it is cut now.

        Raises Unreachable, Incompatible.
        """
        return await resizing.halt(self._connection, self.subjects, entity, token)

    async def recut(self, entity: str, sharding: Sharding, token: str) -> None:
        """Cut a type that was halted with this token, and take tells again.

        Raises Unreachable, Incompatible.
        """
        await resizing.recut(self._connection, self.subjects, entity, sharding, token)

    async def check(self, entity: str) -> list[Difference]:
        """What of the type's streams isn't as it should be; nothing is changed.

        Raises Unreachable, and Incompatible where there is no JetStream.
        """
        return await topology.check(self._connection, self._settings, self.subjects, entity)

    async def compared(self, entity: str) -> dict[str, list[Difference] | None]:
        """The same by stream, with None for one that doesn't exist. Raises what `check` does."""
        return await topology.compared(self._connection, self._settings, self.subjects, entity)

    async def clock_ahead_s(self) -> float:
        """By how many seconds `clock` is ahead of the server's, at least. Raises Unreachable."""
        before = self.clock.now_ns()
        server_ns = await topology.server_time_ns(self._connection, self.subjects)
        return ahead_s(before, server_ns, self.clock.now_ns())

    async def close(self) -> None:
        """Send what waits, then end the connection."""
        await self._connection.close()


async def open_session(
    settings: Settings,
    *,
    name: str,
    clock: Clock | None = None,
    entropy: Entropy | None = None,
) -> JetStreamSession:
    """Connect. The connection is made anew for ever after; this first time it must succeed.

    `name` is shown by the server's monitoring. Raises Unreachable, and Incompatible for a server
    that is too old, or for settings that can't work.
    """
    entropy = entropy or SystemEntropy()
    connection = Connection(settings, name, entropy)
    await connection.open()
    return JetStreamSession(connection, settings, clock or SystemClock(), entropy)
