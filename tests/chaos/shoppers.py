"""Those who use the shop in a chaos test: customers, and who approves at the desk.

Each call that meets a cluster error is made again, with the same key, until it has its outcome.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from perdure import Cluster, ClusterError, Failure, Suspended, Token, error_tag

from .processes import ROOT

sys.path.insert(0, str(ROOT / "examples" / "orders"))

import desk
from order import Cancel, Order, Place, Verdict, Withdrawal
from stock import Receive, Stock

T = TypeVar("T")

RECEIVED = {f"sku-{n}": 100_000 for n in range(8)} | {f"rare-{n}": 5 for n in range(4)}
"""What comes in, by article: of some there is too little."""
PRICES = (9_99, 49_00, 101_01, 380_00)
CARDS = ("good",) * 7 + ("declined", "flaky", "flaky")
PAUSE_S = 0.1
"""Between two tries of what met a cluster error, and two looks at the desk."""
CALL_S = 10.0
THOUGHT_S = 2.0
"""How long whoever approves thinks about it: customers change their mind meanwhile."""


@dataclass
class Seen:
    """What they saw."""

    placed: list[str] = field(default_factory=list[str])
    cancelled: list[str] = field(default_factory=list[str])
    """Orders whose customers asked for that, in time or not."""
    outcomes: dict[str, str] = field(default_factory=dict[str, str])
    """Of each order's `Place`: `paid`, or the tag of the failure."""
    took: dict[str, float] = field(default_factory=dict[str, float])
    """From when it was stored until its outcome was known, in seconds."""
    errors: Counter[str] = field(default_factory=Counter[str])


class Shoppers:
    """All of them, as tasks of this process. `until` ends a call that is tried again in vain."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self.seen = Seen()
        self.until = time.monotonic() + 600
        self._cluster, self._random = cluster, random.Random(seed)

    async def receive(self) -> None:
        """The goods come in."""
        for sku, count in RECEIVED.items():
            stock = self._cluster.at(Stock, sku)
            receive = partial(stock.ask, Receive(count), key="all", timeout=CALL_S)
            await self._tried(receive)

    async def customer(self, id: str) -> None:
        """Place an order, and perhaps take it back, or cancel it when it was paid."""
        chance, order, command = self._random.random(), self._cluster.at(Order, id), self._order()
        await self._tried(lambda: order.tell(command, key="place"))
        began = time.monotonic()
        self.seen.placed.append(id)
        if chance < 0.1 and command.cents > 100_00:
            await self._take_back(id, command)
        outcome = await self._tried(
            lambda: order.outcome(command, key="place", timeout=CALL_S), wanted=True
        )
        self.seen.took[id] = time.monotonic() - began
        self.seen.outcomes[id] = outcome.tag if isinstance(outcome, Failure) else "paid"
        if chance > 0.9:
            self.seen.cancelled.append(id)
            await self._tried(lambda: order.outcome(Cancel(), key="cancel", timeout=CALL_S))

    async def approver(self) -> None:
        """Decide about what lies on the desk, after some thought, until cancelled."""
        since: dict[str, float] = {}
        while True:
            for id, request in (await asyncio.to_thread(desk.requests)).items():
                if time.monotonic() - since.setdefault(id, time.monotonic()) < THOUGHT_S:
                    continue
                approved = random.Random(id).random() < 0.7  # the same again, should it fail
                verdict = Verdict(approved=approved, by="desk")
                with suppress(ClusterError):  # it lies there still, and has its turn again
                    await self._cluster.resume(Token[Verdict](request.token), verdict)
            await asyncio.sleep(PAUSE_S)

    def _order(self) -> Place:
        chosen = self._random.sample(sorted(RECEIVED), self._random.randint(1, 3))
        lines = {sku: self._random.randint(1, 3) for sku in chosen}
        return Place("ann", self._random.choice(CARDS), lines, self._random.choice(PRICES))

    async def _take_back(self, id: str, command: Place) -> None:
        """If it comes to wait for its approval, and nobody was quicker."""
        order, end = self._cluster.at(Order, id), time.monotonic() + CALL_S
        while time.monotonic() < end:
            try:
                await order.ask(command, key="place", on_suspend="raise", timeout=CALL_S)
            except Suspended as waits:  # for stock first, then for its approval
                if waits.resume_token is not None:
                    token = Token[Withdrawal](waits.resume_token)
                    await self._tried(partial(self._cluster.resume, token, Withdrawal()))
                    return
            except Failure:
                return  # it has its outcome
            except ClusterError as error:
                self.seen.errors[error_tag(error)] += 1
            else:
                return
            await asyncio.sleep(PAUSE_S)

    async def _tried(self, call: Callable[[], Awaitable[T]], *, wanted: bool = False) -> T:
        """Until it has its outcome. Raises the ClusterError of the last try."""
        while True:
            try:
                return await call()
            except ClusterError as error:
                if not wanted or error_tag(error) not in ("SendTimeout", "Suspended"):
                    self.seen.errors[error_tag(error)] += 1
                if time.monotonic() > self.until:
                    raise
                await asyncio.sleep(PAUSE_S)
