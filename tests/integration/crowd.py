"""Callers under load, who notice whatever isn't as it should be."""

from __future__ import annotations

import asyncio
from typing import Any

from perdure.streams.client import Cluster

PATIENCE_S = 60.0


class Crowd:
    """Callers with an account each, who ask one deposit after another.

    The client repeats by itself, as every caller's does. What it can't mend is an error of the
    test: it ends the group.
    """

    def __init__(self, cluster: Cluster, bank: Any) -> None:
        self._cluster, self._bank = cluster, bank
        self._changed = asyncio.Condition()
        self.answers = 0
        self.last: dict[int, int] = {}
        self.enough = False

    async def call(self, n: int) -> None:
        """One caller, until it is enough."""
        account = self._cluster.at(self._bank.Account, f"c-{n}")
        while not self.enough:
            balance = await account.ask(self._bank.Deposit(1))
            assert balance == self.last.get(n, 0) + 1
            self.last[n] = balance
            async with self._changed:
                self.answers += 1
                self._changed.notify_all()

    async def more(self, answers: int) -> None:
        """Wait for so many further answers."""
        enough = self.answers + answers
        async with asyncio.timeout(PATIENCE_S), self._changed:
            await self._changed.wait_for(lambda: self.answers >= enough)

    async def balanced(self) -> None:
        """Each deposit happened once."""
        for n, count in self.last.items():
            state = await self._cluster.at(self._bank.Account, f"c-{n}").state()
            assert state.balance == count, f"c-{n}"
