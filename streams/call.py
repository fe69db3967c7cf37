"""One call: an envelope on its way to the owner, its attempts, and the outcome that comes back.

It ends with an `Answer` that holds a reply or a failure, or with a ClusterError, always within its
time. What to do on each answer is decided in `attempts.py`; this is the loop around it: send,
listen, send again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from msgspec import UNSET, Struct

from ..entities.address import Address
from ..entities.errors import (
    ClusterError,
    MailboxFull,
    MalformedMessage,
    RpcClientError,
    SendTimeout,
    SerializationError,
    advice_to,
    with_details,
)
from .alarm import over
from .answers import Answers, Closed, attempt_of
from .asks import Answer, Envelope, decode_answer, encode_envelope
from .attempts import (
    FIRST,
    Attempts,
    Fail,
    Policy,
    Repeat,
    Step,
    costs,
    cut,
    expired,
    forbidden,
    may,
    nobody,
    put_off,
    refused,
    sent,
    unheard,
    unknown_type,
)
from .budget import Budget
from .codec import Undecodable
from .port import Forbidden, Message, Session, Unreachable
from .routes import AGAIN_TIMEOUT_S, NobodyThere, Route, Routes

logger: logging.Logger = logging.getLogger("perdure.client")


class Target(Struct, frozen=True):
    """Whom a call is for, and how it is called in errors and logs."""

    address: Address
    token: str  # the escaped id
    request: str
    key: str | None = None
    trace: str | None = None  # its traceparent

    def keyed(self, key: str | None) -> Target:
        """The same call under a key."""
        return Target(self.address, self.token, self.request, key, self.trace)

    def traced(self, trace: str | None) -> Target:
        """The same call in a span."""
        return Target(self.address, self.token, self.request, self.key, trace)

    def told(self, error: ClusterError) -> ClusterError:
        """The error with this call's address, key and request id."""
        return with_details(
            error,
            address=str(self.address),
            key=self.key,
            request_id=self.request,
            advice=advice_to(self.key, error),
        )


class Shared(Struct, frozen=True):
    """What all calls of one client share."""

    session: Session
    routes: Routes
    budget: Budget


class Call:
    """One call to the owner of an entity's shard. Used once."""

    # As most calls leave them; what isn't set isn't paid for.
    _state = FIRST
    _refresh = False  # ask for the route before
    _paid_at: float | None = None  # when the newest attempt went out, if it cost a token
    _body = b""
    _subject = ""  # where attempts go, since when (loop time), and from which number on
    _since = 0.0
    _first = 1

    def __init__(
        self,
        shared: Shared,
        answers: Answers,
        target: Target,
        policy: Policy,
        timeout_s: float,
        deadline: float | None = None,
    ) -> None:
        """`timeout_s` is what errors tell; `deadline` (loop time), if it began earlier."""
        self._shared = shared
        self._session = shared.session
        self._answers = answers
        self._target = target
        self._policy = policy
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time()  # when to send next
        self._deadline = self._due + timeout_s if deadline is None else deadline
        shared.budget.call()

    def __repr__(self) -> str:
        return f"<Call {self._target.request} to {self._target.address}: {self._state}>"

    async def run(self, envelope: Callable[[Route], Envelope]) -> Answer:
        """Send until there is an outcome: a reply or a failure.

        `envelope` is called once, when the route is known. Raises ClusterError.
        """
        try:
            if self._state is FIRST and not self._try_send(envelope):
                await self._send(envelope)
            answers = self._answers
            while True:
                message = answers.pop()
                if message is None:
                    await answers.wait(min(self._due, self._deadline))
                    message = answers.pop()
                if message is not None:
                    answer = self._take(message)
                    if answer is not None:
                        return answer
                elif over(self._deadline, self._loop.time()):
                    raise self._failed(self._expired())
                elif not self._try_send(envelope):
                    await self._send(envelope)
        except Closed:
            raise self._closed() from None

    async def attach(self, envelope: Callable[[Route], Envelope]) -> Answer:
        """Wait for the outcome of a stored command whose reply goes to attempt 0.

        `envelope` asks for the result: it is sent now and then, in case the reply was lost.
        Raises ClusterError.
        """
        self._state = Attempts(open=frozenset({0}), answered=False)
        self._due += self._policy.repeat_after_s
        return await self.run(envelope)

    def _expired(self) -> ClusterError:
        entity = self._target.address.entity
        return expired(self._state, self._policy, entity, self._timeout_s)

    # -- sending ------------------------------------------------------------------------------
    def _try_send(self, envelope: Callable[[Route], Envelope]) -> bool:
        """One attempt, if there is a way and the time isn't up; False, with nothing done, if the
        route has to be asked for first (`_send`)."""
        self._answers.check()
        now = self._loop.time()
        if over(self._deadline, now):
            return True
        if self._subject:
            self._look_denied()
        if not self._session.connected:
            why = "no connection to the server"
            self._apply(cut(self._state, self._policy, why, self._jitter()))
            return True
        if self._refresh:
            return False
        route = self._shared.routes.current(self._target.address.entity, now)
        if route is None:
            return False
        self._send_on(route, envelope, now)
        return True

    async def _send(self, envelope: Callable[[Route], Envelope]) -> None:
        """One attempt, once it is known where to."""
        route = await self._route()
        if route is not None and not self._answers.held:
            self._send_on(route, envelope, self._loop.time())

    def _send_on(self, route: Route, envelope: Callable[[Route], Envelope], now: float) -> None:
        """One attempt, if it costs nothing, or can be paid for."""
        if not self._body:
            self._make(envelope, route)
        state, policy = self._state, self._policy
        self._paid_at = None
        if costs(state):
            if not self._shared.budget.take(now):
                self._apply(put_off(state, policy, self._jitter()))
                return
            self._paid_at = now
        self._apply(sent(state, policy, self._jitter()))
        self._attempt(route, now)

    def _make(self, envelope: Callable[[Route], Envelope], route: Route) -> None:
        """What is sent, once it is known when its key is made by the runners' clock."""
        made = envelope(route)
        if made.key != self._target.key:
            self._target = self._target.keyed(made.key)
        self._body = encode_envelope(made)
        if len(self._body) > self._session.max_payload:
            raise self._failed(self._too_large())

    def _attempt(self, route: Route, now: float) -> None:
        """Hand the newest attempt to the connection."""
        number, target, sharding = self._state.number, self._target, route.sharding
        if number > 1:
            self._log_repeat()
        token = target.token
        subject = self._session.subjects.ask_shard(
            target.address.entity, sharding.generation, sharding.shard(token), token
        )
        if subject != self._subject:
            self._subject, self._since, self._first = subject, now, number
        self._session.asks.send(subject, self._body, reply=self._answers.subject(number))

    def _look_denied(self) -> None:
        """Whether it is certain by now that nobody got what was sent where attempts go."""
        why = self._session.asks.denied(self._subject, self._since)
        if why is not None:
            lost = frozenset(range(self._first, self._state.number + 1))
            self._apply(forbidden(self._state, self._policy, why, self._jitter(), lost))

    async def _route(self) -> Route | None:
        """Where to send, asked anew; None if that isn't known, and it was decided when to try
        again."""
        entity, routes = self._target.address.entity, self._shared.routes
        known = routes.known(entity)
        left_s = self._deadline - self._loop.time()
        timeout_s = left_s if known is None else min(left_s, AGAIN_TIMEOUT_S)
        self._refresh = False
        try:
            return await routes.ask(entity, timeout_s=timeout_s)
        except Forbidden as error:
            step = forbidden(self._state, self._policy, str(error), self._jitter())
        except NobodyThere:
            step = unknown_type(self._state, self._policy, entity, self._jitter())
        except Unreachable as error:
            if self._session.connected:
                step = unheard(self._state, self._policy, str(error), self._jitter())
            else:
                step = cut(self._state, self._policy, str(error), self._jitter())
        except Undecodable as error:
            unsure = may(self._state, self._policy)
            wrong = SerializationError(cause=str(error), may_have_taken_effect=unsure)
            step = self._state, Fail(wrong)
        if known is None:
            self._apply(step)
        return known

    def _too_large(self) -> MalformedMessage:
        limit = self._session.max_payload
        why = f"{len(self._body)} bytes with its envelope, the server takes {limit}"
        return MalformedMessage(cause=why)

    # -- listening ----------------------------------------------------------------------------
    def _take(self, message: Message) -> Answer | None:
        """The outcome in an answer, if that is what it is. Raises ClusterError."""
        number = attempt_of(message.subject)
        if not 0 <= number <= self._state.number:
            return None
        if message.no_responders:
            self._apply(nobody(self._state, self._policy, number, self._jitter()))
            return None
        try:
            answer = decode_answer(message.data)
            if answer.error is UNSET:
                if self._paid_at is not None:
                    self._give_back(number)
                return answer
            error: ClusterError = ClusterError.decode(bytes(answer.error))
        except Undecodable as undecodable:
            answer, error = Answer(), SerializationError(cause=str(undecodable))
        except SerializationError as undecodable:
            answer, error = Answer(), undecodable
        if isinstance(error, MalformedMessage | SendTimeout):  # for a birth or a deadline?
            self._shared.routes.doubt(self._target.address.entity)
        if answer.seq is not None:  # a recorded verdict: an outcome, from whichever attempt
            raise self._failed(error)
        full = isinstance(error, MailboxFull) and number == self._state.number
        paid = not full or self._shared.budget.take(self._loop.time())
        jitter = self._jitter()
        self._apply(refused(self._state, self._policy, number, error, jitter, may_repeat=paid))
        return None

    def _give_back(self, number: int) -> None:
        """The outcome came: at once after a repeat, in answer to it?"""
        paid_at = self._paid_at
        if paid_at is None or number != self._state.number:
            return
        if self._loop.time() - paid_at <= self._policy.repeat_after_s:
            self._shared.budget.give()

    # -- what was decided ---------------------------------------------------------------------
    def _apply(self, step: Step) -> None:
        """Do what was decided. Raises the ClusterError that ends the call."""
        self._state, action = step
        if isinstance(action, Repeat):
            self._due = self._loop.time() + action.after_s
            if action.refresh:
                self._refresh = True
        elif isinstance(action, Fail):
            raise self._failed(action.error)

    def _failed(self, error: ClusterError) -> ClusterError:
        told = self._target.told(error)
        logger.info(
            "%s to %s ends with %s after %d attempts: %s",
            self._target.request,
            self._target.address,
            told.tag,
            self._state.number,
            told.cause,
            extra={
                "action": "call.failed",
                "address": str(self._target.address),
                "request_id": self._target.request,
                "error": told.tag,
            },
        )
        return told

    def _closed(self) -> ClusterError:
        unsure = may(self._state, self._policy)
        why = "the client was closed"
        return self._failed(RpcClientError(cause=why, may_have_taken_effect=unsure))

    def _log_repeat(self) -> None:
        logger.debug(
            "attempt %d of %s to %s",
            self._state.number,
            self._target.request,
            self._target.address,
            extra={
                "action": "call.repeated",
                "address": str(self._target.address),
                "request_id": self._target.request,
            },
        )

    def _jitter(self) -> float:
        return self._session.entropy.uniform(0.0, 1.0)
