"""Publish: storing a tell, until the command stream has it or the caller must be told.

Each attempt carries the same key, so a second copy (an acknowledgement was lost) changes nothing.
"""

from __future__ import annotations

import asyncio
import logging

from ..entities.errors import ClusterError, MalformedMessage, RpcClientError
from .alarm import over
from .answers import Answers, Closed
from .attempts import ELSEWHERE_S, Fail, Policy, Publishes, Repeat, published, unpublished
from .call import Target
from .codec import Undecodable
from .port import NoAck, NoStream, PublishAnswer, Session, Unreachable
from .routes import AGAIN_TIMEOUT_S, NobodyThere, Routes

logger: logging.Logger = logging.getLogger("perdure.client")


async def publish(
    session: Session,
    routes: Routes,
    answers: Answers,
    target: Target,
    policy: Policy,
    body: bytes,
    timeout_s: float,
) -> int | None:
    """Store a tell within `timeout_s`; its sequence in the command stream. Raises ClusterError.

    None if the owner answers it already: an unacknowledged try was stored, nobody said where. The
    answer stays in `answers`. While there is no connection nothing is tried.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    state = Publishes()
    try:
        while True:
            await _ready(session, answers, deadline, state, timeout_s)
            if answers.held:
                return None
            if len(body) > session.max_payload:
                why = f"{len(body)} bytes with its envelope, the server takes "
                raise MalformedMessage(cause=f"{why}{session.max_payload}")
            answer = await _try(session, target, body, deadline)
            jitter = session.entropy.uniform(0.0, 1.0)
            entity = target.address.entity
            hosted = isinstance(answer, NoStream) and await _hosted(routes, entity, deadline)
            state, action = published(state, policy, answer, entity, jitter, hosted=hosted)
            match action:
                case Repeat(after_s):
                    _log(target, "tell.repeated", f"again in {after_s:.3f} s: {answer}")
                    await answers.wait(min(loop.time() + after_s, deadline))
                case Fail(error):
                    if not answers.held:
                        raise error
                case sequence:
                    return sequence
    except Closed:
        gone = RpcClientError(cause="the client was closed", may_have_taken_effect=state.unsure)
        raise _failed(target, gone) from None
    except ClusterError as error:
        raise _failed(target, error) from None


async def _hosted(routes: Routes, entity: str, deadline: float) -> bool:
    """Whether the type is known to have a stream."""
    if routes.known(entity) is not None:
        return True
    left_s = deadline - asyncio.get_running_loop().time()
    try:
        await routes.ask(entity, timeout_s=max(0.0, min(left_s, AGAIN_TIMEOUT_S)))
    except (NobodyThere, Unreachable, Undecodable):
        return False
    return True


async def _ready(
    session: Session, answers: Answers, deadline: float, state: Publishes, timeout_s: float
) -> None:
    """Wait until a try can be made, or is needless. Raises ClusterError when the time is up."""
    loop = asyncio.get_running_loop()
    while not answers.held:
        answers.check()
        late = over(deadline, loop.time())
        if session.connected:
            if late:
                raise unpublished(state, timeout_s)
            return
        if late:
            raise RpcClientError(
                cause="no connection to the server", may_have_taken_effect=state.unsure
            )
        await answers.wait(min(loop.time() + ELSEWHERE_S, deadline))


async def _try(session: Session, target: Target, body: bytes, deadline: float) -> PublishAnswer:
    """One try. An acknowledgement that comes after the call's time is as good as none."""
    try:
        async with asyncio.timeout_at(deadline):
            return await session.commands.publish(target.address, body)
    except TimeoutError:
        return NoAck("no acknowledgement within the call's time")


def _failed(target: Target, error: ClusterError) -> ClusterError:
    told = target.told(error)
    _log(target, "call.failed", f"ends with {told.tag}: {told.cause}")
    return told


def _log(target: Target, action: str, what: str) -> None:
    logger.log(
        logging.INFO if action == "call.failed" else logging.DEBUG,
        "%s to %s: %s",
        target.request,
        target.address,
        what,
        extra={
            "action": action,
            "address": str(target.address),
            "request_id": target.request,
        },
    )
