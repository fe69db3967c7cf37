"""Comparing and ranking totals."""

import pytest
from aircraft import Logbook
from report import Difference, as_totals, differences, most_miles, summed

BOOKS = {"N1": Logbook(4, 2, 1, 1, 2800), "N2": Logbook(1, 1, 0, 0, 187)}
N2 = {"flights": 1, "arrived": 1, "cancelled": 0, "open": 0, "miles": 187}


def test_logbooks_have_the_form_of_the_files_totals() -> None:
    assert as_totals(BOOKS)["N2"] == N2
    assert differences(as_totals(BOOKS), as_totals(BOOKS)) == []


def test_all_together() -> None:
    sums = {"flights": 5, "arrived": 3, "cancelled": 1, "open": 1, "miles": 2987}
    assert summed(as_totals(BOOKS)) == sums


@pytest.mark.parametrize("what", list(N2))
def test_a_difference_in_any_total_is_found(what: str) -> None:
    file = as_totals(BOOKS) | {"N2": N2 | {what: 7}}
    assert differences(as_totals(BOOKS), file) == [Difference("N2", what, N2[what], 7)]


def test_an_aircraft_that_one_side_lacks_is_found() -> None:
    only_n1 = as_totals({"N1": BOOKS["N1"]})
    missing = {Difference("N2", what, None, count) for what, count in N2.items()}
    assert set(differences(only_n1, as_totals(BOOKS))) == missing
    assert len(differences(as_totals(BOOKS), only_n1)) == len(missing)


def test_the_ten_with_the_most_miles_are_aircraft() -> None:
    books = {f"N{n:02}": Logbook(1, 1, 0, 0, n // 2) for n in range(30)}
    books["unknown"] = Logbook(1, 1, 0, 0, 1_000)
    ranked = most_miles(as_totals(books))
    assert list(ranked.items())[:3] == [("N28", 14), ("N29", 14), ("N26", 13)]
    assert len(ranked) == 10
