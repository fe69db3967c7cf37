"""Ref: one entity, as its callers see it.

The type checkers know from it which commands the entity takes, and from each command what comes
back; `caller.py` does the work.
"""

# ruff: noqa: ASYNC109 (a call's time is part of what it promises, also on repeats)
from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import Any, Generic, Literal, cast

import msgspec
from typing_extensions import TypeVar

from ..entities.address import Address
from ..entities.contract import Contract
from ..entities.duration import Duration
from ..entities.errors import ClusterError, MalformedMessage
from ..entities.key import IdempotencyKey
from ..entities.message import Command, Query
from ..entities.state import State
from ..entities.status import EntityStatus
from ..entities.tagged import Failure
from .asks import NULL, Answer, raw
from .call import Target
from .caller import Caller, Way
from .incoming import outcome_of, value_of
from .outgoing import check_key, contract_for, lasting_key, milliseconds_of, payload_of
from .resuming import RECORDED, cancelling

S = TypeVar("S", bound=State)
R = TypeVar("R")
E = TypeVar("E", bound=Failure)


class _Status(EntityStatus, frozen=True, kw_only=True):
    """A status and the runner that told it."""

    runner: str = ""


_statuses = msgspec.json.Decoder(_Status)


class Ref(Generic[S]):
    """One entity, as its callers see it: `cluster.at(Account, "a-1")`. Cheap; make one a call.

    Every call raises a ClusterError within its time, and nothing else but, where said, a declared
    failure. Calls of one client to one entity, each awaited with success before the next, take
    effect in that order.
    """

    address: Address
    """Which entity."""

    def __init__(
        self, caller: Caller, of: type[S], address: Address, runner_id: str | None
    ) -> None:
        """Made by `Cluster.at`."""
        self.address = address
        self._caller = caller
        self._of = of
        self._runner_id = runner_id

    def __repr__(self) -> str:
        return f"<Ref {self.address}>"

    async def ask(
        self,
        command: Command[S, R, Any],
        *,
        key: str | None = None,
        timeout: Duration | None = None,
        durable: bool = False,
        on_suspend: Literal["wait", "raise"] = "wait",
    ) -> R:
        """The reply. Raises the declared failure, or a ClusterError.

        `key` names the intention: the same key with the same command always gets the outcome
        recorded first. Without one the client makes a key for its own repeats, told in errors.
        `timeout` is for the whole call (`Settings.ask_timeout` if None). `durable` stores the
        command before it runs, so that it happens even if everybody crashes now. A suspended
        flow's outcome is waited for, or `Suspended` is raised at once.

        Gotcha: an error with `may_have_taken_effect` means just that. Repeat with the same key.
        """
        outcome = await self._outcome(command, key, timeout, durable, on_suspend)
        if isinstance(outcome, Failure):
            raise outcome
        return cast("R", outcome)

    async def outcome(
        self,
        command: Command[S, R, E],
        *,
        key: str | None = None,
        timeout: Duration | None = None,
        durable: bool = False,
        on_suspend: Literal["wait", "raise"] = "wait",
    ) -> R | E:
        """The reply or the declared failure, to `match`. Otherwise as `ask`.

        Raises a ClusterError.
        """
        return cast("R | E", await self._outcome(command, key, timeout, durable, on_suspend))

    async def tell(
        self, command: Command[S, Any, Any], *, key: str | None = None, at: datetime | None = None
    ) -> IdempotencyKey:
        """Returns when the stream has it: it can't be lost any more. The key is for `result`.

        It takes effect after all tells stored before it; with `at`, a time with a time zone, not
        before that, by the server's clock: until then it waits like a flow, also while no server
        runs, and `cancel(key)` ends it. Up to the year 2261; a time that has passed is now.

        Raises MailboxFull, SendTimeout, RunnerNotRegistered if no runner ever hosted the type,
        MalformedMessage for a time that can't be, or another ClusterError.
        """
        target = self._target(key)
        with self._caller.checking(target):
            contract, payload = self._payload(command, writes=True)
            at_ms = None if at is None else milliseconds_of(at)
        if target.key is None:
            target = target.keyed(lasting_key(self._caller.session.entropy))
        with self._caller.span("tell", "producer", target, contract.tag) as call:
            await self._caller.tell(call, payload, at_ms)
        return IdempotencyKey(target.key or "")

    async def query(
        self, query: Query[S, R], *, fresh: bool = False, timeout: Duration | None = None
    ) -> R:
        """Read, from the owner's memory, never from before what this client has seen.

        `fresh=True` is linearizable: the owner asks the log's leader whether something newer is
        there. Raises a ClusterError.
        """
        target = self._target()
        with self._caller.checking(target):
            contract, payload = self._payload(query, writes=False)
            timeout_s = self._caller.timeout_s(timeout)
        with self._caller.span("query", "client", target, contract.tag) as call:
            answer = await self._caller.query(call, payload, fresh=fresh, timeout_s=timeout_s)
            return cast("R", self._read(target, contract, answer))

    async def result(
        self, command: type[Command[S, R, Any]], key: str, *, timeout: Duration | None = None
    ) -> R:
        """The recorded or future reply of an earlier `ask` or `tell`; raises like `ask`.

        Gotcha: a key that was never used and one that is forgotten look alike: SendTimeout.
        """
        target = self._target(key)
        with self._caller.checking(target):
            contract = contract_for(command, self._of, writes=True)
            timeout_s = self._caller.timeout_s(timeout)
        answer = await self._caller.result(target, timeout_s=timeout_s)
        outcome = self._read(target, contract, answer)
        if isinstance(outcome, Failure):
            raise outcome
        return cast("R", outcome)

    async def cancel(self, key: str) -> None:
        """End the flow that the command with this key began: what its steps did is undone, newest
        first. Returns when that is recorded; it is done by itself.

        A flow that has ended, or never began, is left alone. Who waits for its outcome gets
        RpcClientError. Raises MalformedMessage for what isn't a key, or another ClusterError.
        """
        target = self._target()
        with self._caller.checking(target):
            payload = cancelling(check_key(key))
        with self._caller.span("cancel", "client", target, "flow") as call:
            answer = await self._caller.wake(call, payload)
        with self._caller.checking(target):
            value_of(RECORDED, answer, "cancel")

    async def status(self, *, timeout: Duration | None = None) -> EntityStatus:
        """What the entity is doing, as its owner says. Raises a ClusterError."""
        told = await self._status(timeout)
        return EntityStatus(told.status, told.updated_at, told.version)

    async def state(
        self,
        *,
        version: int | None = None,
        time: datetime | None = None,
        timeout: Duration | None = None,
    ) -> S:
        """The state now, at a version, or at a time: the fold of the events up to it.

        Raises MalformedMessage for a version that isn't there yet, for a time without a time
        zone, and for both at once; or another ClusterError.
        """
        target = self._target()
        with self._caller.checking(target):
            past = _past(version, time)
            timeout_s = self._caller.timeout_s(timeout)
        answer = await self._caller.control(target, "state", past, timeout_s=timeout_s)
        with self._caller.checking(target):
            return cast("S", value_of(_states(self._of), answer, "state"))

    async def is_local(self) -> bool:
        """Whether the entity's owner is the runner in this very process. Raises a ClusterError."""
        if self._runner_id is None:
            return False
        return (await self._status()).runner == self._runner_id

    # -- parts --------------------------------------------------------------------------------
    async def _outcome(
        self,
        command: Command[S, Any, Any],
        key: str | None,
        timeout: Duration | None,
        durable: bool,
        on_suspend: Literal["wait", "raise"],
    ) -> Any:
        target, caller = self._target(key), self._caller
        try:  # as `checking` does, whose object would be made twice for each ask
            contract, payload = self._payload(command, writes=True)
            timeout_s = caller.timeout_s(timeout)
        except ClusterError as error:
            raise target.told(error) from None
        way = Way(target.key, timeout_s, durable, on_suspend == "wait")
        if not caller.traces:
            return self._read(target, contract, await caller.ask(target, payload, way))
        with caller.span("ask", "client", target, contract.tag) as call:
            return self._read(target, contract, await caller.ask(call, payload, way))

    async def _status(self, timeout: Duration | None = None) -> _Status:
        target = self._target()
        with self._caller.checking(target):
            timeout_s = self._caller.timeout_s(timeout)
        answer = await self._caller.control(target, "status", timeout_s=timeout_s)
        with self._caller.checking(target):
            return cast("_Status", value_of(_statuses, answer, "status"))

    def _target(self, key: str | None = None) -> Target:
        target = self._caller.target(self.address)
        if key is None:
            return target
        with self._caller.checking(target):
            return target.keyed(check_key(key))

    def _payload(self, message: Any, *, writes: bool) -> tuple[Contract, msgspec.Raw]:
        limit = self._caller.settings.max_payload_bytes
        return payload_of(message, self._of, writes=writes, limit=limit)

    def _read(self, target: Target, contract: Contract, answer: Answer) -> Any:
        try:
            return outcome_of(contract, answer)
        except ClusterError as error:
            raise target.told(error) from None


@lru_cache(maxsize=1024)
def _states(of: type[State]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(of)


def _past(version: Any, time: Any) -> msgspec.Raw:
    """What `state` asks the owner for. Raises MalformedMessage."""
    if version is None and time is None:
        return NULL
    if version is not None and time is not None:
        raise MalformedMessage(cause="state: a version or a time, not both")
    if version is not None:
        if type(version) is not int or version < 0:
            raise MalformedMessage(cause=f"state: version {version!r} isn't 0 or more")
        return raw({"version": version})
    if not isinstance(time, datetime) or time.tzinfo is None:
        raise MalformedMessage(cause=f"state: {time!r} isn't a datetime with a time zone")
    return raw({"time": time})
