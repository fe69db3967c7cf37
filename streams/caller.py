"""Caller: what all references of one client share, and the ways of a call.

Here a message becomes an envelope and goes one of three ways: to the owner (ask, query, control),
into the command stream (tell), or both (an ask that is stored before it runs). `ref.py` says the
same with types; nothing here is typed by entity.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

from msgspec import Raw, Struct

from ..entities.address import Address
from ..entities.duration import Duration, seconds
from ..entities.errors import ClusterError, MailboxFull
from ..entities.settings import Settings
from .alarm import Alarm
from .answers import Answers
from .asks import NULL, Answer, Envelope, encode_envelope
from .attempts import Effect, Policy
from .budget import Budget
from .call import Call, Shared, Target
from .outgoing import birth_of, lasting_key, made_key, timeout_of, token_of
from .port import Session
from .publish import publish
from .routes import Route, Routes
from .told import Told
from .tracing import Kind, Tracer, about, tracer_of

REQUEST_BYTES = 8
"""Random bytes in a request id: it only has to be unique among the logs of some days."""
ATTACH_S = 3.0
"""How often the caller of a stored ask looks for its outcome, in case the reply was lost. The
owner remembers it, so nothing is gained by asking more often."""


class Way(Struct, frozen=True):
    """How a command is asked."""

    key: str | None = None
    timeout_s: float = 0.0
    durable: bool = False
    wait_suspended: bool = True


class Checking:
    """Inside, a ClusterError gets the details of a call."""

    __slots__ = ("_target",)

    def __init__(self, target: Target) -> None:
        self._target = target

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ClusterError):
            raise self._target.told(error) from None


class Caller:
    """One client's session, settings and memory."""

    def __init__(self, session: Session, settings: Settings) -> None:
        self.session = session
        self.settings = settings
        self.routes: Routes = Routes(session)
        self.budget: Budget = Budget()
        self.told: Told = Told(settings.told_addresses)
        self._shared = Shared(session, self.routes, self.budget)
        self._waiting = self._policy(Effect.COMMAND)
        self._raising = self._policy(Effect.COMMAND, wait_suspended=False)
        self._attaching = self._policy(Effect.RESULT)
        self._reading = self._policy(Effect.NONE)
        self._timeout_s = seconds(settings.ask_timeout)
        self._tracer = tracer_of(settings)
        self._alarm = Alarm()
        self._open: dict[Answers, None] = {}
        self._closed = False

    def __repr__(self) -> str:
        return f"<Caller {len(self._open)} calls open, {self.routes}, {self.told}>"

    # -- the ways -----------------------------------------------------------------------------
    def ask(self, target: Target, payload: Raw, way: Way) -> Coroutine[Any, Any, Answer]:
        """A command's outcome, by the way that is wanted, or that its order needs."""
        told = self.told
        if way.durable or self.settings.ask_via == "stream" or told.may_have_told(target.address):
            return self._ask_stored(target, payload, way)
        after = told.after(target.address)

        def envelope(route: Route) -> Envelope:
            key = way.key
            birth: int | None
            if key is None:
                birth = self._now_ms() + route.offset_ms
                key = made_key(self.session.entropy, birth)
            else:
                birth = birth_of(key)
            request, trace = target.request, target.trace
            return Envelope(
                1, "ask", payload, key, birth, request=request, after=after, trace=trace
            )

        policy = self._waiting if way.wait_suspended else self._raising
        return self._call(target, policy, way.timeout_s, envelope)

    async def _ask_stored(self, target: Target, payload: Raw, way: Way) -> Answer:
        """Store the command, then wait for its outcome."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + way.timeout_s
        key = way.key or lasting_key(self.session.entropy)
        target = target.keyed(key)
        policy = Policy(
            effect=Effect.COMMAND,
            repeat_after_s=ATTACH_S,
            transient=self.settings.transient_retry,
            stored=True,
            wait_suspended=way.wait_suspended,
        )
        with self._answers() as answers:
            reply_to = answers.subject(0)
            await self._store(target, payload, answers, way.timeout_s, reply_to)
            call = Call(self._shared, answers, target, policy, way.timeout_s, deadline)
            answer = await call.attach(self._result_envelope(target, deadline, payload))
        return self._saw(target, answer)

    async def wake(self, target: Target, payload: Raw) -> Answer:
        """Bring a flow what it waits for: stored first. Where its entity's mailbox is full it goes
        to the owner at once, since what fills it may wait for that flow."""
        key = lasting_key(self.session.entropy)
        try:
            return await self.ask(target, payload, Way(key, self._timeout_s, durable=True))
        except MailboxFull:
            return await self._wake_at_once(target.keyed(key), payload)

    async def _wake_at_once(self, target: Target, payload: Raw) -> Answer:
        """Not after this client's tells, which may be what fills the mailbox."""

        def envelope(_: Route) -> Envelope:
            return Envelope(
                1, "ask", payload, key=target.key, request=target.request, trace=target.trace
            )

        return await self._call(target, self._waiting, self._timeout_s, envelope)

    async def tell(self, target: Target, payload: Raw, at_ms: int | None = None) -> None:
        """Store a command, for a time if one is given; on return it can't be lost any more."""
        with self._answers() as answers:
            timeout_s = self._timeout_s
            await self._store(target, payload, answers, timeout_s, None, at_ms)

    async def query(
        self, target: Target, payload: Raw, *, fresh: bool, timeout_s: float
    ) -> Answer:
        """A query's answer, never from before what this client has seen."""
        seen = self.told.seen(target.address)
        fresh = fresh or self.told.may_have_seen(target.address)

        def envelope(route: Route) -> Envelope:
            return Envelope(
                *(1, "ask", payload),
                request=target.request,
                seen=seen,
                fresh=fresh,
                trace=target.trace,
            )

        return await self._call(target, self._reading, timeout_s, envelope)

    async def result(self, target: Target, payload: Raw = NULL, *, timeout_s: float) -> Answer:
        """The recorded or future outcome of the key.

        With the command as `payload`, MalformedMessage if the owner doesn't take that one, or the
        key is another's.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        envelope = self._result_envelope(target, deadline, payload)
        return await self._call(target, self._attaching, timeout_s, envelope)

    async def control(
        self,
        target: Target,
        kind: Literal["status", "state", "flows"],
        payload: Raw = NULL,
        *,
        timeout_s: float | None = None,
    ) -> Answer:
        """What the owner says of the entity, never from before what this client has seen."""
        seen = self.told.seen(target.address)
        fresh = self.told.may_have_seen(target.address)

        def envelope(route: Route) -> Envelope:
            return Envelope(1, kind, payload, request=target.request, seen=seen, fresh=fresh)

        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        return await self._call(target, self._reading, timeout_s, envelope)

    # -- parts --------------------------------------------------------------------------------
    def target(self, address: Address, key: str | None = None) -> Target:
        """A new call's name. Raises MalformedMessage for an id that can't be one."""
        request = f"r-{self.session.entropy.token(REQUEST_BYTES)}"
        try:
            return Target(address, token_of(address), request, key)
        except ClusterError as error:
            raise Target(address, "", request, key).told(error) from None

    def span(
        self, way: str, kind: Kind, target: Target, tag: str
    ) -> AbstractContextManager[Target]:
        """A span around a call, where calls are traced; the call in it."""
        if self._tracer is None:
            return nullcontext(target)
        return self._span(self._tracer, f"{way} {target.address.entity}.{tag}", kind, target)

    @contextmanager
    def _span(self, tracer: Tracer, name: str, kind: Kind, target: Target) -> Generator[Target]:
        more: dict[str, str | int] = {} if target.key is None else {"perdure.key": target.key}
        attributes = {**about(target.address), "perdure.request": target.request, **more}
        with tracer.span(name, kind, attributes) as trace:
            yield target.traced(trace)

    @property
    def closed(self) -> bool:
        """Whether no call can begin any more."""
        return self._closed

    @property
    def traces(self) -> bool:
        """Whether calls are traced."""
        return self._tracer is not None

    def checking(self, target: Target) -> Checking:
        """What is refused inside is told with the call's details."""
        return Checking(target)

    def timeout_s(self, timeout: Duration | None) -> float:
        """A call's timeout in seconds. Raises MalformedMessage."""
        return self._timeout_s if timeout is None else timeout_of(timeout)

    def close(self) -> None:
        """End all open calls, and let no new ones begin."""
        self._closed = True
        self.routes.close()
        for answers in list(self._open):
            answers.stop()
        self._alarm.close()

    async def _call(
        self,
        target: Target,
        policy: Policy,
        timeout_s: float,
        envelope: Callable[[Route], Envelope],
    ) -> Answer:
        with self._answers() as answers:
            answer = await Call(self._shared, answers, target, policy, timeout_s).run(envelope)
        return self._saw(target, answer)

    async def _store(
        self,
        target: Target,
        payload: Raw,
        answers: Answers,
        timeout_s: float,
        reply_to: str | None,
        at_ms: int | None = None,
    ) -> None:
        key = target.key or ""
        envelope = Envelope(
            1,
            "tell",
            payload,
            key=key,
            birth=birth_of(key),
            request=target.request,
            reply_to=reply_to,
            trace=target.trace,
            at=at_ms,
        )
        policy = self._waiting
        body = encode_envelope(envelope)
        sequence = await publish(
            self.session, self.routes, answers, target, policy, body, timeout_s
        )
        if sequence is not None:  # else it has its answer, and what comes next is after it
            self.told.tell(target.address, sequence)

    def _result_envelope(
        self, target: Target, deadline: float, payload: Raw = NULL
    ) -> Callable[[Route], Envelope]:
        """Asks for the outcome of the key; the owner waits until `deadline` (loop time).

        With the command as `payload`, the outcome of another one under that key is refused.
        """
        loop = asyncio.get_running_loop()

        def envelope(route: Route) -> Envelope:
            left_ms = round(1000 * (deadline - loop.time()))
            return Envelope(
                1,
                "result",
                payload,
                key=target.key,
                request=target.request,
                deadline=self._now_ms() + route.offset_ms + left_ms,
            )

        return envelope

    def _saw(self, target: Target, answer: Answer) -> Answer:
        if answer.seq is not None:
            self.told.see(target.address, answer.seq)
        return answer

    def _policy(self, effect: Effect, *, wait_suspended: bool = True) -> Policy:
        settings = self.settings
        return Policy(
            effect=effect,
            repeat_after_s=seconds(settings.ask_repeat_after),
            transient=settings.transient_retry,
            wait_suspended=wait_suspended,
        )

    def _now_ms(self) -> int:
        return self.session.clock.now_ns() // 1_000_000

    def _answers(self) -> Answers:
        """One call's inbox, ended with the client."""
        answers = Answers(self.session.asks, self._alarm, self._open.pop)
        self._open[answers] = None
        if self._closed:
            answers.stop()
        return answers
