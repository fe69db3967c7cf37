"""The classes of signals: what they are for, and which mistakes are told."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from perdure import Command, Event, Signal, State
from perdure.entities.signal import S, hearers_of


class Shop(State, tag="corner_shop"):
    pass


class PricesChanged(Signal[Shop]):
    version: int


class Named(Signal["Shop"], tag="flushed"):
    pass


class Base(Signal[S]):
    """Between a signal and its class."""


class Inherited(Base[Shop]):
    pass


class Nobodys(Signal):  # type: ignore[type-arg]  # pyright: ignore[reportMissingTypeArgument]
    pass


class OfAnEvent(Signal[Event]):  # type: ignore[type-var]  # pyright: ignore[reportInvalidTypeArguments]
    pass


class Unfit(Signal[Shop]):
    what: object


class Thawed(Signal[Shop], frozen=False):  # type: ignore[misc]
    pass


class Add(Command[Shop, None]):
    pass


@pytest.mark.parametrize("cls", [PricesChanged, Named, Inherited])
def test_the_type_is_read_from_the_class(cls: Any) -> None:
    assert hearers_of(cls) == "corner_shop"


def test_a_signal_travels_under_its_tag_and_ignores_unknown_fields() -> None:
    assert msgspec.json.encode(PricesChanged(7)) == b'{"type":"prices_changed","version":7}'
    assert msgspec.json.encode(Named()) == b'{"type":"flushed"}'
    newer = b'{"type":"prices_changed","version":7,"currency":"EUR"}'
    assert msgspec.json.decode(newer, type=PricesChanged) == PricesChanged(7)


@pytest.mark.parametrize(
    ("cls", "told"),
    [
        (Signal, "Signal isn't the class of a signal"),
        (Add, "Add isn't the class of a signal"),
        (PricesChanged(1), "PricesChanged(version=1) isn't the class of a signal"),
        (None, "None isn't the class of a signal"),
        (Nobodys, "Nobodys: write Signal[State], with the state's class"),
        (OfAnEvent, "OfAnEvent: write Signal[State], with the state's class"),
        (Thawed, "Thawed isn't frozen: remove frozen=False"),
    ],
)
def test_mistakes_are_told_in_one_line(cls: Any, told: str) -> None:
    with pytest.raises(TypeError) as error:
        hearers_of(cls)
    assert str(error.value) == told
