"""Rows to commands, by hand-made files and over the committed month; totals.py beside them."""

import ast
import gzip
import hashlib
import itertools
import re
import sys
from pathlib import Path

import pytest
import totals
from aircraft import Aircraft, Arrive, Cancel, Depart, aircraft, logbook
from records import UNKNOWN, BadRecords, Keyed, Plan, plan_of, read
from report import as_totals, differences

from .conftest import FLIGHTS

MONTH = FLIGHTS / "flights-2013-01.csv.gz"
HEADER = (
    "year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,carrier,"
    "flight,tailnum,origin,dest,air_time,distance,hour,minute,time_hour"
)
WHOLE = "2013,1,1,517,515,2,830,819,11,UA,1545,N1,EWR,IAH,227,1400,5,15,2013-01-01T10:00:00Z"
DIVERTED = "2013,1,2,700,700,0,2300,1030,NA,UA,6,N1,EWR,IAH,NA,1400,7,0,2013-01-02T12:00:00Z"
NEVER = "2013,1,3,700,700,0,NA,1030,NA,UA,7,N1,EWR,IAH,NA,1400,7,0,2013-01-03T12:00:00Z"
CANCELLED = "2013,1,4,NA,55,NA,NA,819,NA,UA,8,N1,EWR,IAH,NA,1400,0,55,2013-01-04T05:00:00Z"
NO_TAIL = "2013,1,4,NA,600,NA,NA,819,NA,B6,9,NA,JFK,BOS,NA,187,6,0,2013-01-04T11:00:00Z"
SHORT = "2013,1,5,600,600,0,700,700,0,B6,10,N2,JFK,BOS,40,187,6,0,2013-01-05T11:00:00Z"
HAND = [HEADER, WHOLE, DIVERTED, NEVER, CANCELLED, NO_TAIL, SHORT]


def plan(*rows: str) -> Plan:
    return plan_of([HEADER, *rows])


def only(row: str) -> tuple[Keyed, ...]:
    ((commands,),) = plan(row).aircraft.values()
    return commands


def test_a_flight_departs_and_arrives() -> None:
    name = "2013-01-01-UA-1545-EWR-0515"
    assert only(WHOLE) == (
        Keyed(f"{name}:depart", Depart(name, "IAH", 1400)),
        Keyed(f"{name}:arrive", Arrive(name)),
    )


def test_a_diverted_flight_that_reached_its_destination_arrives() -> None:
    assert [type(k.command) for k in only(DIVERTED)] == [Depart, Arrive]


def test_a_flight_that_never_arrived_only_departs() -> None:
    name = "2013-01-03-UA-7-EWR-0700"
    assert only(NEVER) == (Keyed(f"{name}:depart", Depart(name, "IAH", 1400)),)


def test_a_flight_without_departure_is_cancelled() -> None:
    name = "2013-01-04-UA-8-EWR-0055"
    assert only(CANCELLED) == (Keyed(f"{name}:cancel", Cancel(name)),)
    assert only(CANCELLED.replace("NA", "")) == only(CANCELLED)


def test_a_row_without_a_tail_number_is_of_the_unknown() -> None:
    assert list(plan(NO_TAIL).aircraft) == [UNKNOWN]


def test_each_aircraft_gets_its_rows_in_the_order_of_the_file() -> None:
    made = plan_of(HAND)
    assert [len(flight) for flight in made.aircraft["N1"]] == [2, 2, 1, 1]
    assert {tail: len(flights) for tail, flights in made.aircraft.items()} == {
        "N1": 4,
        UNKNOWN: 1,
        "N2": 1,
    }
    assert (made.rows, made.commands, made.repeated) == (6, 9, 0)


def test_a_row_that_stands_there_twice_is_one_flight() -> None:
    made = plan(WHOLE, SHORT, WHOLE)
    assert (made.rows, made.commands, made.repeated) == (2, 4, 1)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (WHOLE.replace(",1400,", ",1401,"), "line 3: another flight of the name 2013-01-01-UA"),
        (
            NEVER.replace("3,700,700,0,NA", "3,NA,700,0,930"),
            "line 3: 2013-01-03-UA-7-EWR-0700 arr",
        ),
        (NEVER.replace(",1400,", ",far,"), "line 3: invalid literal for int"),
        (NEVER.replace(",1400,", ",-1,"), "line 3: 2013-01-03-UA-7-EWR-0700 has a distance of -1"),
        (NEVER.replace(",UA,", ",U A,"), "line 3: not an idempotency key: '2013-01-03-U A-7"),
        (NEVER.replace(",UA,", ","), "line 3: it has 18 values for 19 columns"),
        (NEVER + ",more", "line 3: it has 20 values for 19 columns"),
    ],
)
def test_a_bad_row_is_refused_with_its_line(row: str, says: str) -> None:
    with pytest.raises(BadRecords, match=f"^{re.escape(says)}"):
        plan(WHOLE, row)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRecords, match=r"^line 1: no column year, month"):
        plan_of(["a,b", "1,2"])
    with pytest.raises(BadRecords, match=r"^line 1: no column year"):
        plan_of([])
    not_gzip, cut, latin = (tmp_path / n for n in ("not.csv.gz", "cut.csv.gz", "latin.csv"))
    not_gzip.write_text(HEADER)
    cut.write_bytes(MONTH.read_bytes()[:2_000])
    latin.write_bytes(f"{HEADER}\n{WHOLE}".replace("IAH", "\xe9").encode("latin-1"))
    for path in (not_gzip, cut, latin):
        with pytest.raises(BadRecords, match=r"^not a CSV file of flight records: "):
            read(path)


def test_totals_against_hand_counted(tmp_path: Path) -> None:
    counted = {
        "N1": {"flights": 4, "arrived": 2, "cancelled": 1, "open": 1, "miles": 2800},
        UNKNOWN: {"flights": 1, "arrived": 0, "cancelled": 1, "open": 0, "miles": 0},
        "N2": {"flights": 1, "arrived": 1, "cancelled": 0, "open": 0, "miles": 187},
    }
    file, packed = tmp_path / "hand.csv", tmp_path / "hand.csv.gz"
    file.write_text("\n".join([*HAND, WHOLE]))
    packed.write_bytes(gzip.compress(file.read_bytes()))
    assert totals.totals(str(file)) == counted == totals.totals(str(packed))
    assert read(file) == read(packed)


def test_totals_share_nothing_with_what_they_check() -> None:
    tree = ast.parse((FLIGHTS / "totals.py").read_text())
    imported = {n.name for i in ast.walk(tree) if isinstance(i, ast.Import) for n in i.names}
    assert imported <= sys.stdlib_module_names
    assert not any(isinstance(node, ast.ImportFrom) for node in ast.walk(tree))


def test_the_committed_month_is_the_one_described() -> None:
    content = gzip.decompress(MONTH.read_bytes())
    assert hashlib.sha256(content).hexdigest() in (FLIGHTS / "DATA.md").read_text()
    assert content.splitlines()[0].decode() == HEADER


def test_every_row_of_the_month_has_its_own_keys() -> None:
    month = read(MONTH)
    flights = list(itertools.chain.from_iterable(month.aircraft.values()))
    keys = [keyed.key for flight in flights for keyed in flight]
    assert (month.rows, len(flights), month.repeated) == (27_004, 27_004, 0)
    assert len(keys) == len(set(keys)) == month.commands == 26_468 * 2 + 15 + 521


def test_the_month_through_the_entity_alone_gives_the_totals_of_the_file() -> None:
    states = dict[str, Aircraft]()
    for tail, flights in read(MONTH).aircraft.items():
        state = aircraft.initial
        for keyed in itertools.chain.from_iterable(flights):
            decision = aircraft.decide(state, keyed.command)
            assert decision.failure is None
            for event in decision.events:
                state = aircraft.evolve(state, event)
        states[tail] = state
    books = as_totals({tail: logbook(state) for tail, state in states.items()})
    assert differences(books, totals.totals(str(MONTH))) == []
    assert sum(state.elsewhere for state in states.values()) == 13
