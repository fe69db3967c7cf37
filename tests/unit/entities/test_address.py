"""Addresses and idempotency keys."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure import Address, IdempotencyKey
from perdure.entities.key import is_key


def test_an_address_is_told_as_type_and_id() -> None:
    assert str(Address("account", "a-1")) == "account/a-1"
    assert Address.parse("account/a-1") == Address("account", "a-1")


@given(st.from_regex(r"[a-z][a-z0-9_-]{0,31}", fullmatch=True), st.text(min_size=1))
def test_an_address_survives_its_text(entity: str, id: str) -> None:
    assert Address.parse(str(Address(entity, id))) == Address(entity, id)


@pytest.mark.parametrize("text", ["", "account", "account/", "/a-1", "/"])
def test_what_is_not_an_address(text: str) -> None:
    with pytest.raises(ValueError, match="not an address"):
        Address.parse(text)


@pytest.mark.parametrize("bad", ["", "a b", "é", "a" * 256, "a/b", "a\n", "a.b", "\u0661"])
def test_bad_keys(bad: str) -> None:
    assert not is_key(bad)
    with pytest.raises(ValueError, match="not an idempotency key"):
        IdempotencyKey(bad)


@given(st.from_regex(r"[A-Za-z0-9:_-]{1,255}", fullmatch=True))
def test_a_key_is_its_text(text: str) -> None:
    key = IdempotencyKey(text)
    assert key == text
    assert type(str(key)) is str
    assert pickle.loads(pickle.dumps(key)) == key
