"""Tags: how names become them."""

from __future__ import annotations

import types
from typing import Any

import pytest

from perdure import Command, Event, Failure, Query, State, Value, snake
from perdure.entities.tagged import wire_twin


class Named(State):
    """Whom the messages below ask."""


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("Withdraw", "withdraw"),
        ("GetBalance", "get_balance"),
        ("HTTPCall", "http_call"),
        ("V2Open", "v2_open"),
        ("already_snake", "already_snake"),
        ("", ""),
    ],
)
def test_snake(name: str, tag: str) -> None:
    assert snake(name) == tag


SAYS = r"^Wrong: a field can't be called 'type', where the wire has .* call it 'kind'$"


@pytest.mark.parametrize("base", [State, Value, Event, Command[Named, None], Query[Named, int]])
def test_a_field_called_type_is_refused_with_what_to_do(base: Any) -> None:
    """Of a failure, too: when its twin on the wire is made."""
    members: dict[str, Any] = {"__annotations__": {"type": "str"}}
    with pytest.raises(TypeError, match=SAYS):
        types.new_class("Wrong", (base,), exec_body=lambda namespace: namespace.update(members))


def test_a_field_of_a_failure_called_type_too() -> None:
    class Wrong(Failure):
        type: str

    with pytest.raises(TypeError, match=SAYS):
        wire_twin(Wrong)


def test_what_else_msgspec_refuses_is_told_as_it_is() -> None:
    with pytest.raises(ValueError, match="eq=False and order=True"):
        types.new_class("Wrong", (State,), {"eq": False, "order": True})
