"""The supervisor: keeps some worker processes running, and ends them with itself.

It hosts nothing. `perdure run --workers` has one; each worker is a process with a runner
(`cli/worker.py`), so that they use several cores and one that is killed or stuck leaves the others
alone. What to do about one that ended is decided in `restart.py`.

A worker is drained by SIGTERM, and gets the same from the kernel when the supervisor ends without
having sent it, and from systemd, which signals all processes of a service: for a worker the
second of these is no demand to hurry. Only the supervisor hurries: it kills.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Collection, Sequence

import msgspec

from ..entities.entropy import Entropy, SystemEntropy
from .child import DRAIN_MARGIN_S, Child
from .process import HARD_EXIT
from .restart import Ended, failures, is_final, wait_s

_log = logging.getLogger("perdure.supervisor")

LAST_WORDS_S = 1.0
"""How long, in seconds, is waited for what an ended worker had said: it is there at once, unless
a process that the worker made holds its socket."""


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """A worker says: it hosts."""


class Why(msgspec.Struct, frozen=True, tag="why"):
    """A worker says why it ends: one line, the next step, the traceback of a bug in APP."""

    what: str
    next_step: str
    trace: str = ""


class Drained(msgspec.Struct, frozen=True, tag="drained"):
    """A worker says: an operator told it to leave, so it is not to be started again."""


class NotUnderstood(Exception):
    """No worker will ever host: APP, the options or the settings are wrong."""

    def __init__(self, why: Why) -> None:
        super().__init__(why.what)
        self.why = why


class Supervisor:
    """Some workers, numbered from 0."""

    def __init__(
        self,
        count: int,
        start: Callable[[int], Awaitable[Child]],
        *,
        drain_s: float,
        on_ready: Callable[[], None],
        entropy: Entropy | None = None,
    ) -> None:
        """`start` makes the worker of a number; `on_ready` is called once, when all host."""
        self._count, self._start, self._drain_s = count, start, drain_s
        self._on_ready = on_ready
        self._entropy = entropy or SystemEntropy()
        self._children: dict[int, Child] = {}
        self._since: dict[int, float] = {}  # when those that host became ready
        self._all_ready = asyncio.Event()
        self._hosted = False  # whether any ever did
        self._undrained = False

    def __repr__(self) -> str:
        there = len(self._children)
        return f"<Supervisor {there} of {self._count} there, {len(self._since)} ready>"

    async def run(self) -> int:
        """Keep them running until cancelled, then drain them; HARD_EXIT if one had to be killed.

        Ends by itself, with 0, when an operator has drained the last of them. Raises
        NotUnderstood.
        """
        create = asyncio.get_running_loop().create_task
        keeping = [create(self._keep(number)) for number in range(self._count)]
        announcing = create(self._announce())
        try:
            await _drained(keeping, announcing)
        except asyncio.CancelledError:
            await _cancel((*keeping, announcing))
            if not self._undrained:
                raise
            return HARD_EXIT
        except BaseException:
            await _cancel((*keeping, announcing))
            raise
        await _cancel((announcing,))
        return 0

    def kill(self) -> None:
        """End all of them at once, undrained."""
        for child in self._children.values():
            child.kill()

    async def _announce(self) -> None:
        await self._all_ready.wait()
        self._on_ready()

    async def _keep(self, number: int) -> None:
        """Run the worker of this number, again and again, until an operator drains it."""
        failed = 0
        while True:
            ended, why = await self._run_once(number)
            if isinstance(why, Drained):
                _log.info(
                    "worker %d was drained: it is not started again",
                    number,
                    extra={"action": "worker.drained", "worker": number},
                )
                return
            if is_final(ended, hosted=self._hosted):
                raise NotUnderstood(
                    why or Why(f"worker {number} {ended}", "see above what it said")
                )
            failed = failures(failed, ended)
            delay_s = wait_s(failed, self._entropy.uniform(0.0, 1.0))
            _log.warning(
                "worker %d %s%s: it is started again in %.1f s",
                number,
                ended,
                "" if why is None else f" ({why.what}; next: {why.next_step})",
                delay_s,
                extra={"action": "worker.restart", "worker": number, "code": ended.code},
            )
            if why is not None and why.trace:
                _log.warning(
                    "%s", why.trace, extra={"action": "worker.traceback", "worker": number}
                )
            await asyncio.sleep(delay_s)

    async def _run_once(self, number: int) -> tuple[Ended, Why | Drained | None]:
        """Run the worker until it ends by itself. Cancelled, drain it."""
        try:
            child = await self._start(number)
        except OSError as error:
            lacks = Why(f"{type(error).__name__}: {error}", "see what the machine lacks")
            return Ended(None, None), lacks
        self._children[number] = child
        _log.info(
            "worker %d is process %d",
            number,
            child.pid,
            extra={"action": "worker.start", "worker": number, "pid": child.pid},
        )
        hearing = asyncio.ensure_future(self._hear(number, child))
        try:
            code = await asyncio.shield(child.ended)
            await asyncio.wait({hearing}, timeout=LAST_WORDS_S)
            why = hearing.result() if hearing.done() else None
            return Ended(code, self._hosted_s(number)), why
        finally:
            hearing.cancel()
            await self._end(number, child)

    async def _hear(self, number: int, child: Child) -> Why | Drained | None:
        """Hear what it says until it says no more: why it ends, if it told."""
        why: Why | Drained | None = None
        try:
            while line := await child.hear():
                word = msgspec.json.decode(line, type=Ready | Why | Drained)
                if not isinstance(word, Ready):
                    why = word
                else:
                    self._is_ready(number)
        except ValueError as error:  # what it runs may have said something there, and too much
            _log.warning(
                "worker %d said something that isn't understood: %s",
                number,
                error,
                extra={"action": "worker.strange", "worker": number},
            )
        return why

    def _is_ready(self, number: int) -> None:
        self._hosted = True
        self._since[number] = asyncio.get_running_loop().time()
        _log.info("worker %d hosts", number, extra={"action": "worker.ready", "worker": number})
        if len(self._since) == self._count:
            self._all_ready.set()

    def _hosted_s(self, number: int) -> float | None:
        since = self._since.get(number)
        return None if since is None else asyncio.get_running_loop().time() - since

    async def _end(self, number: int, child: Child) -> None:
        """Drain it if it is there still, and forget it."""
        there = not child.ended.done()
        code = await child.stop(self._drain_s)
        if there and code == -signal.SIGKILL:
            self._undrained = True
            _log.warning(
                "worker %d was killed: it had not drained within %g s",
                number,
                self._drain_s + DRAIN_MARGIN_S,
                extra={"action": "worker.killed", "worker": number},
            )
        del self._children[number]
        self._since.pop(number, None)


async def _drained(keeping: Sequence[asyncio.Task[None]], announcing: asyncio.Task[None]) -> None:
    """Wait until all workers are drained. Raises why one can't be kept, or can't be announced."""
    pending = {*keeping, announcing}
    while not pending.isdisjoint(keeping):
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()


async def _cancel(tasks: Collection[asyncio.Task[None]]) -> None:
    """Cancel them, once, and wait for their ends: they drain."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
