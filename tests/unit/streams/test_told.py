"""What a client remembers, against a model that remembers everything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.entities.address import Address
from perdure.streams.told import Told, ToldStatistics

addresses = st.integers(0, 6).map(lambda n: Address("account", f"a-{n}"))
steps = st.tuples(st.sampled_from(["tell", "see", "after", "seen"]), addresses, st.integers(1, 99))


@given(st.lists(steps, max_size=60), st.integers(0, 8))
def test_it_forgets_only_the_unused_and_knows_that_it_did(
    run: list[tuple[str, Address, int]], capacity: int
) -> None:
    told = Told(capacity)
    highest: dict[str, dict[Address, int]] = {"tell": {}, "see": {}}
    for step, address, number in run:
        if step in ("tell", "see"):
            (told.tell if step == "tell" else told.see)(address, number)
            known = highest[step]
            known[address] = max(number, known.get(address, 0))
            continue
        kind = "tell" if step == "after" else "see"
        remembered = told.after(address) if step == "after" else told.seen(address)
        forgot = told.may_have_told(address) if step == "after" else told.may_have_seen(address)
        if remembered is None:
            # Either it never happened, or it is known that something was forgotten.
            assert address not in highest[kind] or forgot
        else:
            assert not forgot
            assert remembered <= highest[kind][address]
            if len(highest[kind]) <= capacity:
                assert remembered == highest[kind][address]
    statistics = told.statistics()
    assert statistics.told <= capacity
    assert statistics.seen <= capacity
    assert statistics.forgot_told is (len(highest["tell"]) > capacity)
    assert statistics.forgot_seen is (len(highest["see"]) > capacity)


def test_the_address_unused_for_longest_goes_first() -> None:
    told = Told(2)
    one, two, three = (Address("account", id) for id in "123")
    told.tell(one, 1)
    told.tell(two, 2)
    assert told.after(one) == 1  # used
    told.tell(three, 3)
    assert [told.after(a) for a in (one, two, three)] == [1, None, 3]
    assert [told.may_have_told(a) for a in (one, two, three)] == [False, True, False]


def test_a_lower_number_changes_nothing() -> None:
    told = Told(2)
    one = Address("account", "1")
    told.see(one, 9)
    told.see(one, 3)
    assert told.seen(one) == 9
    assert told.after(one) is None


@pytest.mark.parametrize("other", [Address("account", "2"), Address("order", "1")])
def test_addresses_are_kept_apart(other: Address) -> None:
    told = Told(9)
    told.tell(Address("account", "1"), 5)
    assert told.after(other) is None
    assert not told.may_have_told(other)


def test_it_shows_its_sizes() -> None:
    told = Told(1)
    for id in "12":
        told.tell(Address("account", id), 1)
    assert told.statistics() == ToldStatistics(1, 0, True, False)
    assert "told=1" in repr(told)


def test_a_late_answer_does_not_bring_back_an_older_number() -> None:
    told = Told(1)
    told.tell(Address("account", "x"), 61)
    told.tell(Address("account", "y"), 62)  # x is forgotten
    told.tell(Address("account", "x"), 58)  # the late answer of an older tell
    assert told.after(Address("account", "x")) is None
    assert told.may_have_told(Address("account", "x"))


def test_what_was_forgotten_of_a_busy_type_says_nothing_of_a_quiet_one() -> None:
    """Each type's stream counts for itself."""
    told = Told(2)
    for number in (1000, 1001, 1002):
        for remember in (told.tell, told.see):
            remember(Address("order", str(number)), number)
    quiet = Address("account", "1")
    assert not told.may_have_told(quiet)
    assert not told.may_have_seen(quiet)
    told.tell(quiet, 7)
    told.see(quiet, 8)
    assert (told.after(quiet), told.seen(quiet)) == (7, 8)
    assert told.may_have_told(Address("order", "1000"))
    assert told.may_have_seen(Address("order", "1000"))
