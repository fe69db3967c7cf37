"""What all runners say, held against each other: pure."""

from __future__ import annotations

from typing import Any

import msgspec

from perdure.deploy.checks import fleet_found
from perdure.deploy.cli.drain import without_host
from perdure.deploy.cli.runners import age, cells, rows
from perdure.deploy.cli.shards import faulty, layouts, summary
from perdure.deploy.fleet import Fleet
from perdure.durable.assignment import assign
from perdure.durable.stats import RunnerStats
from perdure.streams.members import Hosting, Member

from .told import told, told_type

ASSIGNED = assign("counter.1", 4, {"a": 1.0, "b": 1.0})
A = tuple(n for n, owner in enumerate(ASSIGNED) if owner == "a")
B = tuple(n for n, owner in enumerate(ASSIGNED) if owner == "b")


def record(runner: str, **more: Any) -> Member:
    types = (Hosting(entity="counter", generation=1),)
    return Member(runner=runner, edition=1, types=types, **more)


def pair(a: tuple[int, ...] = A, b: tuple[int, ...] = B, **more: Any) -> list[RunnerStats]:
    """Two runners with these shards of four."""
    return [told("a", told_type(*a), sees=2), told("b", told_type(*b), **{"sees": 2, **more})]


def states(fleet: Fleet) -> dict[str, tuple[str, tuple[str, ...]]]:
    return {row.runner: (row.state, row.differs) for row in rows(fleet, 0)}


def test_all_is_well() -> None:
    fleet = Fleet(pair(), [record("a"), record("b")])
    assert states(fleet) == {"a": ("well", ()), "b": ("well", ())}
    (layout,) = layouts(fleet, None)
    assert [place.state for place in layout.places] == ["well"] * 4
    assert (layout.owners, layout.imbalance, layout.older) == ({"a": 2, "b": 2}, 0.0, ())
    assert summary(layout) == "counter: 4 shards, generation 1, 2 owners, imbalance 0"
    assert all(finding.ok for finding in fleet_found(fleet, fleet, ["counter"]))


def test_who_is_listed_and_told_nothing_is_silent() -> None:
    one = told("a", told_type(0, 1, 2, 3), sees=2)
    fleet = Fleet([one], [record("a"), record("b", host="h", process=7, since=1000)])
    assert states(fleet) == {"a": ("well", ()), "b": ("silent", ())}
    row = list(rows(fleet, 181_000))[1]
    assert cells(row) == ("b", "h:7", "3m", "-", "1", "-", "-", "silent")
    (layout,) = layouts(fleet, "counter")
    moving = [place for place in layout.places if place.state == "moves"]
    assert [(place.shard, place.assigned) for place in moving] == [(n, "b") for n in B]
    assert "2 moves" in summary(layout)
    assert fleet.names == ["a", "b"]


def test_without_the_records_only_what_a_runner_sees_tells_of_silent_ones() -> None:
    fleet = Fleet([told("a", told_type(0, 1, 2, 3), sees=2)], None)
    assert states(fleet) == {"a": ("well", ())}
    members, shards = fleet_found(fleet, fleet, ["counter"])
    assert not members.ok
    assert members.what == "1 of 2 runners answer, the rest is dead or frozen"
    assert shards.ok


def test_who_sees_fewer_or_more_than_there_are_differs() -> None:
    fleet = Fleet(pair(sees=1), None)
    assert states(fleet)["b"] == ("differs", ("sees 1 of 2",))
    (members, _) = fleet_found(fleet, fleet, ["counter"])
    assert (members.ok, members.what) == (False, "runner b sees 1 of 2 runners")
    well = Fleet(pair(), None)
    assert all(finding.ok for finding in fleet_found(fleet, well, ["counter"]))
    fleet = Fleet(pair(sees=3), [record("a"), record("b")])
    assert states(fleet)["b"] == ("differs", ("sees 3 of 2",))


def test_equal_machine_numbers_are_told() -> None:
    a, b = pair()
    both = [msgspec.structs.replace(one, machine=7) for one in (a, b)]
    fleet = Fleet(both, None)
    (members, _) = fleet_found(fleet, fleet, ["counter"])
    assert not members.ok
    assert members.what == "runners a and b both make snowflakes of machine 7"
    other = Fleet([both[0], msgspec.structs.replace(b, machine=8)], None)
    assert all(finding.ok for finding in fleet_found(other, other, ["counter"]))


def test_who_has_other_code_than_the_one_that_started_last_differs() -> None:
    old = told("a", told_type(*A, version="1"), sees=2, since=1)
    new = told("b", told_type(*B, version="2"), sees=2, since=2)
    fleet = Fleet([old, new], None)
    assert states(fleet) == {"a": ("differs", ("code of counter",)), "b": ("well", ())}
    (members, _) = fleet_found(fleet, fleet, ["counter"])
    assert (members.ok, members.warning) == (True, True)
    assert members.next == "go on with the deployment: perdure drain a"


def test_who_goes_on_with_a_deployment_sees_to_what_cant_be_folded_first() -> None:
    old = told("a", told_type(*A, version="1"), sees=2, since=1)
    new = told("b", told_type(*B, version="2", quarantined=3), sees=2, since=2)
    fleet = Fleet([old, new], None)
    differs, broken, _ = fleet_found(fleet, fleet, ["counter"])
    assert differs.next.startswith("not before the quarantined entities are seen to")
    assert not broken.ok
    assert "runner b can't fold 3 of its entities of counter" in broken.what


def test_a_shard_of_nobody_and_one_of_two() -> None:
    fleet = Fleet(pair(a=A[:1], b=(*B, A[0])), None)
    (layout,) = layouts(fleet, None)
    assert layout.places[A[1]].state == "unowned"
    assert layout.places[A[0]].state == "twice"
    assert layout.places[A[0]].owners == ("a", "b")
    assert summary(layout).endswith("imbalance 1, 1 unowned, 1 twice")
    (_, shards) = fleet_found(fleet, fleet, ["counter"])
    assert not shards.ok
    assert f"shard {A[0]} is owned by a and b" in shards.what
    assert f"shard {A[1]} is owned by nobody" in shards.what


def test_only_what_is_so_at_both_looks_is_a_fault() -> None:
    first = layouts(Fleet(pair(a=A[:1]), None), None)
    other = layouts(Fleet(pair(b=B[:1]), None), None)
    well = layouts(Fleet(pair(), None), None)
    assert faulty(first, first)
    assert not faulty(first, other)
    assert not faulty(first, well)
    assert not faulty(well, first)


def test_owners_are_those_of_the_newest_sharding() -> None:
    old = told("a", told_type(0, 1, 2, 3), sees=2, since=2)
    new = told("b", told_type(0, 1, generation=2, shards=2), sees=2, since=1)
    (layout,) = layouts(Fleet([old, new], None), None)
    assert (layout.generation, layout.shards, layout.older) == (2, 2, ("a",))
    assert [place.owners for place in layout.places] == [("b",), ("b",)]
    assert summary(layout).endswith("; with an older generation: a")
    assert states(Fleet([old, new], None))["b"][1] == ("generation 2 of counter",)


def test_weights_are_what_shards_are_held_against() -> None:
    heavy = told("a", told_type(0, 1, 2), weight=3.0, sees=2)
    (layout,) = layouts(Fleet([heavy, told("b", told_type(3), sees=2)], None), None)
    assert layout.imbalance == 0.0


def test_who_leaves_may_have_shards_but_gets_none() -> None:
    fleet = Fleet(pair(leaving=True), [record("a"), record("b")])
    assert states(fleet)["b"] == ("leaving", ())
    (layout,) = layouts(fleet, None)
    assert {place.assigned for place in layout.places} == {"a"}
    assert layout.imbalance == 2.0
    assert without_host(fleet, "b") == []
    assert without_host(fleet, "a") == ["counter"]


def test_an_age_is_told_in_its_largest_unit() -> None:
    ages = [age(n) for n in (0, 119, 120, 7_199, 7_200, 172_799, 172_800)]
    assert ages == ["0s", "119s", "2m", "120m", "2h", "48h", "2d"]


def test_a_label_that_no_runner_has_is_told_in_words() -> None:
    lacks = told("a", told_type(label="gpu"), labels=("cpu",))
    fleet = Fleet([lacks], None)
    (layout,) = layouts(fleet, None)
    assert layout.lacked == "gpu"
    assert {(place.state, place.assigned) for place in layout.places} == {("unowned", "")}
    assert summary(layout).endswith("4 unowned; no runner that hosts it has the label gpu")
    (_, shards) = fleet_found(fleet, fleet, ["counter"])
    assert (shards.ok, shards.what) == (
        False,
        "counter: no runner that hosts it has the label gpu, so nobody may own its 4 shards: "
        "its tells wait",
    )
    assert shards.next == "start one that has it: PERDURE_LABELS=gpu perdure run APP"


def test_who_has_the_label_is_who_may_own() -> None:
    lacks = told("a", told_type(label="gpu"), sees=2)
    has = told("b", told_type(0, 1, 2, 3, label="gpu"), labels=("gpu",), sees=2)
    fleet = Fleet([lacks, has], None)
    (layout,) = layouts(fleet, None)
    assert (layout.lacked, layout.imbalance) == ("", 0.0)
    assert {place.state for place in layout.places} == {"well"}
    assert all(finding.ok for finding in fleet_found(fleet, fleet, ["counter"]))
    assert (without_host(fleet, "b"), without_host(fleet, "a")) == (["counter"], [])
