"""Bytes and values: size and nesting limits before decoding, canonical hashes after it.

The first byte of a body tells its form: `{` is a plain client's JSON, `[` an envelope. A payload's
hash is taken over the decoded command with defaults left out and keys in a fixed order, so that
another key order, or a new field with a default, is still the same payload.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any, cast

import msgspec

HASH_BYTES = 16
"""128 bits: a chance collision among 10^12 names is about 10^-15."""

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


def name_hash(name: str) -> bytes:
    """The 128-bit hash under which the ledger keeps a name."""
    return blake2b(name.encode(), digest_size=HASH_BYTES).digest()


def payload_hash(message: Any) -> str:
    """The hash of a decoded command: defaults left out, fixed order. Raises Undecodable."""
    try:
        return digest(_text(message))
    except RecursionError:  # sooner than when it was decoded
        raise Undecodable("the payload: nested too deeply") from None


def _text(value: Any) -> bytes:
    return msgspec.json.encode(_canonical(value), order="deterministic")


def raw_hash(data: bytes) -> str:
    """The hash of a payload that can't be decoded."""
    return digest(b"raw:" + data)


@lru_cache(maxsize=4096)
def _plan(cls: type[msgspec.Struct]) -> tuple[Any, tuple[tuple[str, str, Any, Any], ...]]:
    info = msgspec.structs.fields(cls)
    tag = (cls.__struct_config__.tag_field, cls.__struct_config__.tag)
    return tag, tuple((f.name, f.encode_name, f.default, f.default_factory) for f in info)


def _canonical(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return _canonical_struct(value)
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in cast("list[Any]", value)]
    if isinstance(value, (set, frozenset)):  # msgspec can't sort sets of structs
        items = cast("set[Any]", value)
        return [msgspec.Raw(text) for text in sorted(_text(item) for item in items)]
    if isinstance(value, dict):
        return _canonical_dict(cast("Any", value))
    names = _names(cast("Any", type(value)))
    return {name: _canonical(getattr(value, name)) for name in names} if names else value


def _canonical_struct(value: msgspec.Struct) -> dict[str, Any]:
    (tag_field, tag), plan = _plan(type(value))
    tree: dict[str, Any] = {} if tag_field is None else {tag_field: tag}
    for name, encode_name, default, factory in plan:
        item = getattr(value, name)
        usual = factory() if factory is not msgspec.NODEFAULT else default
        if type(item) is type(usual) and item == usual:
            continue
        tree[encode_name] = _canonical(item)
    return tree


def _canonical_dict(value: dict[Any, Any]) -> dict[str, Any]:
    """With text for keys: msgspec sorts no others."""
    if all(isinstance(key, str) for key in value):
        return {key: _canonical(item) for key, item in value.items()}
    return {_text(key).decode(): _canonical(item) for key, item in value.items()}


@lru_cache(maxsize=4096)
def _names(cls: Any) -> tuple[str, ...]:
    """The fields of a dataclass or attrs class, whose defaults are not left out; else none."""
    if is_dataclass(cls):
        return tuple(f.name for f in fields(cls))
    return tuple(a.name for a in getattr(cls, "__attrs_attrs__", ()))
