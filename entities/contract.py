"""Contract: what one command or query promises, read from its class.

Made once, at import, with the decoders that the codec needs, so that no message pays for reading
annotations, and a type that can't travel is a TypeError of one line before the first message.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Never, Union, cast

import msgspec

from .annotations import (
    hints,
    members,
    name_of,
    require_wire,
    resolve,
    tag_of,
    type_arguments,
)
from .message import Command, Query
from .state import State
from .tagged import Failure, from_wire, wire_twin

NEVER = (Never, typing.NoReturn)
_RESERVED = frozenset({"accept", "reject", "answer", "replace"})
"""Methods of the bases, which a field of the same name would hide."""


@dataclass(frozen=True)
class Contract:
    """What one command or query promises."""

    message: type[msgspec.Struct]
    """Its class."""
    tag: str
    """Its name on the wire."""
    reply: Any
    """The annotation of its reply."""
    failures: tuple[type[Failure], ...]
    """What it may be refused with."""
    writes: bool
    """True for a command, False for a query."""
    reply_decoder: msgspec.json.Decoder[Any] = field(repr=False, compare=False)
    """Decodes a JSON reply."""
    failure_decoder: msgspec.json.Decoder[Any] = field(repr=False, compare=False)
    """Decodes a JSON failure to its wire twin; refuses everything where none is declared."""

    def decode_failure(self, data: bytes | bytearray | memoryview) -> Failure:
        """The declared failure; `msgspec.DecodeError` for anything else."""
        twin: Any = self.failure_decoder.decode(data)
        tag = tag_of(type(twin))
        for failure in self.failures:
            if failure.tag == tag:
                return from_wire(failure, twin)
        raise msgspec.ValidationError(f"{self.tag} declares no failure")


class _Nothing(msgspec.Struct, tag=""):
    """A member of every union that nothing ever is.

    msgspec has no empty union, and decodes the only member of one without its tag, too.
    """

    def __post_init__(self) -> None:
        """Refuse to be decoded."""
        raise ValueError("an empty type")


def contract_of(cls: Any, state: type[State], label: str) -> Contract:
    """The contract of a message class of the entity with that state; TypeError for a mistake."""
    message: type[msgspec.Struct] = cls
    base = _base_of(cls)
    if base is None:
        raise TypeError(
            f"{label} takes {name_of(message)}, which is neither a Command nor a Query"
        )
    of, reply, failures = _arguments(message, base)
    if of is not state:
        kind = f"a {base.__name__} of {name_of(of)}"
        raise TypeError(f"{label} takes {name_of(message)}, {kind}, not of {name_of(state)}")
    require_struct(message)
    require_wire(reply, f"{name_of(message)}: reply")
    declared = () if failures in NEVER else members(failures)
    return Contract(
        message,
        tag_of(message),
        reply,
        declared,
        base is Command,
        msgspec.json.Decoder(reply),
        _failure_decoder(declared, name_of(message)),
    )


def _base_of(cls: Any) -> Any:
    """Command or Query, whichever the class is one of; None for anything else."""
    bases: tuple[Any, ...] = (Command, Query)
    return next((b for b in bases if isinstance(cls, type) and issubclass(cls, b)), None)


def _arguments(message: type, base: Any) -> tuple[Any, Any, Any]:
    """State, reply and failures that a message class gave its base."""
    arguments = type_arguments(message, base)
    if arguments is None:
        more = ", Failures" if base is Command else ""
        raise TypeError(f"{name_of(message)}: write {base.__name__}[State, Reply{more}]")
    resolved = [resolve(a, message) for a in arguments]
    return cast("tuple[Any, Any, Any]", (*resolved, Never)[:3])


def _failure_decoder(declared: Sequence[Any], label: str) -> msgspec.json.Decoder[Any]:
    for failure in declared:
        if not (isinstance(failure, type) and issubclass(failure, Failure)):
            raise TypeError(f"{label}: {name_of(failure)} isn't a Failure")
        if failure is Failure:
            raise TypeError(f"{label}: Failure is the base; declare its own failures")
        require_wire(wire_twin(failure), f"{label}: failures: {name_of(failure)}")
    require_unique([(f.tag, f) for f in declared], f"{label}: failures")
    twins = (*(wire_twin(f) for f in declared), _Nothing)
    return msgspec.json.Decoder(Union[twins])  # noqa: UP007 (built from a tuple)


def require_struct(cls: Any) -> None:
    """TypeError unless the class is frozen, hides no method, and all its data are fields."""
    if not cls.__struct_config__.frozen:
        raise TypeError(f"{cls.__name__} isn't frozen: remove frozen=False")
    for name in cls.__struct_fields__:
        if name in _RESERVED:
            raise TypeError(f"{cls.__name__}: a field can't be called {name!r}")
    for part in cls.__mro__:
        if issubclass(part, msgspec.Struct):
            _require_annotations(part)


def _require_annotations(cls: type) -> None:
    """TypeError for `cents = 5`, which would silently be no field. Constants may be so: `MAX = 5`.

    Methods, properties and classes are no data; private names are the class's own business.
    """
    annotated = inspect.get_annotations(cls)
    for name, value in vars(cls).items():
        plain = not (callable(value) or hasattr(value, "__get__"))
        if plain and not (name.startswith("_") or name.isupper() or name in annotated):
            how = f"write {name}: {type(value).__name__} = ..., or ClassVar"
            raise TypeError(f"{cls.__name__}: {name} has no type, so it is no field: {how}")


def require_unique(tagged: Sequence[tuple[str, Any]], label: str) -> None:
    """TypeError if two classes have the same tag."""
    seen: dict[str, Any] = {}
    for tag, cls in tagged:
        if seen.setdefault(tag, cls) is not cls:
            both = f"{name_of(seen[tag])} and {name_of(cls)}"
            raise TypeError(f"{label} {both} have the same tag {tag!r}")


def decoder_of(classes: Sequence[Any], label: str) -> msgspec.json.Decoder[Any]:
    """The JSON decoder of a union of structs; TypeError names the one that can't travel."""
    for cls in classes:
        require_wire(cls, f"{label}: {name_of(cls)}")
    # One class alone would be decoded without its tag, too; in a union the tag is required.
    return msgspec.json.Decoder(Union[(*classes, _Nothing)])


def parameters(fn: Any, count: int, label: str) -> tuple[list[Any], Any]:
    """The annotations of a handler's parameters (those without a default) and of its result."""
    annotations = hints(fn, label)
    names = [n for n, p in inspect.signature(fn).parameters.items() if p.default is p.empty]
    if len(names) != count or any(n not in annotations for n in [*names, "return"]):
        wanted = {2: "both parameters", 3: "all three parameters"}[count]
        raise TypeError(f"{label}: annotate {wanted} and the result")
    return [annotations[n] for n in names], annotations["return"]
