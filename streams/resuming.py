"""Resuming: what a client sends to give a flow's deferred its value."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from ..entities.address import Address
from ..entities.errors import MalformedMessage
from ..entities.flow import Token
from .token import BadToken, read_token

RESUME = "$resume"
CANCEL = "$cancel"
RETRY = "$retry"
ANSWER = "$answer"
"""The `type` of the payload. No class of a command has a tag like this."""


def resuming(token: Any, value: Any, limit: int) -> tuple[Raw, Address]:
    """The payload, and to whom it goes. Raises MalformedMessage."""
    if not isinstance(token, Token):
        raise MalformedMessage(
            cause=f"resume takes a Token, not {type(token).__name__}: say Token[...](text)"
        )
    try:
        text = f"{token}"
        body = read_token(text)
        data = msgspec.json.encode({"type": RESUME, "token": text, "value": value})
    except BadToken as why:
        raise MalformedMessage(cause=f"the resume token: {why}") from None
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise MalformedMessage(cause=f"the value can't be encoded: {error}") from None
    if len(data) > limit:
        raise MalformedMessage(cause=f"resume: {len(data)} bytes, allowed are {limit}")
    return Raw(data), Address(body.entity, body.id)


RECORDED: msgspec.json.Decoder[None] = msgspec.json.Decoder(type(None))
"""What it is answered with: it is in the log, and no more is to be said."""


def cancelling(key: str) -> Raw:
    """The payload that cancels the flow which the command of that key began."""
    return Raw(msgspec.json.encode({"type": CANCEL, "flow": key}))


def retrying(key: str) -> Raw:
    """The payload that lets that flow go on, if it is parked."""
    return Raw(msgspec.json.encode({"type": RETRY, "flow": key}))
