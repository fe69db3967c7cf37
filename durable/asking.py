"""Asking: what a flow asks of other entities, and how their outcomes come back.

A question is a tell to the other entity, under a key of its own, with a token in the place of a
reply subject. Whoever owns that entity stores the recorded outcome as a tell to the one that
asked, at once. Should it end before, a timer of the asking flow asks again, and it is found.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

import msgspec
from msgspec import UNSET

from ..entities.address import Address
from ..entities.flowrun import flow_key
from ..entities.record import Asked
from ..entities.settings import Settings
from ..streams.asks import Envelope, decode_answer, encode_envelope
from ..streams.chain import Chain, link, longer
from ..streams.codec import Undecodable, digest
from ..streams.port import Appended, Full, NoAck, PublishAnswer, Session, Unreachable
from ..streams.subjects import escape
from ..streams.token import ASK, BadToken, Tokens
from ..streams.tracing import tracer_of
from .answers import FLOW
from .secret import resume_secrets
from .spans import asking
from .waker import AnswerCame

logger: logging.Logger = logging.getLogger("perdure.flow")

AGAIN_S = 0.25
AGAIN_MAX_S = 5.0
TRIES = 10
"""Between tries to store something, in seconds, and how many there are: then a timer does it."""

ANSWER_S = 2.0
"""How long the owner may take to say that it has something, in seconds."""

ASK_AGAIN_S = 5.0
ASK_AGAIN_MAX_S = 3600.0
"""After how long a question without an answer is asked again, in seconds, at least and at most. It
is only for what was lost with its process."""
ASK_AGAIN_SHARE = 0.5
"""Between those, after so much of the time that the flow has waited: whoever answers late is not
asked much more often than he needs, and what was lost again costs not much more of that time."""


async def deliver(session: Session, address: Address, envelope: Envelope) -> bool:
    """Bring a flow what it waits for: by its command stream, or where its mailbox is full, to its
    owner at once, since what fills it may wait for that flow. Whether it is known to be there."""
    body = encode_envelope(envelope)
    asked = encode_envelope(msgspec.structs.replace(envelope, kind="ask"))
    for attempt in range(1, TRIES + 1):
        stored = await session.commands.publish(address, body)
        if isinstance(stored, Appended):
            return True
        if isinstance(stored, Full) and await _taken(session, address, asked):
            return True
        await asyncio.sleep(min(AGAIN_MAX_S, AGAIN_S * attempt))
    logger.warning("%s can't be told yet", address, extra={"action": "flow.not_told"})
    return False


async def _taken(session: Session, address: Address, body: bytes) -> bool:
    """Whether the owner took it, by an ask."""
    subject = session.subjects.ask(address.entity, escape(address.id))
    try:
        answer = await session.asks.request(subject, body, timeout_s=ANSWER_S)
        return not answer.no_responders and decode_answer(answer.data).error is UNSET
    except (Unreachable, Undecodable):
        return False


def again_ms(waited_ms: int) -> int:
    """In how many milliseconds to ask again who has not answered for so long."""
    most_ms = min(int(ASK_AGAIN_MAX_S * 1000), int(waited_ms * ASK_AGAIN_SHARE))
    return max(int(ASK_AGAIN_S * 1000), most_ms)


class Asking:
    """A runner's questions and answers."""

    def __init__(self, session: Session, settings: Settings, tokens: Tokens | None) -> None:
        """Without `tokens` they are made when they are needed: a type may have no flows."""
        self._session, self._settings, self._tokens = session, settings, tokens
        self._tracer = tracer_of(settings)
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"Asking({len(self._tasks)} on their way)"

    @property
    def busy(self) -> bool:
        """Whether anything is on its way."""
        return bool(self._tasks)

    def ask(
        self, address: Address, flow: str, asked: Asked, chain: Chain, trace: str | None = None
    ) -> None:
        """Ask in the name of a flow, for which others wait; how often doesn't matter."""
        assert self._tokens is not None, "a type with flows has tokens"
        token = self._tokens.of_ask(address, flow, asked)
        key = flow_key(address, flow, f"{ASK}{asked.name} {asked.nonce}")
        with asking(self._tracer, address, asked, trace) as span:
            envelope = Envelope(
                *(1, "tell", asked.command, key),
                reply_to=f"{FLOW}{token}",
                trace=span,
                chain=longer(chain, link(address, flow)),
            )
        self._spawn(self._store(Address(asked.entity, asked.id), envelope))

    def push(self, reply: str, data: bytes) -> None:
        """Bring an outcome to the flow that waits for it, if that is genuine."""
        self._spawn(self._push(reply.removeprefix(FLOW), data))

    async def _push(self, token: str, data: bytes) -> None:
        if self._tokens is None:
            secrets = await resume_secrets(self._session, self._settings)
            self._tokens = Tokens(secrets, self._session.subjects.namespace)
        try:
            body = self._tokens.genuine(token)
            answer = decode_answer(data)
        except (BadToken, Undecodable) as error:
            logger.warning("no flow is answered: %s", error, extra={"action": "reply.forbidden"})
            return
        payload = msgspec.json.encode(AnswerCame(token, answer))
        key = f"answer-{digest(token.encode())}"
        envelope = Envelope(1, "tell", msgspec.Raw(payload), key)
        await deliver(self._session, Address(body.entity, body.id), envelope)

    async def stop(self) -> None:
        """What isn't stored yet is asked again later."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _store(self, address: Address, envelope: Envelope) -> None:
        body = encode_envelope(envelope)
        for attempt in range(1, TRIES + 1):
            answer: PublishAnswer = await self._session.commands.publish(address, body)
            match answer:
                case Appended():
                    return
                case Full() | NoAck():
                    await asyncio.sleep(min(AGAIN_MAX_S, AGAIN_S * attempt))
                case _:  # nobody hosts it yet
                    await asyncio.sleep(AGAIN_MAX_S)
        logger.warning("%s can't be told yet", address, extra={"action": "flow.not_told"})

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
