"""A post: one singleton in one runner, from being ours by the members' view until given back.

While it is ours, a loop asks whoever has it, takes the next term (durable/tenure.py) and runs the
coroutine until the singleton is another's, or the term turns out to be lost. Then it is cancelled
first, and given back once it ended. A run that returns is over for its term: the next owner begins
it anew. One that fails is begun again here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Literal, TypeAlias

from ..entities.duration import seconds
from ..entities.settings import Settings
from ..streams.members import Kept, Released, encode_word
from ..streams.port import Session, Unreachable
from ..streams.singleton import Run, Singleton
from .activation import loop_time
from .claim import WAITING
from .shard import BACKOFF_MAX_S, BACKOFF_S, CLAIM_TRIES
from .tenure import Standing, Tenure

logger: logging.Logger = logging.getLogger("perdure.singleton")

ANSWER_S = 0.5
"""How long who asks for a singleton waits for a run to end until it is told to ask again, in
seconds: less than it waits for an answer (RELEASE_S), so that it never counts as silence."""

AGAIN_S = 0.1
AGAIN_MAX_S = 30.0
"""Until a run that failed is begun again: at first soon, then twice as long with each failure."""

LASTED_S = 60.0
"""A run that lasted so long before it failed did well: the pause begins anew, in seconds."""

ABANDON_S = 1.0
"""How long a test that kills a runner waits for a run that doesn't end, in seconds."""


State: TypeAlias = Literal["runs", "fails", "ends", "ended"]
"""`fails`: it failed, and is begun again after a pause. `ends`: it was cancelled and cleans up.
`ended`: it returned, and is over for its term."""


class Running:
    """One term of a singleton in this runner, and the task that runs its coroutine."""

    def __init__(self, name: str, term: int, run: Run, pause_s: Callable[[int], float]) -> None:
        self.handle: Singleton = Singleton(name, term, lambda: not self.over)
        self.over: bool = False
        self._run, self._pause_s = run, pause_s
        self._failures = 0  # in a row
        self._pauses = False  # after one of them
        self.task: asyncio.Task[None] = asyncio.get_running_loop().create_task(self._lasting())

    @property
    def state(self) -> State:
        """How it is now."""
        if self.task.done():
            return "ended"
        if self.over:
            return "ends"
        return "fails" if self._pauses else "runs"

    def end(self) -> None:
        """Cancel it, once: what it does on its way out isn't interrupted."""
        if not self.over:
            self.over = True
            self.task.cancel()

    def revive(self) -> None:
        """Begin it again if its task was cancelled though nobody here did so: from inside, or by
        the end of the loop, which then cancels whoever calls this as well."""
        if self.task.cancelled() and not self.over:
            self._failed()
            self._failures += 1
            self.task = asyncio.get_running_loop().create_task(self._later())

    async def _later(self) -> None:
        await self._pause()
        await self._lasting()

    async def _pause(self) -> None:
        self._pauses = True
        await asyncio.sleep(self._pause_s(self._failures))
        self._pauses = False

    async def _lasting(self) -> None:
        """Run it to its end, again and again while it fails."""
        while True:
            began = loop_time()
            try:
                await self._run(self.handle)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if self.over or task is None or task.cancelling():
                    raise
                self._failed()  # something that it waited for was cancelled
            except Exception:
                self._failed()
            else:
                self._log(logging.INFO, "ended", "singleton.ended")
                return
            if self.over:
                return
            self._failures = 1 if loop_time() - began >= LASTED_S else self._failures + 1
            await self._pause()

    def _failed(self) -> None:
        self._log(logging.ERROR, "failed", "singleton.failed", exc_info=True)

    def _log(self, level: int, what: str, action: str, *, exc_info: bool = False) -> None:
        handle = self.handle
        logger.log(
            level,
            "singleton %s %s in its term %d",
            handle.name,
            what,
            handle.term,
            exc_info=exc_info,
            extra={"action": action, "singleton": handle.name, "term": handle.term},
        )


class Post:
    """One singleton in this runner: whether it is ours, and what is done about it."""

    def __init__(
        self,
        session: Session,
        settings: Settings,
        tenure: Tenure,
        name: str,
        run: Run,
        on_stuck: Callable[[], None],
    ) -> None:
        self.name: str = name
        self.run: Run = run
        self.assigned: bool = False  # by the members' view
        self.running: Running | None = None
        self.away: asyncio.Event = asyncio.Event()  # nothing of it is here
        self.away.set()
        self._session, self._settings, self._tenure = session, settings, tenure
        self._on_stuck = on_stuck  # a run doesn't end on cancel, or did so at last
        self._stuck: asyncio.Task[None] | None = None  # such a run
        loop = asyncio.get_running_loop()
        self._change: asyncio.Future[None] = loop.create_future()
        self._look = False  # somebody wants it, so our term may be lost
        self._answers: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] = loop.create_task(self._look_after())

    def __repr__(self) -> str:
        term = None if self.running is None else self.running.handle.term
        return f"Post({self.name!r}, assigned={self.assigned}, term={term}, stuck={self.stuck})"

    @property
    def stuck(self) -> bool:
        """Whether a run of an earlier term goes on though it was cancelled: it must not be joined
        by another one here."""
        return self._stuck is not None and not self._stuck.done()

    # -- what others decide ---------------------------------------------------------------------
    def assign(self, mine: bool) -> None:
        """By the members' view the singleton is this runner's, or isn't."""
        if mine == self.assigned:
            return
        self.assigned = mine
        if not mine:
            self._tenure.withdraw()
            self._end()
        self._changes()

    def expelled(self) -> None:
        """The others took this runner for dead: what it runs is another's by now, or will be."""
        self._end()
        self._changes()

    def asked(self, asker: str) -> None:
        """Another runner wants the singleton: tell it at `asker` whether it is to be had."""
        ends = not self.assigned or (self.running is not None and self.running.over)
        if self.away.is_set():
            self._session.asks.send(asker, encode_word(Released()))
        elif ends and len(self._answers) < WAITING:
            task = asyncio.get_running_loop().create_task(self._answer(asker))
            self._answers.add(task)
            task.add_done_callback(self._answers.discard)
        else:
            self._session.asks.send(asker, encode_word(Kept()))
            self._look = True
            self._changes()

    async def _answer(self, asker: str) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.away.wait(), ANSWER_S)
        word = Released() if self.away.is_set() else Kept()
        self._session.asks.send(asker, encode_word(word))

    def _end(self) -> None:
        if self.running is not None:
            self.running.end()

    def _changes(self) -> None:
        change, self._change = self._change, asyncio.get_running_loop().create_future()
        change.set_result(None)

    # -- what it does ---------------------------------------------------------------------------
    async def _look_after(self) -> None:
        tries = 0  # in a row without a term
        while True:
            change = self._change
            try:
                if not self.assigned or self.stuck:
                    tries = 0
                    await asyncio.wait((change,))
                    continue
                if tries:
                    await self._pause(tries, change)
                term = await self._take()
                if term is None:
                    tries = min(tries + 1, CLAIM_TRIES)
                else:
                    tries = 0
                    await self._hold(term)
            except Unreachable as error:
                tries += 1
                logger.debug(
                    "no term of singleton %s yet: %s", self.name, error,
                    extra={"action": "singleton.unreachable"},
                )  # fmt: skip
            except Exception:
                tries += 1
                self._broken()

    async def _pause(self, tries: int, change: asyncio.Future[None]) -> None:
        longest = min(BACKOFF_MAX_S, BACKOFF_S * 2 ** min(tries, 10))
        pause_s = longest * self._session.entropy.uniform(0.5, 1.0)
        await asyncio.wait((change,), timeout=pause_s)

    async def _take(self) -> int | None:
        """Begin a term; None if it isn't to be had yet. Raises Unreachable."""
        found = await self._tenure.vacant() if self.assigned else None
        if found is None or not self.assigned:
            return None
        self.away.clear()  # before the record says so: who reads it asks here
        term = None
        try:
            term = await self._tenure.take(found)
        finally:
            if term is None:
                self.away.set()
        return term

    async def _hold(self, term: int) -> None:
        """Run it for one term, until it is another's."""
        if self.assigned:
            self.running = Running(self.name, term, self.run, self._again_s)
            logger.info(
                "singleton %s runs here, term %d", self.name, term,
                extra={"action": "singleton.begin", "singleton": self.name, "term": term},
            )  # fmt: skip
            try:
                await self._watch(self.running)
            except Exception:
                self._broken()
            await self._stop(self.running)
            self.running = None
        try:
            await self._give_back(term)
        finally:
            self.away.set()

    def _again_s(self, failures: int) -> float:
        longest = min(AGAIN_MAX_S, AGAIN_S * 2.0 ** min(failures - 1, 20))
        return longest * self._session.entropy.uniform(0.5, 1.0)

    async def _watch(self, running: Running) -> None:
        """Return when it has to end: it is another's by the view, or by the record."""
        session, every_s = self._session, seconds(self._settings.ping_every)
        epoch, looked = session.epoch, loop_time()
        while not running.over:
            change = self._change
            late = loop_time() - looked >= seconds(self._settings.heartbeat)
            if self._look or late or session.epoch != epoch:
                now, current, self._look = loop_time(), session.epoch, False
                if await self._check(running):
                    epoch, looked = current, now
            running.revive()
            if not running.over:
                waits = [change] if running.task.done() else [change, running.task]
                await asyncio.wait(waits, timeout=every_s, return_when=asyncio.FIRST_COMPLETED)

    async def _check(self, running: Running) -> bool:
        """End it if another runner began a later term; whether that could be seen."""
        term = running.handle.term
        try:
            stands = await self._tenure.check(term)
        except Unreachable:
            return False  # which says nothing of the term
        if stands is Standing.LOST:
            logger.warning(
                "singleton %s was taken by another runner: its run of term %d is cancelled",
                self.name, term,
                extra={"action": "singleton.lost", "singleton": self.name, "term": term},
            )  # fmt: skip
            running.end()
        return True

    async def _stop(self, running: Running) -> None:
        """Cancel it, and wait for its end as long as a drain may take."""
        running.end()
        limit_s = seconds(self._settings.drain_timeout)
        done, _ = await asyncio.wait((running.task,), timeout=limit_s)
        if not done:
            self._is_stuck(running)

    def _is_stuck(self, running: Running) -> None:
        """It doesn't end: others may run it, with the next term."""
        logger.error(
            "singleton %s doesn't end though its run of term %d is cancelled: others go on",
            self.name, running.handle.term,
            extra={"action": "singleton.stuck", "singleton": self.name},
        )  # fmt: skip
        self._stuck = running.task
        running.task.cancel()
        running.task.add_done_callback(lambda _: self._on_stuck())
        self._on_stuck()

    def _broken(self) -> None:
        logger.exception(
            "singleton %s can't be looked after",
            self.name,
            extra={"action": "singleton.broken", "singleton": self.name},
        )

    async def _give_back(self, term: int) -> None:
        try:
            await self._tenure.give_back(term)
        except Unreachable as error:  # then the next owner asks here
            logger.debug(
                "singleton %s was not given back: %s", self.name, error,
                extra={"action": "singleton.kept"},
            )  # fmt: skip

    # -- its end --------------------------------------------------------------------------------
    async def release(self) -> None:
        """The runner leaves; a run that isn't over by now isn't waited for."""
        self.assign(False)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        running, self.running = self.running, None
        if running is not None and not running.task.done():
            self._is_stuck(running)
        try:
            if running is not None:
                await self._give_back(running.handle.term)
        finally:
            self.away.set()
        await asyncio.gather(*self._answers, return_exceptions=True)

    async def abandon(self) -> None:
        """End without a word."""
        runs = [self.running.task] if self.running is not None else []
        mine = [self._task, *self._answers]
        self._end()
        for task in mine:
            task.cancel()
        await asyncio.wait([*mine, *runs], timeout=ABANDON_S)
