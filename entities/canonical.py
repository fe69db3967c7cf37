"""Canonical text of a value, for hashes: defaults left out, keys and sets in a fixed order.

So another order, or a new field with a default, is still the same value.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from functools import lru_cache
from typing import Any, cast

import msgspec

_encoder = msgspec.json.Encoder(order="deterministic")
_SCALARS = frozenset((str, int, float, bool, type(None)))


def canonical(value: Any) -> bytes:
    """The text. Raises RecursionError, and what msgspec raises for what it can't encode."""
    return _encoder.encode(_tree(value))


@lru_cache(maxsize=4096)
def _plan(cls: type[msgspec.Struct]) -> tuple[Any, tuple[tuple[str, str, Any, Any], ...]]:
    info = msgspec.structs.fields(cls)
    tag = (cls.__struct_config__.tag_field, cls.__struct_config__.tag)
    return tag, tuple((f.name, f.encode_name, f.default, f.default_factory) for f in info)


def _tree(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return _struct(value)
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    if isinstance(value, (list, tuple)):
        return [_tree(item) for item in cast("list[Any]", value)]
    if isinstance(value, (set, frozenset)):  # msgspec can't sort sets of structs
        items = cast("set[Any]", value)
        return [msgspec.Raw(text) for text in sorted(canonical(item) for item in items)]
    if isinstance(value, dict):
        return _dict(cast("Any", value))
    names = _names(cast("Any", type(value)))
    return {name: _tree(getattr(value, name)) for name in names} if names else value


def _struct(value: msgspec.Struct) -> dict[str, Any]:
    (tag_field, tag), plan = _plan(type(value))
    tree: dict[str, Any] = {} if tag_field is None else {tag_field: tag}
    for name, encode_name, default, factory in plan:
        item: object = getattr(value, name)
        kind = type(item)
        usual = factory() if factory is not msgspec.NODEFAULT else default
        if kind is type(usual) and item == usual:
            continue
        tree[encode_name] = item if kind in _SCALARS else _tree(item)
    return tree


def _dict(value: dict[Any, Any]) -> dict[str, Any]:
    """With text for keys: msgspec sorts no others."""
    if all(isinstance(key, str) for key in value):
        return {key: _tree(item) for key, item in value.items()}
    return {canonical(key).decode(): _tree(item) for key, item in value.items()}


@lru_cache(maxsize=4096)
def _names(cls: Any) -> tuple[str, ...]:
    """The fields of a dataclass or attrs class, whose defaults are not left out; else none."""
    if is_dataclass(cls):
        return tuple(f.name for f in fields(cls))
    return tuple(a.name for a in getattr(cls, "__attrs_attrs__", ()))
