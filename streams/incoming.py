"""Incoming: what an answer means, by what the message's class promises.

What can't be read is a SerializationError: for a command it may have taken effect, since an answer
that only this caller can't decode is an answer all the same.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET

from ..entities.contract import Contract
from ..entities.errors import SerializationError
from ..entities.tagged import Failure
from .asks import Answer


def outcome_of(contract: Contract, answer: Answer) -> Any:
    """The reply or the failure in an answer. Raises SerializationError."""
    writes = contract.writes
    if answer.failure is not UNSET:
        try:
            failure: Failure = contract.decode_failure(bytes(answer.failure))
        except Exception as error:  # a failure's own __post_init__ may raise anything
            raise _unreadable(f"{contract.tag}: failure", error, writes) from None
        return failure
    return value_of(contract.reply_decoder, answer, f"{contract.tag}: reply", writes=writes)


def value_of(
    decoder: msgspec.json.Decoder[Any], answer: Answer, what: str, *, writes: bool = False
) -> Any:
    """The decoded reply in an answer. Raises SerializationError."""
    if answer.reply is UNSET:
        raise SerializationError(cause=f"{what}: there is none", may_have_taken_effect=writes)
    try:
        return decoder.decode(answer.reply)
    except Exception as error:  # a class's own __post_init__ may raise anything
        raise _unreadable(what, error, writes) from None


def _unreadable(what: str, error: Exception, writes: bool) -> SerializationError:
    why = f"{what}: {type(error).__name__}: {error}"
    return SerializationError(cause=why, may_have_taken_effect=writes)
