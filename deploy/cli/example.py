"""Examples: a command that `perdure dev` can offer to be copied, made from its fields.

Only what a message needs is filled in, with the plainest value of its type. An example that
wouldn't decode is not offered: a field may have constraints that no rule here knows.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import inspect as wire

from ...entities.contract import Contract


def example(contract: Contract) -> str | None:
    """The JSON of a command's fields, without its tag; "" if it needs none, None if unknown."""
    info = wire.type_info(contract.message)
    if not isinstance(info, wire.StructType):
        return None
    fields = _fields(info)
    try:
        contract_decoder = msgspec.json.Decoder(contract.message)
        contract_decoder.decode(msgspec.json.encode({"type": contract.tag, **fields}))
    except msgspec.DecodeError:
        return None
    return msgspec.json.encode(fields).decode() if fields else ""


def _fields(info: wire.StructType) -> dict[str, Any]:
    return {f.encode_name: _value(f.type, f.encode_name) for f in info.fields if f.required}


def _value(info: wire.Type, name: str) -> Any:
    match info:
        case wire.BoolType():
            return True
        case wire.IntType() | wire.FloatType():
            return _number(info)
        case wire.StrType():
            return name
        case wire.DateTimeType():
            return "2030-01-01T00:00:00Z"
        case wire.DateType():
            return "2030-01-01"
        case wire.LiteralType():
            return info.values[0]
        case wire.EnumType():
            return next(iter(info.cls)).value
        case wire.UnionType():
            return _value(info.types[0], name)
        case wire.DictType():
            return {}
        case wire.StructType():
            tag = {} if info.tag_field is None else {info.tag_field: info.tag}
            return {**tag, **_fields(info)}
        case wire.ListType() | wire.VarTupleType() | wire.SetType() | wire.FrozenSetType():
            return []
        case wire.TupleType():
            return [_value(item, name) for item in info.item_types]
        case _:
            return None


def _number(info: wire.IntType | wire.FloatType) -> float:
    for low, step in ((info.ge, 0), (info.gt, 1)):
        if low is not None:
            return low + step
    return 100
