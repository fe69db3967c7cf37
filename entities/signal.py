"""Signal: what every runner that hosts a type is told, at most once.

Nothing of it is kept, so it suits what only saves work or time: "the prices changed, forget what
you have". What must not be missed is a command. Like an event it ignores fields that it does not
know, since sender and hearer are deployed apart.
"""

from __future__ import annotations

from typing import Any, Generic

import msgspec
from typing_extensions import TypeVar, dataclass_transform

from .annotations import name_of, require_wire, resolve, tag_of, type_arguments
from .contract import require_struct
from .naming import Tags, snake
from .state import State

S = TypeVar("S", bound=State)


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Signal(msgspec.Struct, Generic[S], metaclass=Tags, frozen=True, tag=snake):
    """Tells all runners that host entities with state `S` something: `PricesChanged`.

    `class PricesChanged(Signal[Account])`, sent by `cluster.signal`, heard by `cluster.signals`.
    Gotcha: it is volatile. Who isn't there at that moment never hears of it.
    """


def _is_signal(cls: Any) -> bool:
    return isinstance(cls, type) and issubclass(cls, Signal) and cls is not Signal


def hearers_of(cls: Any) -> str:
    """The entity type whose runners a class of signals is for; TypeError for a mistake in it."""
    name = name_of(cls)
    if not _is_signal(cls):
        raise TypeError(f"{name} isn't the class of a signal")
    arguments = type_arguments(cls, Signal)
    state: Any = None if arguments is None else resolve(arguments[0], cls)
    if not (isinstance(state, type) and issubclass(state, State)):
        raise TypeError(f"{name}: write Signal[State], with the state's class")
    require_struct(cls)
    require_wire(cls, name)
    return tag_of(state)
