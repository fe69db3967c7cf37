"""What may leave a caller's process, and the keys that it makes."""

from __future__ import annotations

import contextlib
import re
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from perdure import (
    Command,
    Failure,
    IdempotencyKey,
    MalformedMessage,
    Query,
    SerializationError,
    State,
    SystemEntropy,
)
from perdure.entities.key import is_key
from perdure.streams.asks import Answer, raw
from perdure.streams.incoming import outcome_of, value_of
from perdure.streams.outgoing import (
    birth_of,
    check_key,
    contract_for,
    lasting_key,
    made_key,
    payload_of,
)
from tests.bank import Account, Balance, Deposit, GetBalance, Withdraw

KEY = re.compile(r"\A[A-Za-z0-9:_-]{1,255}\Z")
LIMIT = 4096


# -- keys -------------------------------------------------------------------------------------
@given(st.text(max_size=300) | st.text("aZ09:_-", min_size=250, max_size=260))
@example("")
@example("a\n")
@example("٣")
@example("a b")
@example("a" * 255)
@example("a" * 256)
def test_a_key_is_what_the_pattern_says(text: str) -> None:
    good = KEY.match(text) is not None
    assert is_key(text) is good
    with pytest.raises(ValueError, match="not an idempotency key") if not good else nothing():
        assert IdempotencyKey(text) == text
    with (
        pytest.raises(MalformedMessage, match="not an idempotency key") if not good else nothing()
    ):
        assert check_key(text) == text


def nothing() -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext()


@pytest.mark.parametrize("key", [None, 7, b"k", ["k"], object()])
def test_no_other_thing_is_a_key(key: Any) -> None:
    with pytest.raises(MalformedMessage):
        check_key(key)


def test_a_key_is_handed_on_as_plain_text() -> None:
    assert type(check_key(IdempotencyKey("k"))) is str


def test_a_hostile_key_is_not_printed_whole() -> None:
    with pytest.raises(MalformedMessage) as caught:
        check_key("x y" * 100_000)
    assert len(str(caught.value)) < 400


@given(st.integers(0, 10**15 - 1))
def test_a_made_key_tells_its_birth(birth_ms: int) -> None:
    key = made_key(SystemEntropy(), birth_ms)
    assert is_key(key)
    assert birth_of(key) == birth_ms


@given(st.text("m-0123456789abcdef", max_size=60))
@example("m-1-" + "a" * 31)
@example("m-1-" + "g" * 32)
@example("m--" + "a" * 32)
@example("m-1-" + "a" * 32 + "\n")
@example("order-17")
def test_no_other_key_has_a_birth(key: str) -> None:
    made = re.match(r"\Am-[0-9]{1,15}-[0-9a-f]{32}\Z", key)
    assert (birth_of(key) is None) is (made is None)


def test_a_lasting_key_has_no_birth() -> None:
    keys = {lasting_key(SystemEntropy()) for _ in range(100)}
    assert len(keys) == 100
    assert all(is_key(k) and birth_of(k) is None for k in keys)


NO_INTEGERS = st.floats().filter(lambda x: not x.is_integer())
"""JSON has one kind of numbers, and 5.0 is an integer there."""


# -- messages ---------------------------------------------------------------------------------
def test_a_command_becomes_json() -> None:
    contract, payload = payload_of(Withdraw(5), Account, writes=True, limit=LIMIT)
    assert bytes(payload) == b'{"type":"withdraw","cents":5}'
    assert contract.message is Withdraw
    assert contract is contract_for(Withdraw, Account, writes=True)  # made once


@given(st.one_of(st.none(), st.text(), st.binary(), NO_INTEGERS, st.lists(st.integers())))
def test_a_field_of_another_type_is_refused(cents: Any) -> None:
    with pytest.raises(MalformedMessage, match="deposit"):
        payload_of(Deposit(cents), Account, writes=True, limit=LIMIT)


class Loose(Command[Account, int]):
    it: Any


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def itself() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    "it",
    [object(), {1j: 2}, 10**5000, nested(5_000), itself(), "\ud800", {"a": lambda: 1}],
    ids=range(7),
)
def test_what_cant_be_encoded_is_refused(it: Any) -> None:
    with pytest.raises(MalformedMessage, match="loose"):
        payload_of(Loose(it), Account, writes=True, limit=1 << 20)


def test_the_limit_is_exact() -> None:
    assert len(bytes(payload_of(Deposit(5), Account, writes=True, limit=28)[1])) == 28
    with pytest.raises(MalformedMessage, match="28 bytes, allowed are 27"):
        payload_of(Deposit(5), Account, writes=True, limit=27)


class Other(State):
    pass


class Unfinished(Command):  # type: ignore[type-arg]
    pass


class Unwired(Command[Account, object]):
    pass


class Strange(Command[Account, int, ValueError]):  # type: ignore[type-var]  # pyright: ignore[reportInvalidTypeArguments]
    pass


@pytest.mark.parametrize("message", [Unfinished(), Strange(), 5, "deposit", None, Failure, {}])
def test_what_is_no_message(message: Any) -> None:
    with pytest.raises(MalformedMessage) as caught:
        payload_of(message, Account, writes=True, limit=LIMIT)
    assert "\n" not in (caught.value.cause or "")


def test_messages_of_another_entity_or_another_kind() -> None:
    for message, state, writes, said in (
        (Deposit(5), Other, True, "not of Other"),
        (Deposit(5), Account, False, "Deposit: query\\(\\) takes a Query"),
        (GetBalance(), Account, True, "GetBalance: a query is asked with query"),
    ):
        with pytest.raises(MalformedMessage, match=said):
            payload_of(message, state, writes=writes, limit=LIMIT)


# -- what comes back --------------------------------------------------------------------------
class Picky(Failure):
    level: int

    def __post_init__(self) -> None:
        if self.level > 9:
            raise RuntimeError("too picky")


class Fussy(msgspec.Struct):
    level: int

    def __post_init__(self) -> None:
        if self.level > 9:
            raise RuntimeError("too fussy")


class Check(Command[Account, Fussy, Picky]):
    pass


class Look(Query[Account, Fussy]):
    pass


def test_outcomes_are_decoded_to_what_the_class_declares() -> None:
    contract = contract_for(Check, Account, writes=True)
    assert outcome_of(contract, Answer(reply=raw({"level": 3}))) == Fussy(3)
    failure = Answer(failure=raw({"type": "picky", "level": 3, "later": 1}))
    assert outcome_of(contract, failure) == Picky(3)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(reply=raw({"level": 10})),
        Answer(failure=raw({"type": "picky", "level": 10})),
        Answer(failure=raw({"type": "pickier"})),
        Answer(failure=raw({"level": 1, "type": 5})),
        Answer(reply=raw(5)),
        Answer(),
    ],
    ids=range(6),
)
def test_whatever_a_class_says_about_its_values_is_a_serialization_error(answer: Answer) -> None:
    for cls, writes in ((Check, True), (Look, False)):
        contract = contract_for(cls, Account, writes=writes)
        with pytest.raises(SerializationError) as caught:
            outcome_of(contract, answer)
        assert caught.value.may_have_taken_effect is writes


def test_a_query_has_no_failures() -> None:
    contract = contract_for(GetBalance, Account, writes=False)
    assert outcome_of(contract, Answer(reply=raw(Balance(5)))) == Balance(5)
    with pytest.raises(SerializationError):
        outcome_of(contract, Answer(failure=raw({"type": "picky", "level": 1})))
    with pytest.raises(SerializationError, match="there is none"):
        value_of(contract.reply_decoder, Answer(failure=raw(1)), "status")
