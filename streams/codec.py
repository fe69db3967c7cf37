"""Bytes and values: size and nesting limits before decoding, canonical hashes after it.

The first byte of a body tells its form: `{` is a plain client's JSON, `[` an envelope. A payload's
hash is taken over the decoded command with defaults left out and keys in a fixed order, so that
another key order, or a new field with a default, is still the same payload.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from typing import Any

import msgspec

from ..entities.canonical import canonical

HASH_BYTES = 16
"""128 bits: a chance collision among 10^12 names is about 10^-15."""

NAMES_KEPT = 1_024
"""Hashes of names kept in memory, 250 KB of usual keys and 2.5 MB of the longest reply subjects:
each is needed when a command is looked up, and again when its outcome is recorded."""

TEXT_CHARS = 500
"""The longest text of an Undecodable: a decoder's may quote a field's name, which may be huge."""


class Undecodable(Exception):
    """Bytes that can't be what they should be; the text says why, without the payload."""


def decode(decoder: msgspec.json.Decoder[Any], data: bytes, *, limit: int, what: str) -> Any:
    """Decode within a size limit (bytes). Raises Undecodable, and nothing else."""
    if len(data) > limit:
        raise Undecodable(f"{what}: {len(data)} bytes, allowed are {limit}")
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Undecodable(f"{what}: {error}"[:TEXT_CHARS]) from None
    except RecursionError:  # msgspec's answer to about 1,000 levels
        raise Undecodable(f"{what}: nested too deeply") from None
    except Exception as error:  # a class's own __post_init__ may raise anything
        raise Undecodable(f"{what}: {type(error).__name__}: {error}"[:TEXT_CHARS]) from None


def digest(data: bytes) -> str:
    """The hash of bytes, as 32 hexadecimal characters."""
    return blake2b(data, digest_size=HASH_BYTES).hexdigest()


@lru_cache(maxsize=NAMES_KEPT)
def name_hash(name: str) -> bytes:
    """The 128-bit hash under which the ledger keeps a name."""
    return blake2b(name.encode(), digest_size=HASH_BYTES).digest()


def payload_hash(message: Any) -> str:
    """The hash of a decoded command: defaults left out, fixed order. Raises Undecodable."""
    try:
        return digest(canonical(message))
    except RecursionError:  # sooner than when it was decoded
        raise Undecodable("the payload: nested too deeply") from None


def raw_hash(data: bytes) -> str:
    """The hash of a payload that can't be decoded."""
    return digest(b"raw:" + data)
