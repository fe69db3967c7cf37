"""Broadcast: one command told to every entity of a type that is listed, gently and without a gap.

It walks a listing (listing.py) and tells each id the command under one key, so that whoever does
the same again, from the beginning or from a place, tells nobody twice. A few tells are on their
way at once, so they are stored in any order; the place that is told is always one before which
all are stored.

Everything here is the caller's: no runner knows of broadcasts, and one that ends in the middle
leaves nothing behind that would go on by itself.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from msgspec import Raw, Struct

from ..entities.address import Address
from ..entities.entropy import Entropy
from ..entities.errors import (
    ClusterError,
    MailboxFull,
    MalformedMessage,
    RpcClientError,
    RunnerNotRegistered,
    SendTimeout,
    with_details,
)
from ..entities.retry import Retry, delay_s
from .caller import Caller
from .listing import Listing

RATE = 200.0
"""Tells a second, unless the caller says otherwise: under a quarter of what the smallest measured
system records (892 on two cores that fsync each commit, docs/performance.md), so that everybody
else's commands hardly notice. A million entities take 83 minutes."""
RATE_MAX = 100_000.0
"""More than a client can send; whoever wants no limit means this."""
BURST_S = 0.1
"""What was missed of the rate while it waited is made up for by so many seconds' worth at most."""

OPEN = 64
"""Tells on their way at once, with those that are stored and wait for an earlier one: enough for
RATE at 300 ms an acknowledgement, and 32 MiB of the largest commands."""

PASSING = (MailboxFull, SendTimeout, RunnerNotRegistered)
"""Errors of a tell that are waited out: a mailbox empties, a server comes back, and the type of an
id that is listed has a stream. Each for `ask_timeout`, as long as any call may take."""

AGAIN = Retry(base=0.1, factor=2.0, longest=2.0)
"""How they are, once a tell's own tries are used up, and an unreachable registry, too. `attempts`
doesn't count here."""

REPORT_S = 1.0
"""Between two reports of progress, in seconds."""


class BroadcastProgress(Struct, frozen=True, kw_only=True):
    """How far a broadcast came: whoever has it can go on, in another process too."""

    key: str
    """The idempotency key of all its tells: `key` of whoever goes on."""
    told: int
    """Entities that it told so far, up to `place`; those of an earlier part aren't counted."""
    place: str
    """All entities that are listed before it are told: `after` of whoever goes on."""


OnProgress = Callable[[BroadcastProgress], None]


class _Tell:
    """One entity's tell, and where the listing was behind it."""

    __slots__ = ("failed", "place", "stored")

    def __init__(self, place: str) -> None:
        self.place = place
        self.stored = self.failed = False


class _Waits:
    """Waits between tries, longer each time, within a time in all."""

    def __init__(self, entropy: Entropy, within_s: float) -> None:
        self._entropy = entropy
        self._until = _now() + within_s
        self._tries = 0

    async def again(self) -> bool:
        """Wait; False, at once, if that would be too long."""
        self._tries += 1
        wait_s = delay_s(AGAIN, self._tries, self._entropy.uniform(0.0, 1.0))
        if _now() + wait_s >= self._until:
            return False
        await asyncio.sleep(wait_s)
        return True


class Broadcast:
    """One broadcast on its way. Used once.

    Its reports come at its beginning, every `REPORT_S` while it gets ahead, and at its end,
    however it ends.
    """

    def __init__(
        self,
        caller: Caller,
        entity: str,
        listing: Listing,
        payload: Raw,
        key: str,
        *,
        rate: float = RATE,
        on_progress: OnProgress | None = None,
    ) -> None:
        """`listing` of the type `entity`, from where it shall begin. Raises MalformedMessage for
        a rate that makes no sense."""
        self._caller, self._entity, self._listing = caller, entity, listing
        self._payload, self._key = payload, key
        self._on_progress = on_progress
        self._gap_s = 1 / _checked(rate)
        self._due = 0.0  # loop time of the next tell
        self._told, self._place = 0, listing.place
        self._open: deque[_Tell] = deque()  # in the listing's order; the first isn't stored
        self._room = asyncio.Semaphore(OPEN)
        self._report_at = 0.0

    def __repr__(self) -> str:
        return f"<Broadcast {self._key} to {self._entity}: {self._told} told, at {self._place}>"

    @property
    def progress(self) -> BroadcastProgress:
        """How far it came."""
        return BroadcastProgress(key=self._key, told=self._told, place=self._place)

    async def run(self) -> int:
        """Tell all of them; how many. Raises a ClusterError whose cause says how to go on."""
        self._report()
        try:
            async with asyncio.TaskGroup() as tells:
                await self._begin_all(tells)
        except BaseExceptionGroup as group:
            raise self._failed(group.exceptions[0]) from None
        except asyncio.CancelledError:
            self._report()
            raise
        finally:
            await self._listing.aclose()
        self._place = self._listing.place  # behind what the prefix left out, too
        self._report()
        return self._told

    async def _begin_all(self, tells: asyncio.TaskGroup) -> None:
        while (id := await self._next()) is not None:
            tell = _Tell(self._listing.place)
            await self._room.acquire()
            await self._turn()
            self._open.append(tell)
            tells.create_task(self._tell(id, tell))

    async def _next(self) -> str | None:
        """The next id; None at the end. Raises ClusterError."""
        waits = self._waits()
        while True:
            try:
                return await anext(self._listing, None)
            except RpcClientError:
                if self._caller.closed or not await waits.again():
                    raise
                self._listing = self._listing.resumed()

    def _waits(self) -> _Waits:
        return _Waits(self._caller.session.entropy, self._caller.timeout_s(None))

    async def _turn(self) -> None:
        """Wait until the rate allows another one."""
        now = _now()
        self._due = max(self._due, now - BURST_S)
        if self._due > now:
            await asyncio.sleep(self._due - now)
        self._due += self._gap_s

    async def _tell(self, id: str, tell: _Tell) -> None:
        """Store one tell. What passes by itself is waited out for as long as a call may take."""
        target = self._caller.target(Address(self._entity, id), self._key)
        waits, unsure = self._waits(), False
        while not tell.stored:
            try:
                await self._caller.tell(target, self._payload)
                tell.stored = True
            except ClusterError as error:
                unsure = unsure or error.may_have_taken_effect
                if not (isinstance(error, PASSING) and await waits.again()):
                    tell.failed = True
                    raise with_details(error, may_have_taken_effect=unsure) from None
        self._advance()

    def _advance(self) -> None:
        """Move on over all that are stored without a gap."""
        while self._open and self._open[0].stored:
            self._place = self._open.popleft().place
            self._told += 1
            self._room.release()
        if _now() >= self._report_at:
            self._report()

    def _report(self) -> None:
        self._report_at = _now() + REPORT_S
        if self._on_progress is not None:
            self._on_progress(self.progress)

    def _failed(self, error: BaseException) -> BaseException:
        """The error with what is needed to go on; what `on_progress` raised stays as it is."""
        if not isinstance(error, ClusterError):
            return error
        self._report()
        if not self._told and not self._open:  # nothing was begun
            return with_details(error, key=self._key)
        usual = (type(error).__doc__ or error.tag).partition("\n")[0]
        what = (error.cause or usual).rstrip(".")
        told = f"the broadcast told {self._told} before; go on with after={self._place!r}"
        others = any(not tell.failed for tell in self._open)  # stored, or perhaps
        unsure = error.may_have_taken_effect or self._told > 0 or others
        changes: dict[str, Any] = {"key": self._key, "may_have_taken_effect": unsure}
        return with_details(error, cause=f"{what}; {told}", **changes)


def _checked(rate: Any) -> float:
    number = isinstance(rate, int | float) and not isinstance(rate, bool)
    if not (number and 0 < rate <= RATE_MAX):
        shown = f"rate={repr(rate)[:60]} isn't more than 0 and up to {RATE_MAX:g} a second"
        raise MalformedMessage(cause=f"broadcast: {shown}")
    return float(rate)


def _now() -> float:
    return asyncio.get_running_loop().time()
