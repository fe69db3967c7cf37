"""The load of the crash tests: callers that repeat until each command has its outcome."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from perdure import Cluster, ClusterError, error_tag

from .journal import Declined, Journal, Receipt, Write

PAUSE_S = 0.05
"""Between two tries of a command that met a cluster error, in seconds."""


@dataclass
class Record:
    """What the callers saw."""

    answers: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    accepted: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])  # tells
    order: dict[tuple[int, str], list[str]] = field(
        default_factory=dict[tuple[int, str], list[str]]
    )
    wrong: list[str] = field(default_factory=list[str])
    errors: Counter[str] = field(default_factory=Counter[str])
    inflight: int = 0
    done: int = 0


def plain(outcome: Receipt | Declined) -> dict[str, Any]:
    """An outcome as the oracle writes it."""
    declined = isinstance(outcome, Declined)
    kind, tag = ("failure", "declined") if declined else ("reply", "receipt")
    return {kind: {"type": tag, "n": outcome.n, "digest": outcome.digest}}


class Caller:
    """One client: commands one after another, each until it has its outcome."""

    def __init__(self, number: int, cluster: Cluster, record: Record, entities: int) -> None:
        self.number, self.cluster, self.record = number, cluster, record
        self._random = random.Random(number)
        self._ids = [f"j-{n}" for n in range(entities)]
        self._asked: list[tuple[str, int, str]] = []

    async def run(self, operations: int) -> None:
        for n in range(operations):
            if self._asked and self._random.random() < 0.05:
                await self._again()
            await self._once(f"c{self.number}-{n}", self.number * 1_000_003 + n)

    async def _once(self, key: str, op: int) -> None:
        id = self._random.choice(self._ids)
        if self._random.random() < 0.3:
            await self._tell(id, key, op)
        else:
            self._answered(key, await self._ask(id, key, op))
            self._asked.append((id, op, key))
        self.record.order.setdefault((self.number, id), []).append(key)
        self.record.done += 1

    async def _again(self) -> None:
        """The same command a second time, by either way: the same outcome."""
        id, op, key = self._random.choice(self._asked[-50:])
        if self._random.random() < 0.5:
            await self._tell(id, key, op)
        else:
            self._answered(key, await self._ask(id, key, op))

    def _answered(self, key: str, outcome: dict[str, Any]) -> None:
        if self.record.answers.setdefault(key, outcome) != outcome:
            self.record.wrong.append(f"{key}: {outcome} after {self.record.answers[key]}")

    async def _ask(self, id: str, key: str, op: int) -> dict[str, Any]:
        ref = self.cluster.at(Journal, id)
        return plain(await self._until(lambda: ref.outcome(Write(op), key=key)))

    async def _tell(self, id: str, key: str, op: int) -> None:
        ref = self.cluster.at(Journal, id)
        await self._until(lambda: ref.tell(Write(op), key=key))
        self.record.accepted.append((id, key))

    async def _until(self, call: Any) -> Any:
        self.record.inflight += 1
        try:
            while True:
                try:
                    return await call()
                except ClusterError as error:
                    self.record.errors[error_tag(error)] += 1
                    await asyncio.sleep(PAUSE_S)
        finally:
            self.record.inflight -= 1
