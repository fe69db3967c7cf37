"""Limits before decoding, and the hash under which two payloads are the same command."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure import Command, State, Value
from perdure.streams.codec import (
    HASH_BYTES,
    Undecodable,
    decode,
    digest,
    name_hash,
    payload_hash,
    raw_hash,
)


class Thing(State):
    pass


class Part(Value):
    size: int
    colour: str = "red"


class Order(Command[Thing, None]):
    cents: int
    note: str = ""
    rate: float = 1.0
    fast: bool = False
    parts: tuple[Part, ...] = ()
    extra: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    maybe: int | None = None
    either: int | bool | float | str = 0


class OrderLater(Command[Thing, None], tag="order"):
    """The same command in a later release, with one more field."""

    cents: int
    fresh: int = 7
    note: str = ""
    rate: float = 1.0
    fast: bool = False
    parts: tuple[Part, ...] = ()
    extra: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    maybe: int | None = None
    either: int | bool | float | str = 0


ORDERS = msgspec.json.Decoder(Order)
LATER = msgspec.json.Decoder(OrderLater)


def hash_of(text: str | bytes) -> str:
    return payload_hash(ORDERS.decode(text))


# -- decoding within limits -------------------------------------------------------------------
def test_a_size_limit_is_exact_and_comes_first() -> None:
    assert decode(ORDERS, b'{"type":"order","cents":5}', limit=26, what="x").cents == 5
    with pytest.raises(Undecodable, match="x: 26 bytes, allowed are 25"):
        decode(ORDERS, b'{"type":"order","cents":5}', limit=25, what="x")


@pytest.mark.parametrize(
    "bomb",
    [
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000,
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    ],
    ids=range(4),
)
@pytest.mark.parametrize("of", [Any, Order, list[Any], msgspec.Raw, dict[str, Any]])
def test_a_nesting_bomb_is_undecodable(bomb: bytes, of: Any) -> None:
    decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(of)
    with pytest.raises(Undecodable):
        decode(decoder, bomb, limit=1 << 20, what="bomb")


@given(st.binary(max_size=200))
def test_garbage_raises_undecodable_and_nothing_else(data: bytes) -> None:
    with contextlib.suppress(Undecodable):
        assert type(decode(ORDERS, data, limit=1 << 20, what="order")) is Order


@given(st.recursive(st.none() | st.integers() | st.text() | st.floats(), st.lists, max_leaves=20))
def test_json_of_any_shape_raises_undecodable_and_nothing_else(value: Any) -> None:
    data = msgspec.json.encode({"type": "order", "cents": 5, "note": value, "parts": value})
    with contextlib.suppress(Undecodable):
        assert type(decode(ORDERS, data, limit=1 << 20, what="order")) is Order


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"null",
        b'{"type":"order"}',
        b'{"type":"order","cents":"5"}',
        b'{"type":"order","cents":5,"unknown":1}',
        b'{"type":"other","cents":5}',
        b'{"type":"order","cents":5}x',
        b'{"type":"order","cents":1e400}',
        b'{"type":"order","cents":' + b"9" * 5_000 + b"}",
        b'{"type":"order","cents":5,"note":"\xff"}',
        b'{"type":"order","cents":5,"note":"\xed\xa0\x80"}',
        b"\xff\xfe{\x00}\x00",
    ],
    ids=range(13),
)
def test_what_is_no_order(data: bytes) -> None:
    with pytest.raises(Undecodable):
        decode(ORDERS, data, limit=1 << 20, what="order")


# -- the same command -------------------------------------------------------------------------
@given(st.permutations(['"cents":5', '"note":"x"', '"type":"order"', '"extra":{"b":1,"a":2}']))
def test_the_order_of_keys_changes_nothing(members: list[str]) -> None:
    usual = '{"type":"order","cents":5,"note":"x","extra":{"a":2,"b":1}}'
    assert hash_of("{" + ", ".join(members) + "}") == hash_of(usual)


def test_a_default_that_is_written_out_changes_nothing() -> None:
    written: dict[str, Any] = {
        "type": "order",
        "cents": 5,
        "note": "",
        "rate": 1.0,
        "fast": False,
        "parts": [],
        "extra": {},
        "maybe": None,
        "either": 0,
    }
    assert hash_of(msgspec.json.encode(written)) == hash_of('{"type":"order","cents":5}')
    parts = '{"type":"order","cents":5,"parts":[{"type":"part","size":1%s}]}'
    assert hash_of(parts % ',"colour":"red"') == hash_of(parts % "")


def test_white_space_and_number_spelling_change_nothing() -> None:
    assert hash_of('{"type":"order","cents":5,"rate":2}') == hash_of(
        ' { "cents" : 5, "rate": 2.0 , "type": "order"}\n'
    )
    assert hash_of('{"type":"order","cents":5,"rate":20}') == hash_of(
        '{"type":"order","cents":5,"rate":2e1}'
    )


def test_a_field_added_later_with_a_default_changes_nothing() -> None:
    text = '{"type":"order","cents":5,"note":"x"}'
    assert payload_hash(LATER.decode(text)) == hash_of(text)
    more = '{"type":"order","cents":5,"note":"x","fresh":8}'
    assert payload_hash(LATER.decode(more)) != hash_of(text)


@given(st.integers(), st.integers())
def test_other_values_are_another_command(one: int, two: int) -> None:
    hashes = payload_hash(Order(one)), payload_hash(Order(two))
    assert (hashes[0] == hashes[1]) is (one == two)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (1, True),
        (0, False),
        (1, 1.0),
        (0, 0.0),
        (1, "1"),
        ("", 0),
    ],
)
def test_values_that_python_calls_equal_are_not_the_same(one: Any, two: Any) -> None:
    """`1 == True == 1.0`, and a default of 0 is not False."""
    assert payload_hash(Order(5, either=one)) != payload_hash(Order(5, either=two))


def test_what_the_tag_says_counts() -> None:
    class Cancel(Command[Thing, None]):
        cents: int

    assert payload_hash(Cancel(5)) != payload_hash(Order(5))


def test_places_count() -> None:
    hashes = {
        payload_hash(order)
        for order in (
            Order(5),
            Order(5, parts=(Part(1),)),
            Order(5, parts=(Part(2),)),
            Order(5, parts=(Part(1), Part(2))),
            Order(5, parts=(Part(2), Part(1))),
            Order(5, extra={"1": 2}),
            Order(5, extra={"2": 1}),
            Order(5, maybe=5),
            Order(5, note="5"),
        )
    }
    assert len(hashes) == 9


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Plain:
    """Not a Struct, but msgspec knows it."""

    a: int
    by: dict[int, str] = field(default_factory=dict[int, str])


class Rich(Command[Thing, None]):
    at: datetime
    price: Decimal
    colour: Colour
    raw: bytes
    tags: frozenset[str]
    by: dict[int, Part]
    parts: frozenset[Part]
    plain: Plain
    keyed: dict[datetime, int]


def test_every_kind_of_value_has_a_stable_hash() -> None:
    def rich(price: str) -> Rich:
        at = datetime(2026, 1, 2, tzinfo=UTC)
        tags = frozenset({"x", "y", "z", "abc", "def"})
        by, parts = {2: Part(1), 1: Part(2)}, frozenset({Part(1), Part(2), Part(3)})
        plain = Plain(1, {3: "c"})
        return Rich(at, Decimal(price), Colour.BLUE, b"\0\xff", tags, by, parts, plain, {at: 1})

    decoded = msgspec.json.Decoder(Rich).decode(msgspec.json.encode(rich("1.50")))
    assert payload_hash(decoded) == payload_hash(rich("1.50"))
    assert payload_hash(rich("1.51")) != payload_hash(rich("1.50"))
    assert payload_hash(decoded) == "50d5079777c243a3f43d8190853bd686"


def test_hashes_are_fixed_for_ever() -> None:
    """They stand in logs: another value here orphans every recorded outcome."""
    assert payload_hash(Order(5)) == digest(b'{"cents":5,"type":"order"}')
    assert payload_hash(Order(5)) == "c5f23dcf250930862493b90caa914243"
    assert payload_hash(Order(5, note="x", parts=(Part(1),))) == "bb6dddb15561b2403b7946bbbe5d9f08"
    assert raw_hash(b"{}") == "4ad83ee9363adadd3c5e64d4a572bfae"
    assert digest(b"perdure") == "00a153ab9fdedaad3572609ccc7df827"
    assert name_hash("order-17").hex() == "dfc164b129ef6f11861bd2062345a12b"


@given(st.binary(max_size=100))
def test_an_undecodable_payload_never_has_the_hash_of_a_decoded_one(data: bytes) -> None:
    assert raw_hash(data) != digest(data)
    assert len(raw_hash(data)) == len(digest(data)) == 2 * HASH_BYTES
