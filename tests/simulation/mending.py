"""Flows whose code is wrong for a while, at one line, and the operator who puts that right.

A bug is there from a flow's beginning, or comes with a change of code while it waits. A flow that
meets it is parked, and others change its entity meanwhile; then it is let go on, perhaps in vain,
or cancelled.
"""

from __future__ import annotations

from collections.abc import Coroutine
from random import Random
from typing import Any

from perdure.entities.address import Address
from perdure.entities.errors import ClusterError
from perdure.streams.caller import Caller as Waking
from perdure.streams.resuming import retrying

from .saga import LINES, Outside, Saga, saga
from .sagacheck import FlowLog, SagaLog
from .sagas import Sagas
from .world import Caller, World

BUGGY = 0.2
"""How probable a bug is in a flow from its beginning."""


class Mending:
    """The bugs of flows in one world, and who mends them."""

    def __init__(self, world: World, sagas: Sagas, outside: Outside) -> None:
        self.world, self.sagas, self.outside = world, sagas, outside
        self.random = Random(f"mending {world.scenario.seed}")

    def begin(self, uid: int) -> None:
        """A flow is about to begin."""
        own = Random(f"bug {self.world.scenario.seed} {uid}")
        if own.random() < BUGGY:
            self._break(uid, own.choice(LINES))

    def _break(self, uid: int, line: int) -> None:
        self.outside.bugs[uid] = line
        self.sagas.buggy.add(uid)

    async def make(self, caller: Caller) -> None:
        """Change the code of some flow, now and then, and let one go on."""
        if self.random.random() < 0.15 and (going := self._open(parked=False)):
            flow = self.random.choice(going)
            self._break(uid_of(flow), self.random.choice(LINES))
        if self.outside.bugs and self.random.random() < 0.3:
            del self.outside.bugs[self.random.choice(sorted(self.outside.bugs))]
        if self.random.random() < 0.4 and (parked := self._open(parked=True)):
            flow = self.random.choice(parked)
            if self.random.random() < 0.7:
                await self.retry(caller, flow)
            else:
                self.sagas.cancelled.add(flow.key)
                await self._cancel(caller, flow)

    async def finish(self, caller: Caller) -> None:
        """All code is right, and each flow that is parked is let go on."""
        self.outside.bugs.clear()
        for flow in self._open(parked=True):
            await self.retry(caller, flow)

    async def retry(self, caller: Caller, flow: FlowLog) -> None:
        """As `perdure flows retry` does."""
        self.sagas.retried.add(flow.key)
        self.world.say(caller.process.name, "RETRIES", flow.entity, flow.key)
        wakes: Waking = vars(caller.cluster)["_caller"]
        await self._quietly(
            caller, wakes.wake(wakes.target(Address(saga.name, flow.entity)), retrying(flow.key))
        )

    async def _cancel(self, caller: Caller, flow: FlowLog) -> None:
        self.world.say(caller.process.name, "CANCELS", flow.entity, flow.key)
        await self._quietly(caller, caller.cluster.at(Saga, flow.entity).cancel(flow.key))

    async def _quietly(self, caller: Caller, work: Coroutine[Any, Any, Any]) -> None:
        try:
            await work
        except ClusterError as error:
            self.world.say(caller.process.name, "IN VAIN", error)

    def _open(self, *, parked: bool) -> list[FlowLog]:
        """Flows that haven't ended, and are parked, or aren't."""
        logs = self.world.saga_logs()
        return [
            flow
            for entity in sorted(logs)
            for flow in SagaLog(entity, logs[entity]).flows.values()
            if flow.key.startswith("run-") and not flow.final and bool(flow.parked) == parked
        ]


def uid_of(flow: FlowLog) -> int:
    """Whose it is."""
    return int(flow.key.removeprefix("run-"))
