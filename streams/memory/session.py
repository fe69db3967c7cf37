"""A session with the broker in memory: a connection, and the ports behind it.

Closing it leaves its consumers on the broker, as a server keeps those of a client that went away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...entities.clock import Clock
from ...entities.entropy import Entropy, SystemEntropy
from ...entities.settings import Settings
from ..port import Asks, Commands, DeadLetters, Ids, Log, Members, Schedules, Snapshots
from ..subjects import Sharding, Subjects
from .asks import MemoryAsks
from .commands import MemoryCommands
from .connection import Connection
from .ids import MemoryIds
from .ports import MemoryDeadLetters, MemoryLog, MemoryMembers, MemorySnapshots
from .schedules import MemorySchedules

if TYPE_CHECKING:
    from .broker import MemoryBroker


class MemorySession:
    """One connection to a broker; made by `MemoryBroker.session`."""

    def __init__(
        self,
        broker: MemoryBroker,
        name: str,
        *,
        clock: Clock,
        entropy: Entropy | None,
        settings: Settings,
    ) -> None:
        self.name = name
        self.clock: Clock = clock
        self.entropy: Entropy = entropy or SystemEntropy()
        self.settings = settings
        self.subjects: Subjects = Subjects(settings.namespace)
        self._broker = broker
        self._connection = Connection(name)
        streams = broker.streams(settings.namespace)
        self._streams = streams
        self._log = MemoryLog(broker, streams, self._connection)
        self._commands = MemoryCommands(broker, streams, self._connection, settings)
        self.log: Log = self._log
        self.commands: Commands = self._commands
        self.asks: Asks = MemoryAsks(broker, self._connection, self.entropy)
        self.snapshots: Snapshots = MemorySnapshots(broker, streams, self._connection)
        self.members: Members = MemoryMembers(streams, self._connection)
        self.dead: DeadLetters = MemoryDeadLetters(broker, streams, self._connection)
        self.ids: Ids = MemoryIds(broker, streams, self._connection)
        self._schedules = MemorySchedules(streams.timers, self._connection)
        self.schedules: Schedules = self._schedules

    def __repr__(self) -> str:
        return f"<MemorySession {self.name} {'up' if self.connected else 'down'}>"

    @property
    def connected(self) -> bool:
        """Whether there is a connection right now."""
        return self._connection.up

    @property
    def epoch(self) -> int:
        """Which connection this is: another number once it was lost."""
        return self._connection.epoch

    @property
    def max_payload(self) -> int:
        """The broker's limit of one message, headers included, in bytes."""
        return self._broker.max_payload

    async def sharding(self, entity: str) -> Sharding | None:
        """How the type is cut, None if it has no streams yet. Raises Unreachable, Halted."""
        self._connection.demand()
        known = entity in self._streams.queues
        found = self._broker.sharding(self._streams, entity) if known else None
        return await self._connection.answer(found)

    async def provision(self, entity: str) -> Sharding:
        """Create the type's streams unless they are there. Raises Unreachable, Halted."""
        self._connection.demand()
        return await self._connection.answer(self._broker.provision(self.settings, entity))

    async def halt(self, entity: str, token: str) -> Sharding:
        """Let the type take no tells until it is cut. Raises Unreachable, Incompatible."""
        self._connection.demand()
        return await self._connection.answer(self._broker.halt(self._streams, entity, token))

    async def recut(self, entity: str, sharding: Sharding, token: str) -> None:
        """Cut a halted type, and take tells again. Raises Unreachable, Incompatible."""
        self._connection.demand()
        self._broker.recut(self._streams, entity, sharding, token)
        await self._connection.answer(None)

    async def clock_ahead_s(self) -> float:
        """By how many seconds `clock` is ahead of the broker's. Raises Unreachable."""
        self._connection.demand()
        broker_ns = await self._connection.answer(self._broker.clock.now_ns())
        return (self.clock.now_ns() - broker_ns) / 1e9

    async def close(self) -> None:
        """End the connection; closing it again does nothing."""
        if not self._connection.closed:
            self._commands.part()
            self._schedules.part("closed")
            self._broker.core.forget_connection(self._connection)
            self._connection.close()
            self._log.wake()

    def cut(self) -> None:
        """The connection breaks; see `MemoryBroker.disconnect`."""
        self._commands.part()
        self._schedules.part("reconnected")
        self._connection.cut()

    def restore(self) -> None:
        """The connection is made anew; see `MemoryBroker.disconnect`."""
        self._connection.restore()
        self._commands.lose("reconnected")
        self._log.wake()
