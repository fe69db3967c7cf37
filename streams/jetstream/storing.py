"""Storing something of which only matters whether the server confirmed it."""

from __future__ import annotations

import logging

from ..port import Appended
from .connection import Connection
from .errors import Denied, Lost, TooLarge, publish_answer
from .messages import no_responders

logger: logging.Logger = logging.getLogger("perdure.jetstream")


async def stored(connection: Connection, stream: str, subject: str, data: bytes) -> bool:
    """Publish; whether the stream confirmed. Why not is in the log."""
    try:
        result = await connection.publish(subject, data)
    except TooLarge as error:
        logger.warning("not stored at %s: %s", subject, error)
        return False
    if isinstance(result, (Lost, Denied)):
        logger.warning("not stored at %s: %s", subject, result.why)
        return False
    if no_responders(result):
        logger.warning("not stored at %s: %s doesn't exist, or has no leader", subject, stream)
        return False
    answer = publish_answer(result.data, stream=stream)
    if not isinstance(answer, Appended):
        logger.warning("not stored at %s: %s", subject, answer)
    return isinstance(answer, Appended)
