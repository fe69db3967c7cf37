"""What all shards and activations of one entity type in one runner share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from ..entities.duration import seconds
from ..entities.entity import Entity
from ..entities.schedule import Schedule
from ..entities.settings import Settings
from ..streams.members import View
from ..streams.port import Session
from ..streams.token import Tokens
from ..streams.tracing import Tracer, tracer_of
from .asking import Asking
from .counts import Counts
from .group import Group
from .ledger import LedgerLimits
from .pace import Pace
from .plan import Limits
from .registrar import Registrar
from .residents import Residents
from .timers import Forgetting
from .turns import Turns

HEADER_BYTES = 1024
"""What the headers of an append may take of the server's limit of one message."""

WAITING_BYTES = 64 * 1024 * 1024
"""Payloads of asks that wait in one runner, in bytes. The number of asks alone is no bound: ten
thousand of the largest payload would be 5 GiB."""


RECOVERIES = 64
"""Entities that one runner reads from the backend at a time, cold ones and pages of ledgers:
enough to keep a server busy over a slow network. After a restart thousands wait, and each may take
4 MB of the log, of the runner's memory, and of the connection on which all appends go, too."""


class Load:
    """How much waits in the whole runner. Overload is answered before memory grows."""

    def __init__(self, most: int, residents: Residents) -> None:
        """`most` asks may wait, whatever the pace."""
        self.pace: Pace = Pace(most)
        self.residents: Residents = residents
        self.asks: int = 0
        self.bytes: int = 0
        self.suspended: int = 0  # asks whose flows wait: no work, so they don't count beside those
        self.turns: Turns = Turns(self.pace)
        self.recoveries: asyncio.Semaphore = asyncio.Semaphore(RECOVERIES)
        self.leaving: int = 0  # bytes of last snapshots of entities that left memory
        self.evicted_early: int = 0  # keys that ledgers had no room for, since the start
        # held by the one marked suspect that runs (durable/marks.py)
        self.alone: asyncio.Lock = asyncio.Lock()

    @property
    def capacity(self) -> int:
        """How many asks may wait right now."""
        return self.pace.capacity

    def full(self) -> bool:
        """Whether no more asks may wait."""
        if self.asks >= self.pace.capacity:
            self.pace.look(asyncio.get_running_loop().time())
            if self.asks >= self.pace.capacity:
                return True
        return self.bytes >= WAITING_BYTES

    def add(self, size: int) -> None:
        """One more ask waits, with a payload of `size` bytes."""
        self.asks += 1
        self.bytes += size

    def remove(self, size: int) -> None:
        """It is answered or dropped."""
        self.asks -= 1
        self.bytes -= size

    def __repr__(self) -> str:
        return f"Load({self.asks} of {self.capacity} asks, {self.bytes} of {WAITING_BYTES} bytes)"


def ledger_limits(settings: Settings) -> LedgerLimits:
    """How much an entity's ledger remembers."""
    return LedgerLimits(
        int(seconds(settings.dedup_window) * 1000),
        settings.dedup_keys,
        int(seconds(settings.made_window) * 1000),
        settings.made_keys,
    )


class Host:
    """One entity type in one runner: what never changes while it runs."""

    def __init__(
        self,
        session: Session,
        entity: Entity[Any, Any],
        settings: Settings,
        runner: str,
        load: Load,
        view: View | None = None,
        *,
        secrets: Sequence[bytes] = (),
    ) -> None:
        self.view: View = view or View()  # of the members; empty for a runner by itself
        self.session: Session = session
        self.entity: Entity[Any, Any] = entity
        self.settings: Settings = settings
        self.runner: str = runner
        self.load: Load = load
        self.counts: Counts = Counts()
        self.tracer: Tracer | None = tracer_of(settings)
        self.restarts: int = 0  # of its command stream, on connections that held
        self.group: Group = Group(session.log, settings.appends, lambda: self.epoch)
        self.registrar: Registrar = Registrar(session, entity.name, runner)
        self.tokens: Tokens = Tokens(secrets, session.subjects.namespace)
        self.forgetting: Forgetting = Forgetting(session)
        self.asking: Asking = Asking(session, settings, self.tokens if secrets else None)
        self.ledger_limits: LedgerLimits = ledger_limits(settings)
        self.untold: dict[str, tuple[Schedule, int]] = {}
        """Next times of schedules that found no room in a mailbox, by name."""

    def __repr__(self) -> str:
        return f"Host({self.entity.name!r}, {self.runner!r}, {self.load})"

    @cached_property
    def loop_time(self) -> Callable[[], float]:
        """The event loop's clock, in seconds. Asking for the running loop is a system call
        (CPython's `getpid`), and a command asks four times."""
        return asyncio.get_running_loop().time

    @property
    def epoch(self) -> int:
        """Another number after each new connection and each restart of the stream: the server's
        files may be older ones then, and what the leader said before vouches for nothing."""
        return self.session.epoch + self.restarts

    @property
    def most_bytes(self) -> int:
        """Of a commit: what the server takes in one message, without its headers."""
        return self.session.max_payload - HEADER_BYTES

    def limits(self, outcomes: int) -> Limits:
        """Bounds of one commit with at most that many outcomes."""
        return Limits(outcomes, self.settings.commit_bytes, self.most_bytes)

    def now_ms(self) -> int:
        """The runner's clock, Unix milliseconds."""
        return self.session.clock.now_ns() // 1_000_000

    def server_ms(self) -> int:
        """The clock by which timers fire."""
        return self.session.schedules.now_ms()
