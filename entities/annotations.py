"""Reading what users annotated: hints, unions, type arguments, and what may go on the wire.

All of it runs when a user's module is imported, so that a mistake shows there, as a TypeError of
one line that names the class at fault, and not on the first message at night.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Any, cast, get_args, get_origin

import msgspec
from msgspec import inspect as wire
from typing_extensions import get_original_bases

_UNDEFINED = "isn't defined when it is imported (under TYPE_CHECKING, or in a function?)"


def hints(of: Any, label: str, *, extras: bool = False) -> dict[str, Any]:
    """The resolved annotations of a class or function; TypeError names one that can't be.

    `extras` keeps what `Annotated` says, such as the bounds that msgspec checks.
    """
    try:
        return typing.get_type_hints(of, include_extras=extras)
    except NameError as error:
        raise TypeError(f"{label}: {error.name!r} {_UNDEFINED}") from None


def members(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, of an alias of one, or the one type itself."""
    while type(annotation).__name__ == "TypeAliasType":
        annotation = annotation.__value__
    if get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(m for arg in get_args(annotation) for m in members(arg))
    return (annotation,)


def type_arguments(cls: Any, base: Any) -> tuple[Any, ...] | None:
    """What `cls` gave for the type parameters of `base`, through generic classes between them.

    None where it gave nothing.
    """
    for parent in get_original_bases(cls):
        origin: Any = get_origin(parent) or parent
        args = get_args(parent)
        if origin is base:
            return args or None
        if isinstance(origin, type) and issubclass(origin, base):
            found = type_arguments(origin, base)
            if found is None:
                return None
            parameters = getattr(origin, "__parameters__", ())
            given: dict[Any, Any] = dict(zip(parameters, args, strict=False))
            return tuple(_substitute(a, given) for a in found)
    return None


def _substitute(annotation: Any, given: dict[Any, Any]) -> Any:
    """The annotation with type parameters replaced, also inside: `list[R]` gives `list[int]`."""
    if annotation in given:
        return given[annotation]
    inside = getattr(annotation, "__parameters__", ())
    return annotation[tuple(given.get(p, p) for p in inside)] if inside else annotation


def resolve(annotation: Any, cls: type) -> Any:
    """A type argument, which may be or contain text, as seen from the module of `cls`."""
    seen: dict[str, Any] = {"__annotations__": {"it": annotation}, "__module__": cls.__module__}
    return hints(type("Seen", (), seen), cls.__name__, extras=True)["it"]


def name_of(thing: Any) -> str:
    """A class's name; anything else as Python shows it."""
    return thing.__name__ if isinstance(thing, type) else str(thing)


def tag_of(cls: Any) -> str:
    """The tag of a struct class."""
    return str(cls.__struct_config__.tag)


def require_wire(annotation: Any, label: str) -> None:
    """TypeError, in one line that begins with `label`, unless values of the type can travel.

    msgspec accepts classes that it does not know and fails on the first value; `str` and `int`
    subclasses decode but don't encode; an exception crashes the interpreter. All are refused here.
    """
    try:
        msgspec.json.Decoder(annotation)
        info = wire.type_info(annotation)
    except NameError as error:
        raise TypeError(f"{label}: {error.name!r} {_UNDEFINED}") from None
    except (TypeError, ValueError) as error:
        raise TypeError(f"{label}: {_one_line(error)}") from None
    for part in _parts(info, set()):
        stranger = _stranger(part)
        if stranger is not None:
            raise TypeError(f"{label}: {_refusal(stranger)}")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _stranger(part: wire.Type) -> type | None:
    if isinstance(part, wire.CustomType):
        return part.cls
    if isinstance(part, wire.DataclassType) and issubclass(part.cls, BaseException):
        return part.cls
    return None


def _refusal(cls: type) -> str:
    for plain in (str, int, float, bytes):
        if issubclass(cls, plain):
            return f"{cls.__name__} can't be encoded, being a subclass of {plain.__name__}: " + (
                f"declare {plain.__name__}"
            )
    if issubclass(cls, BaseException):
        return f"{cls.__name__} is an exception, which can't be decoded: declare a Value"
    return f"{cls.__name__} can't be encoded: declare a Value, or a type that msgspec knows"


def _parts(info: wire.Type, seen: set[type]) -> Iterator[wire.Type]:
    """The type and all that it is made of; a class that contains itself is walked once."""
    cls = getattr(info, "cls", None)
    if isinstance(cls, type):
        if cls in seen:
            return
        seen.add(cls)
    yield info
    for name in info.__struct_fields__:
        value: Any = getattr(info, name)
        for part in cast("tuple[object, ...]", value if isinstance(value, tuple) else (value,)):
            if isinstance(part, wire.Field):
                yield from _parts(part.type, seen)
            elif isinstance(part, wire.Type):
                yield from _parts(part, seen)
