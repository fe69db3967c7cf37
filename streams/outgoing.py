"""Outgoing: what a caller may send, checked before anything leaves the process.

Everything here raises MalformedMessage, which says that nothing was sent. The owner checks again,
since other clients exist; a caller is told at once, and a tell with a mistake in it isn't stored.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Raw

from ..entities.address import Address
from ..entities.clock import to_ns
from ..entities.contract import Contract, contract_of
from ..entities.duration import Duration, seconds
from ..entities.entropy import Entropy
from ..entities.errors import MalformedMessage
from ..entities.key import is_key
from ..entities.state import State
from .codec import Undecodable, decode
from .subjects import escape
from .topology import LATEST_MS

_encoder = msgspec.json.Encoder()
_MADE = re.compile(r"m-([0-9]{1,15})-[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Wire:
    """A message class: what it promises, and its decoder."""

    contract: Contract
    decoder: msgspec.json.Decoder[Any]


def contract_for(message: Any, state: type[State], *, writes: bool) -> Contract:
    """The contract of a command's (`writes`) or query's class, for entities of that state."""
    return _wire_for(message, state, writes=writes).contract


def _wire_for(message: Any, state: type[State], *, writes: bool) -> Wire:
    try:
        return _wire(message, state, writes)
    except TypeError as error:  # no message of that state, or nothing that could be a class
        raise MalformedMessage(cause=str(error)) from None


@lru_cache(maxsize=4096)
def _wire(message: type, state: type[State], writes: bool) -> Wire:
    contract = contract_of(message, state, f"a reference to {state.__name__}")
    if contract.writes is not writes:
        way = "a query is asked with query()" if writes else "query() takes a Query"
        raise MalformedMessage(cause=f"{contract.message.__name__}: {way}")
    return Wire(contract, msgspec.json.Decoder(message))


def payload_of(
    message: Any, state: type[State], *, writes: bool, limit: int
) -> tuple[Contract, Raw]:
    """A command's (`writes`) or query's contract and JSON, at most `limit` bytes.

    Encoding checks no types, so the bytes are decoded again: what the owner would refuse is
    refused here.
    """
    wire = _wire_for(type(message), state, writes=writes)
    name = wire.contract.tag
    try:
        data = _encoder.encode(message)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise MalformedMessage(cause=f"{name} can't be encoded: {error}") from None
    try:
        decode(wire.decoder, data, limit=limit, what=name)
    except Undecodable as error:
        raise MalformedMessage(cause=str(error)) from None
    return wire.contract, Raw(data)


def token_of(address: Address) -> str:
    """The subject token of an address's id."""
    id: Any = address.id
    if not isinstance(id, str):
        raise MalformedMessage(cause=f"not an id: {repr(id)[:60]} (a str or a Snowflake)")
    try:
        return escape(id)
    except ValueError as error:
        raise MalformedMessage(cause=str(error)) from None


def milliseconds_of(at: object) -> int:
    """A time as Unix milliseconds, never earlier. Raises MalformedMessage."""
    if not isinstance(at, datetime) or at.tzinfo is None:
        raise MalformedMessage(cause=f"at={at!r} isn't a datetime with a time zone"[:120])
    found = max(0, -(-to_ns(at) // 1_000_000))
    if found >= LATEST_MS:
        raise MalformedMessage(cause=f"at={at:%Y-%m-%d}: no timer waits beyond 2261")
    return found


def check_key(key: Any) -> str:
    """A key that a caller gave."""
    if not (isinstance(key, str) and is_key(key)):
        shown = repr(key)[:62]
        why = f"not an idempotency key: {shown} (1-255 characters of A-Z a-z 0-9 : _ -)"
        raise MalformedMessage(cause=why)
    return str(key)


def timeout_of(timeout: Duration) -> float:
    """A timeout in seconds."""
    try:
        return seconds(timeout)
    except (ValueError, TypeError) as error:
        raise MalformedMessage(cause=f"timeout: {error}") from None


# -- keys that the client makes ---------------------------------------------------------------
def made_key(entropy: Entropy, birth_ms: int) -> str:
    """A key for the repeats of one call, which tells when it was made (Unix ms).

    So whoever gets it back in an error may repeat with it, by hand and much later: it is then
    refused as too old rather than executed again.
    """
    return f"m-{birth_ms}-{entropy.token(16)}"


def birth_of(key: str) -> int | None:
    """When a made key was made, Unix ms; None for any other key."""
    match = _MADE.fullmatch(key)
    return None if match is None else int(match.group(1))


def lasting_key(entropy: Entropy) -> str:
    """A key that a caller keeps: it counts like one that the caller gave."""
    return f"t-{entropy.token(16)}"
