"""Effects: what a flow's run does in a runner: its time, its tokens, its steps.

A step is tried as its policy says, each attempt within its time. What it raises at last is an
outcome of the step; only a declared failure is one at once. While a step runs the entity is held,
so a policy's waits hold it, too: who wants to wait for long sleeps in the flow.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Never

from ..entities.address import Address
from ..entities.duration import seconds
from ..entities.flowrun import Ended
from ..entities.record import Opened
from ..entities.retry import delay_s
from ..entities.steps import Call, StepFailed
from ..entities.story import Misuse
from .defect import ENDS, described
from .spans import step

if TYPE_CHECKING:
    from .flow import Drive
    from .host import Host

logger: logging.Logger = logging.getLogger("perdure.flow")

CUT = "its own code cancels it, as `asyncio.timeout` does: a step's time is `step(timeout=…)`"

NONCE_BYTES = 16
"""128 bits: no two deferreds have the same token."""


class RunnerEffects:
    """The effects of one run."""

    def __init__(self, drive: Drive, host: Host, address: Address) -> None:
        self._drive, self._host, self._address = drive, host, address

    def now_ms(self) -> int:
        """The server's clock, by which timers fire."""
        return self._host.server_ms()

    def task(self) -> object:
        """The one that runs now."""
        return asyncio.current_task()

    def nonce(self) -> str:
        """What nobody can guess."""
        return self._host.session.entropy.token(NONCE_BYTES)

    def token(self, opened: Opened) -> str:
        """The resume token of a deferred."""
        return self._host.tokens.of(self._address, self._drive.key, opened)

    async def flush(self) -> None:
        """Return when all that the run has recorded so far is in the log."""
        with self._uncut():
            stored = await self._drive.flush()
        if not stored:
            await self.wait()

    async def wait(self) -> Never:
        """The run ends here: the drive cancels it."""
        self._drive.stops()
        while True:
            await asyncio.get_running_loop().create_future()

    async def perform(self, call: Call) -> object:
        """A step's result. Raises Failure, and StepFailed after all attempts."""
        for attempt in range(1, call.retry.attempts + 1):
            tracer, trace = self._host.tracer, self._drive.trace
            try:
                with step(tracer, self._address, call.name, attempt, trace):
                    return await _attempt(call)
            except (*ENDS, Ended, Misuse):
                raise
            except BaseException as error:
                if type(error) in call.outcomes:
                    raise
                if _is_cancelled(error):
                    if self._drive.blames(CUT):
                        raise StepFailed(call.name, "its flow's own code cancelled it") from error
                    raise
                self._failed(call, attempt, error)
                if attempt == call.retry.attempts:
                    raise StepFailed(call.name, described(error)) from error
            jitter = self._host.session.entropy.uniform(0.0, 1.0)
            await asyncio.sleep(delay_s(call.retry, attempt, jitter))
        raise AssertionError("a policy of no attempts")

    @contextmanager
    def _uncut(self) -> Generator[None]:
        """What is stored meanwhile may be cancelled by the drive, and by nobody else."""
        try:
            yield
        except asyncio.CancelledError:
            self._drive.blames(CUT)
            raise

    def _failed(self, call: Call, attempt: int, error: BaseException) -> None:
        logger.warning(
            "%s: step %r failed (attempt %d of %d): %s",
            self._address, call.name, attempt, call.retry.attempts, described(error),
            extra={"action": "step.failed", "address": str(self._address)},
        )  # fmt: skip


async def _attempt(call: Call) -> object:
    if call.timeout is None:
        return await _run(call.fn, call)
    limit_s = seconds(call.timeout)
    limit = asyncio.timeout(limit_s)
    try:
        async with limit:
            return await _run(call.fn, call)
    except TimeoutError as error:
        if limit.expired():
            raise TimeoutError(f"it took longer than its timeout of {limit_s:g} s") from error
        raise


async def _run(fn: Callable[..., Awaitable[Any]], call: Call) -> object:
    """A coroutine function here; a blocking one in a thread, so that it holds up nobody."""
    if inspect.iscoroutinefunction(fn):
        return await fn(*call.args, **call.kwargs)
    made, error = await asyncio.to_thread(_landed, call)
    if error is not None:
        raise error
    return await made if inspect.isawaitable(made) else made


def _landed(call: Call) -> tuple[Any, BaseException | None]:
    """In a thread. What it raises is given back: no future takes a StopIteration, and whoever
    waited for one would do so for ever."""
    try:
        return call.fn(*call.args, **call.kwargs), None
    except BaseException as error:
        return None, error


def _is_cancelled(error: BaseException) -> bool:
    """Whether the flow's own task is, and not something that its step waited for."""
    task = asyncio.current_task()
    cancelled = isinstance(error, asyncio.CancelledError)
    return cancelled and task is not None and task.cancelling() > 0
