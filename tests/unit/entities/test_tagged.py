"""Failures: raised, compared, pickled, sent, and never decoded into an exception."""

from __future__ import annotations

import copy
import pickle
from contextlib import contextmanager
from dataclasses import field
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import pytest

from perdure import Failure, Suspended
from perdure.entities.tagged import Tagged, from_wire, to_wire, wire_twin
from tests.bank import InsufficientFunds, NotApproved

if TYPE_CHECKING:
    from collections.abc import Generator
    from decimal import Decimal


class Lots(Failure, tag="lots_v1"):
    names: list[str]
    at: tuple[int, int] = (0, 0)


class Named(Failure, kw_only=True):
    by: str = "nobody"
    others: list[str] = field(default_factory=list[str])
    wanted: int


class More(InsufficientFunds):
    asked: int = 0


def test_a_failure_is_raisable_comparable_and_read_only() -> None:
    with pytest.raises(
        InsufficientFunds, match=r"insufficient_funds\(balance=1, wanted=2\)"
    ) as caught:
        raise InsufficientFunds(1, wanted=2) from ValueError("why")
    failure = caught.value
    assert failure == InsufficientFunds(1, 2)
    assert failure != InsufficientFunds(1, 3)
    assert len({failure, InsufficientFunds(1, 2)}) == 1
    with pytest.raises(AttributeError, match=r"InsufficientFunds\.wanted is read-only"):
        setattr(failure, "wanted", 3)  # noqa: B010 (what the checkers refuse)
    failure.add_note("still an exception")
    failure.__traceback__ = None


def test_hashable_with_a_list_in_a_field() -> None:
    assert hash(Lots(["a"])) == hash(Lots(["b"]))
    assert Lots(["a"]) != Lots(["b"])


def test_two_classes_are_never_equal() -> None:
    assert InsufficientFunds(1, 2) != More(1, 2)
    assert More(1, 2) == More(1, 2, 0)
    assert (More.tag, InsufficientFunds.tag, Lots.tag) == ("more", "insufficient_funds", "lots_v1")


def test_survives_a_context_manager() -> None:
    @contextmanager
    def manager() -> Generator[None]:
        yield

    with pytest.raises(NotApproved), manager():
        raise NotApproved(by=None)


TRAVELLERS: list[Any] = [
    Lots(["a"], at=(1, 2)),
    NotApproved(by=None),
    Named(wanted=1, others=["x"]),
    More(1, 2, 3),
    Suspended(address="account/a-1", waits_for=("approval",)),
]


@pytest.mark.parametrize("error", TRAVELLERS)
def test_survives_pickle_and_copy(error: Any) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(error, protocol)) == error
    assert copy.copy(error) == error == copy.deepcopy(error)


@pytest.mark.parametrize("error", TRAVELLERS)
@pytest.mark.parametrize("codec", [msgspec.json, msgspec.msgpack])
def test_survives_the_wire(error: Any, codec: Any) -> None:
    cls: Any = error.__class__
    twin = wire_twin(cls)
    assert not issubclass(twin, BaseException)
    back = from_wire(cls, codec.decode(codec.encode(to_wire(error)), type=twin))
    assert back == error
    assert repr(back) == repr(error)
    assert str(back) == str(error)


def test_a_twin_is_made_once_and_fresh_defaults_are_given() -> None:
    assert wire_twin(Named) is wire_twin(Named)
    one, two = (
        from_wire(
            Named, msgspec.json.decode(b'{"type":"named","wanted":1}', type=wire_twin(Named))
        )
        for _ in range(2)
    )
    assert one == two == Named(wanted=1)
    assert one.others is not two.others


def test_a_decoded_failure_is_validated() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"type":"lots_v1","names":[1]}', type=wire_twin(Lots))


class AtMost(Failure):
    n: Annotated[int, msgspec.Meta(le=9)]


def test_bounds_are_kept() -> None:
    with pytest.raises(msgspec.ValidationError, match="<= 9"):
        msgspec.json.decode(b'{"type":"at_most","n":10}', type=wire_twin(AtMost))


@pytest.mark.parametrize("name", ["args", "tag", "with_traceback", "add_note"])
def test_a_field_may_not_be_named_like_what_every_exception_has(name: str) -> None:
    body = {"__annotations__": {name: "str"}, "__module__": __name__}
    with pytest.raises(TypeError, match=f"^Odd: a field can't be called '{name}'$"):
        type("Odd", (Failure,), body)


class HasType(Failure):
    type: str


class OnlyWhenChecking(Failure):
    amount: Decimal


@pytest.mark.parametrize(
    ("cls", "says"),
    [
        (HasType, "HasType: a field can't be called 'type'"),
        (OnlyWhenChecking, "OnlyWhenChecking: 'Decimal' isn't defined when it is imported"),
    ],
)
def test_a_failure_without_a_twin_is_told(cls: type[Tagged], says: str) -> None:
    with pytest.raises(TypeError, match=says):
        wire_twin(cls)
