"""State, value, event, command, query: frozen, tagged, strict where it matters."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from perdure import Command, Decision
from tests.bank import (
    Account,
    Balance,
    Deposit,
    Deposited,
    GetBalance,
    InsufficientFunds,
    Withdraw,
)


class Renamed(Command[Account, int], tag="old_name"):
    cents: int


@pytest.mark.parametrize("thing", [Withdraw(5), Deposited(5), Balance(5), Account(5)])
def test_frozen_and_hashable_by_default(thing: Any) -> None:
    name = thing.__struct_fields__[0]
    with pytest.raises(AttributeError):
        setattr(thing, name, 6)
    assert hash(thing) == hash(type(thing)(5))


def test_tagged_by_default() -> None:
    assert msgspec.json.encode(Withdraw(5)) == b'{"type":"withdraw","cents":5}'
    assert msgspec.json.encode(Renamed(5)) == b'{"type":"old_name","cents":5}'
    assert msgspec.json.encode(Account(5)) == b'{"type":"account","balance":5,"held":0}'


def test_union_of_generic_structs_decodes() -> None:
    decoder = msgspec.json.Decoder(Withdraw | Deposit)
    assert decoder.decode(b'{"type":"deposit","cents":5}') == Deposit(5)
    with pytest.raises(msgspec.ValidationError, match="Invalid value 'nope'"):
        decoder.decode(b'{"type":"nope","cents":5}')


def test_messages_refuse_unknown_fields_and_events_ignore_them() -> None:
    with pytest.raises(msgspec.ValidationError, match="unknown field `extra`"):
        msgspec.json.decode(b'{"type":"deposit","cents":5,"extra":1}', type=Deposit)
    with pytest.raises(msgspec.ValidationError, match="unknown field `extra`"):
        msgspec.json.decode(b'{"type":"get_balance","extra":1}', type=GetBalance)
    data = b'{"type":"deposited","cents":5,"extra":1}'
    assert msgspec.json.decode(data, type=Deposited) == Deposited(5)


def test_what_the_methods_make() -> None:
    assert Withdraw(5).accept(Balance(1), Deposited(2)) == Decision((Deposited(2),), Balance(1))
    failure = InsufficientFunds(1, 2)
    assert Withdraw(5).reject(failure) == Decision((), None, failure)
    assert GetBalance().answer(Balance(1)) == Decision((), Balance(1), None)


def test_replace_copies_and_refuses_an_unknown_field() -> None:
    state = Account(1, 2)
    assert state.replace(balance=5) == Account(5, 2)
    assert state == Account(1, 2)
    with pytest.raises(TypeError, match="no field"):
        state.replace(balanse=5)
