"""The flows of the orders example, from wait to wait, by `given(...).when(...)`."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from order import (
    PATIENCE,
    AlreadyPlaced,
    Cancel,
    CancelAsked,
    Cancelled,
    Confirmed,
    Expired,
    NotApproved,
    NotConfirmed,
    NotInTime,
    OutOfOrder,
    Place,
    Placed,
    Rejected,
    SoldOut,
    Verdict,
    Withdrawal,
    Withdrawn,
    order,
)
from payment import (
    AlreadyCharged,
    Charge,
    Charged,
    Declined,
    GetKept,
    NoProvider,
    NotCharged,
    Refund,
    Refunded,
    payment,
)
from provider import NoAnswer
from stock import (
    GetShelf,
    NotReserved,
    OutOfStock,
    PutBack,
    Receive,
    Received,
    Release,
    Released,
    Reserve,
    Reserved,
    Shelf,
    Take,
    Taken,
    WasPutBack,
    stock,
)

from perdure import given

LINES = {"lamp": 2, "table": 1}
SMALL = Place("ann", "good", LINES, 100_00)
LARGE = Place("ann", "good", LINES, 100_01)
PLACED, PLACED_LARGE = Placed("ann", LINES, 100_00), Placed("ann", LINES, 100_01)
DESK = {"put on desk": None, "clear desk": None}


def reserved(command: Place = SMALL) -> Any:
    """An order whose goods are reserved."""
    placed = given(order).when(command, steps=DESK)
    placed.waits_for("reserve lamp")
    return placed.answer("reserve lamp", 8).answer("reserve table", 3)


def waiting() -> Any:
    found = reserved(LARGE)
    found.waits_for("verdict", "withdrawal")
    assert found.performed == ("put on desk",)
    return found


def given_back(when: Any) -> Any:
    """It gives back what it reserved, newest first."""
    when.waits_for("release table")
    after = when.answer("release table", 4)
    after.waits_for("release lamp")
    return after.answer("release lamp", 10)


# -- orders -------------------------------------------------------------------------------------
def test_a_small_order_is_confirmed_at_once() -> None:
    charged = reserved()
    charged.waits_for("charge")
    taken = charged.answer("charge", "ch-1").answer("take lamp", 2).answer("take table", 1)
    taken.accepts(100_00, PLACED, Confirmed())
    assert taken.performed == ()


def test_a_large_order_waits_to_be_approved() -> None:
    approved = waiting().resume("verdict", Verdict(approved=True, by="kim"))
    approved.waits_for("charge")
    taken = approved.answer("charge", "ch-1").answer("take lamp", 2).answer("take table", 1)
    taken.accepts(100_01, PLACED_LARGE, Confirmed())
    assert taken.performed == ("put on desk", "clear desk")


def test_one_that_is_not_approved_gives_back_what_it_reserved() -> None:
    refused = waiting().resume("verdict", Verdict(approved=False, by="kim"))
    ended = given_back(refused)
    ended.rejects(NotApproved("kim"))
    assert ended.emitted == (PLACED_LARGE, Rejected("not_approved"))


def test_nobody_decides_for_a_day() -> None:
    waiting().advance(PATIENCE - timedelta(milliseconds=1)).waits_for("verdict", "withdrawal")
    ended = given_back(waiting().advance(PATIENCE))
    ended.rejects(NotInTime())
    assert ended.emitted == (PLACED_LARGE, Expired())
    assert ended.performed == ("put on desk", "clear desk")


def test_the_customer_takes_it_back() -> None:
    ended = given_back(waiting().resume("withdrawal", Withdrawal()))
    ended.rejects(Withdrawn())
    assert ended.emitted == (PLACED_LARGE, Cancelled())


def test_the_first_of_two_decisions_counts() -> None:
    approved = waiting().resume("verdict", Verdict(approved=True, by="kim"))
    approved.resume("withdrawal", Withdrawal()).waits_for("charge")


def test_what_is_sold_out_ends_it_and_the_rest_is_released() -> None:
    placed = given(order).when(SMALL).answer("reserve lamp", 8)
    ended = placed.answer("reserve table", OutOfStock(0)).answer("release lamp", 10)
    ended.rejects(SoldOut("table", 0))
    assert ended.emitted == (PLACED, Rejected("sold_out"))


@pytest.mark.parametrize("no", [Declined("no money"), NoProvider(), AlreadyCharged("ch-1")])
def test_a_payment_that_fails_after_the_reservation(
    no: Declined | NoProvider | AlreadyCharged,
) -> None:
    ended = given_back(reserved().answer("charge", no))
    ended.rejects(no)
    assert ended.emitted == (PLACED, Rejected(no.tag))


def test_goods_that_can_not_be_taken_after_the_payment() -> None:
    """An operator released the table by hand: the money and the lamps go back."""
    lost = reserved().answer("charge", "ch-1").answer("take lamp", 2)
    lost = lost.answer("take table", NotReserved("test"))
    lost.waits_for("refund")
    lost = lost.answer("refund", 100_00)
    lost.waits_for("release table")
    lost = lost.answer("release table", NotReserved("test"))
    lost.waits_for("put back lamp")
    ended = lost.answer("put back lamp", 10)
    ended.rejects(OutOfOrder("not_reserved(order='test')"))
    assert ended.emitted == (PLACED, Rejected("out_of_order"))


def test_a_desk_that_can_not_be_reached_ends_it() -> None:
    placed = given(order).when(LARGE, steps={"put on desk": OSError("disk full")})
    ended = given_back(placed.answer("reserve lamp", 8).answer("reserve table", 3))
    ended.rejects(OutOfOrder("step 'put on desk': OSError: disk full"))


def test_an_order_is_placed_once() -> None:
    given(order, PLACED).when(SMALL).rejects(AlreadyPlaced("placed"))
    given(order, PLACED, Confirmed()).when(SMALL).rejects(AlreadyPlaced("confirmed"))


@pytest.mark.parametrize("place", [Place("a", "good", {"x": 0}, 5), Place("a", "good", {}, 0)])
def test_an_order_without_amounts_is_malformed(place: Place) -> None:
    with pytest.raises(AssertionError, match="can't be sent: Expected `int` >= 1"):
        given(order).when(place)


def test_a_confirmed_order_is_cancelled() -> None:
    cancelled = given(order, PLACED, Confirmed()).when(Cancel())
    cancelled.waits_for("refund")
    cancelled = cancelled.answer("refund", 100_00)
    cancelled.answer("put back lamp", 10).answer("put back table", 4).accepts(
        100_00, CancelAsked(), Cancelled()
    )


def test_no_other_order_is_cancelled() -> None:
    given(order).when(Cancel()).rejects(NotConfirmed("new"))
    given(order, PLACED).when(Cancel()).rejects(NotConfirmed("placed"))
    given(order, PLACED, Confirmed(), CancelAsked()).when(Cancel()).rejects(
        NotConfirmed("cancelling")
    )


# -- payments -----------------------------------------------------------------------------------
def test_a_charge_is_one_step() -> None:
    charged = given(payment).when(Charge("good", 700), steps={"charge": "ch-1"})
    charged.accepts("ch-1", Charged("ch-1", 700))
    assert charged.performed == ("charge",)


def test_a_declined_charge_has_nothing_to_undo() -> None:
    declined = given(payment).when(Charge("x", 700), steps={"charge": Declined("no money")})
    declined.rejects(Declined("no money"))
    assert declined.performed == ("charge",)


def test_a_charge_without_an_answer_is_given_back() -> None:
    steps = {"charge": NoAnswer("lost"), "undo charge": 700}
    lost = given(payment).when(Charge("x", 700), steps=steps)
    lost.rejects(NoProvider())
    assert lost.performed == ("charge", "undo charge")


def test_an_order_is_charged_once() -> None:
    again = given(payment, Charged("ch-1", 700)).when(Charge("good", 700))
    again.rejects(AlreadyCharged("ch-1"))
    assert again.performed == ()


def test_a_refund_gives_back_what_was_charged() -> None:
    paid = given(payment, Charged("ch-1", 700))
    paid.when(Refund(), steps={"refund 1": 700}).accepts(700, Refunded(700))
    assert paid.query(GetKept()) == 700
    assert given(payment, Charged("ch-1", 700), Refunded(700)).query(GetKept()) == 0
    given(payment).when(Refund()).rejects(NotCharged())


def test_a_refund_is_never_given_up() -> None:
    down = {f"refund {n}": NoAnswer("down") for n in range(1, 30)}
    refund = given(payment, Charged("ch-1", 700)).when(Refund(), steps=down | {"refund 30": 700})
    refund.waits_for("after 1")
    refund.advance(timedelta(minutes=5)).waits_for("after 2")
    refund.advance(timedelta(days=2)).accepts(700, Refunded(700))


def test_of_two_refunds_one_counts() -> None:
    steps = {"refund 1": NoAnswer("down"), "refund 2": 700}
    refund = given(payment, Charged("ch-1", 700)).when(Refund(), steps=steps)
    refund.meanwhile(Refunded(700)).advance(timedelta(minutes=5)).accepts(700)


# -- stock --------------------------------------------------------------------------------------
def test_goods_are_reserved_then_taken_or_released() -> None:
    given(stock).when(Receive(5)).accepts(5, Received(5))
    full = given(stock, Received(5), Reserved("o-1", 3))
    full.when(Reserve("o-2", 3)).rejects(OutOfStock(2))
    full.when(Reserve("o-2", 2)).accepts(0, Reserved("o-2", 2))
    full.when(Take("o-1")).accepts(3, Taken("o-1"))
    full.when(Release("o-1")).accepts(5, Released("o-1"))
    assert full.query(GetShelf()) == Shelf(on_hand=5, reserved=3, sold=0)
    taken = given(stock, Received(5), Reserved("o-1", 3), Taken("o-1"))
    assert taken.query(GetShelf()) == Shelf(on_hand=2, reserved=0, sold=3)
    taken.when(PutBack(3)).accepts(5, WasPutBack(3))


def test_more_of_it_for_the_same_order() -> None:
    twice = given(stock, Received(5), Reserved("o-1", 1), Reserved("o-1", 2))
    twice.when(Take("o-1")).accepts(3, Taken("o-1"))


def test_what_is_not_reserved_can_not_be_taken_or_released() -> None:
    for command in (Take("o-1"), Release("o-1")):
        given(stock, Received(5), Reserved("o-2", 1)).when(command).rejects(NotReserved("o-1"))


def test_a_count_is_one_or_more() -> None:
    with pytest.raises(AssertionError, match="Expected `int` >= 1"):
        given(stock, Received(5)).when(Reserve("o-1", -1))
