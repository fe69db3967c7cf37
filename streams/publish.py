"""Publish: storing a tell, until the command stream has it or the caller must be told.

Each attempt carries the same key, so a second copy (an acknowledgement was lost) changes nothing.
"""

from __future__ import annotations

import asyncio
import logging

from ..entities.errors import ClusterError, MalformedMessage, RpcClientError
from .answers import Answers, Closed
from .attempts import ELSEWHERE_S, Fail, Policy, Publishes, Repeat, published
from .call import Target
from .port import Session

logger: logging.Logger = logging.getLogger("perdure.client")


async def publish(
    session: Session,
    answers: Answers,
    target: Target,
    policy: Policy,
    body: bytes,
    timeout_s: float,
) -> int:
    """Store a tell; its sequence in the command stream. Raises ClusterError.

    While there is no connection nothing is tried, within `timeout_s`.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    state = Publishes()
    try:
        while True:
            await _connected(session, answers, deadline, state)
            if len(body) > session.max_payload:
                why = f"{len(body)} bytes with its envelope, the server takes "
                raise MalformedMessage(cause=f"{why}{session.max_payload}")
            answer = await session.commands.publish(target.address, body)
            jitter = session.entropy.uniform(0.0, 1.0)
            state, action = published(state, policy, answer, target.address.entity, jitter)
            match action:
                case Repeat(after_s):
                    _log(target, "tell.repeated", f"again in {after_s:.3f} s: {answer}")
                    await answers.next(loop.time() + after_s)
                case Fail(error):
                    raise error
                case sequence:
                    return sequence
    except Closed:
        gone = RpcClientError(cause="the client was closed", may_have_taken_effect=state.unsure)
        raise _failed(target, gone) from None
    except ClusterError as error:
        raise _failed(target, error) from None


async def _connected(
    session: Session, answers: Answers, deadline: float, state: Publishes
) -> None:
    """Wait until there is a connection. Raises RpcClientError when the time is up."""
    loop = asyncio.get_running_loop()
    answers.check()
    while not session.connected:
        if loop.time() >= deadline:
            raise RpcClientError(
                cause="no connection to the server", may_have_taken_effect=state.unsure
            )
        await answers.next(min(loop.time() + ELSEWHERE_S, deadline))


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
