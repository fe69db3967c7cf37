"""Exceptions that travel: typed fields, a tag, and a twin on the wire.

msgspec must never decode into an exception: it builds the object without `BaseException.__new__`,
and the `repr` of the result crashes the interpreter. So each class here has a *wire twin*, a
struct of the same fields that is encoded and decoded in its place. Declared failures (`Failure`)
and the eleven cluster errors (errors.py) stand on the same base, `Tagged`.

The classes are dataclasses, but not frozen ones: Python assigns `__traceback__` and others to a
raised exception, and a frozen one breaks `contextlib.contextmanager`. Their own fields are
read-only all the same.
"""

from __future__ import annotations

import inspect
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, ClassVar, TypeVar, cast

import msgspec
from typing_extensions import dataclass_transform

from .annotations import hints
from .naming import TYPE_FIELD, snake


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
class Tagged(Exception):
    """An exception with typed, read-only fields that survives pickling, copying and the wire.

    Equal when its class and fields are equal; hashable even with a list in a field.
    """

    tag: ClassVar[str] = ""
    """What it is called on the wire and in metrics."""

    def __init_subclass__(cls, *, tag: str | None = None, kw_only: bool = False) -> None:
        """Make the subclass a dataclass; `tag` defaults to the class's name in snake case.

        Raises TypeError for a field with the name of something that every exception has.
        """
        super().__init_subclass__()
        for name in inspect.get_annotations(cls):
            if hasattr(Tagged, name):  # a dataclass would take it for the field's default
                raise TypeError(f"{cls.__name__}: a field can't be called {name!r}")
        cls.tag = snake(cls.__name__) if tag is None else tag
        dataclass(kw_only=kw_only)(cls)
        # dataclass(eq=True) has just set `__hash__` to None.
        setattr(cls, "__hash__", Tagged.__hash__)  # noqa: B010 (mypy refuses a method assigned)

    def __hash__(self) -> int:
        # Equal errors must hash alike, and a field may hold a list: the class is all that's left.
        return hash(type(self))

    def __str__(self) -> str:
        shown = ", ".join(f"{n}={v!r}" for n, v in values_of(self).items() if v is not None)
        return f"{self.tag}({shown})"

    def __reduce__(self) -> tuple[Any, ...]:
        # BaseException's own remembers positional arguments only.
        return _rebuild, (type(self), values_of(self))

    def __setattr__(self, name: str, value: object) -> None:
        if name in self.__dict__ and any(name == f.name for f in fields_of(type(self))):
            raise AttributeError(f"{type(self).__name__}.{name} is read-only")
        super().__setattr__(name, value)


class Failure(Tagged):
    """A declared refusal of the domain: return, raise, match or send it. Fields as in a dataclass.

    A command names the failures that it may end with (`Command[Account, int, InsufficientFunds]`),
    and the type checkers hold `reject` and every `match` on an outcome to that list. `decide` may
    also raise it, which they can't check. A failure is an outcome like any other: recorded once,
    and the same for every repetition of the key.
    """


AnyTagged = TypeVar("AnyTagged", bound=Tagged)


def fields_of(cls: type[Tagged]) -> tuple[Field[Any], ...]:
    """The declared fields, in order."""
    return fields(cast("Any", cls))


def values_of(error: Tagged) -> dict[str, Any]:
    """The values of the declared fields, in order."""
    return {f.name: getattr(error, f.name) for f in fields_of(type(error))}


def _rebuild(cls: type[Tagged], values: dict[str, Any]) -> Tagged:
    return cls(**values)


_twins: dict[type[Tagged], type[msgspec.Struct]] = {}


def wire_twin(cls: type[Tagged]) -> type[msgspec.Struct]:
    """The struct that is encoded and decoded in place of the exception; made on first use.

    Raises TypeError, in one line, when a field can't be on the wire.
    """
    if cls in _twins:
        return _twins[cls]
    annotations = hints(cls, cls.__name__, extras=True)
    members: list[Any] = [(f.name, annotations[f.name], *_default(f)) for f in fields_of(cls)]
    try:
        twin = msgspec.defstruct(
            cls.__name__,
            members,
            tag=cls.tag,
            frozen=True,
            kw_only=True,
            module=cls.__module__,
        )
    except ValueError as error:
        if "tag_field" not in str(error):
            raise TypeError(f"{cls.__name__}: {error}") from None
        raise TypeError(f"{cls.__name__}: {TYPE_FIELD}") from None
    return _twins.setdefault(cls, twin)


def _default(f: Field[Any]) -> tuple[Any, ...]:
    if f.default_factory is not MISSING:
        return (msgspec.field(default_factory=f.default_factory),)
    return () if f.default is MISSING else (f.default,)


def to_wire(error: Tagged) -> msgspec.Struct:
    """The twin of an error, ready to encode."""
    return wire_twin(type(error))(**values_of(error))


def from_wire(cls: type[AnyTagged], twin: msgspec.Struct) -> AnyTagged:
    """The error of a decoded twin."""
    return cls(**{n: getattr(twin, n) for n in twin.__struct_fields__})
