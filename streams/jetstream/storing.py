"""Storing: publishing what a stream acknowledges, and what it means that it didn't."""

from __future__ import annotations

import logging

from ..port import DENIED, Appended, Message, NoAck, Refused
from .connection import Connection, Publish
from .errors import TOO_LARGE, Denied, Lost, TooLarge, publish_answer
from .replies import Result

logger: logging.Logger = logging.getLogger("perdure.jetstream")


async def answered(connection: Connection, *publishes: Publish) -> Message | Refused | NoAck:
    """Publish some messages in a row; the server's answer to the last, or why there is none."""
    try:
        return told(await connection.publish(*publishes))
    except TooLarge as error:
        return Refused(TOO_LARGE, str(error))


def told(result: Result) -> Message | Refused | NoAck:
    """What came of a publish, in the port's words."""
    if isinstance(result, Lost):
        return NoAck(result.why)
    if isinstance(result, Denied):
        return Refused(DENIED, result.why)
    return result


async def stored(connection: Connection, stream: str, subject: str, data: bytes) -> bool:
    """Publish; whether the stream confirmed. Why not is in the log."""
    result = await answered(connection, Publish(subject, data))
    if isinstance(result, (Refused, NoAck)):
        logger.warning("not stored at %s: %s", subject, result.why)
        return False
    if result.no_responders:
        logger.warning("not stored at %s: %s doesn't exist, or has no leader", subject, stream)
        return False
    answer = publish_answer(result.data, stream=stream)
    if not isinstance(answer, Appended):
        logger.warning("not stored at %s: %s", subject, answer)
    return isinstance(answer, Appended)
