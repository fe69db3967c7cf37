"""Assignment: who owns which shard, as a function of who is there."""

from __future__ import annotations

import random
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from perdure.durable.assignment import assign, hosting_of, label_lacked, may_own, owners
from perdure.streams.members import Hosting, Member
from perdure.streams.subjects import Sharding

CUT = Sharding(3, 16)
DRAWS = 200
"""Clusters that an average movement is taken over; their names are fixed, so each run is alike."""

names = st.text("abcdefgh0123456789", min_size=1, max_size=4)
weights = st.floats(0.01, 100)
clusters = st.dictionaries(names, weights, max_size=12)
counts = st.integers(1, 64)


def member(
    runner: str,
    *,
    generation: int = 3,
    label: str = "",
    labels: tuple[str, ...] = (),
    leaving: bool = False,
    weight: float = 1.0,
    hosts: str = "account",
) -> Member:
    return Member(
        runner=runner,
        edition=1,
        types=(Hosting(entity=hosts, generation=generation, label=label),),
        labels=labels,
        leaving=leaving,
        weight=weight,
    )


# -- shares -----------------------------------------------------------------------------------
@given(counts, clusters)
def test_every_shard_has_an_owner_if_anybody_is_there(
    shards: int, cluster: dict[str, float]
) -> None:
    found = assign("a.1", shards, cluster)
    assert len(found) == shards
    assert set(found) <= (set(cluster) if cluster else {""})


@given(counts, st.sets(names, min_size=1, max_size=12))
def test_equal_runners_differ_by_at_most_one_shard(shards: int, cluster: set[str]) -> None:
    share = Counter(assign("a.1", shards, dict.fromkeys(cluster, 1.0)))
    held = [share[name] for name in cluster]
    assert max(held) - min(held) <= 1


@given(counts, clusters.filter(bool))
@example(64, {"a": 0.01, "b": 100.0})
@example(3, {"a": 0.1, "b": 0.2, "c": 0.3})  # whose sum isn't exact
def test_shares_are_as_the_weights_say_within_one_shard(
    shards: int, cluster: dict[str, float]
) -> None:
    share = Counter(assign("a.1", shards, cluster))
    whole = sum(Fraction(weight) for weight in cluster.values())
    for name, weight in cluster.items():
        assert abs(share[name] - shards * Fraction(weight) / whole) < 1 + Fraction(1, 10**9)


@given(counts, clusters, st.randoms())
def test_the_order_of_the_members_does_not_matter(
    shards: int, cluster: dict[str, float], chance: random.Random
) -> None:
    members = [member(name, weight=weight) for name, weight in cluster.items()]
    mixed = chance.sample(members, len(members))
    cut = Sharding(3, shards)
    assert owners("account", cut, members) == owners("account", cut, mixed)


def test_types_and_generations_differ_in_who_gets_one_shard_more() -> None:
    """Else one runner would have one more of each of hundreds of types."""
    three = dict.fromkeys("abc", 1.0)
    most = Counter[str]()
    for number in range(300):
        most[Counter(assign(f"t{number}.1", 16, three)).most_common(1)[0][0]] += 1
    assert min(most[name] for name in three) > 60
    assert assign("t.1", 16, three) != assign("t.2", 16, three)


# -- who may own ------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("stranger", "why"),
    [
        (member("b", hosts="order"), "it hosts another type"),
        (member("b", generation=2), "it found an older sharding"),
        (member("b", generation=4), "it found a newer one"),
        (member("b", leaving=True), "it leaves"),
        (member("b", label="gpu"), "it lacks the label"),
        (member("b", label="gpu", labels=("cpu", "gpu2")), "it has other labels"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_who_may_not_own_gets_nothing(stranger: Member, why: str) -> None:
    assert not may_own(stranger, "account", CUT), why
    assert set(owners("account", CUT, [member("a"), stranger])) == {"a"}
    assert set(owners("account", CUT, [stranger])) == {""}


def test_who_has_the_label_owns_beside_others() -> None:
    labelled = member("b", label="gpu", labels=("cpu", "gpu"))
    assert may_own(labelled, "account", CUT)
    assert set(owners("account", CUT, [member("a"), labelled])) == {"a", "b"}


@pytest.mark.parametrize(
    ("members", "lacked"),
    [
        ([], ""),
        ([member("a", hosts="order", label="gpu")], ""),
        ([member("a", label="gpu", leaving=True)], ""),
        ([member("a", label="gpu", generation=2)], ""),
        ([member("a", label="gpu")], "gpu"),
        ([member("a", label="gpu", labels=("cpu",)), member("b", label="eu")], "gpu"),
        ([member("a", label="gpu"), member("b")], ""),
        ([member("a", label="gpu"), member("b", label="gpu", labels=("gpu",))], ""),
    ],
)
def test_a_label_that_nobody_has_is_told(members: list[Member], lacked: str) -> None:
    assert label_lacked("account", CUT, members) == lacked
    if lacked:
        assert set(owners("account", CUT, members)) == {""}


def test_a_type_is_found_among_others() -> None:
    both = Member(
        runner="a",
        edition=1,
        types=(Hosting(entity="order", generation=1), Hosting(entity="account", generation=3)),
    )
    found = hosting_of(both, "account")
    assert found is not None
    assert found.generation == 3
    assert hosting_of(both, "nothing") is None
    assert set(owners("account", CUT, [both])) == {"a"}


# -- movement ---------------------------------------------------------------------------------
def moved(shards: int, members: int) -> tuple[list[Fraction], list[Fraction]]:
    """What one more among that many moves, against its own share and against the ideal one.

    A leave is the same, seen from the other side.
    """
    by_own: list[Fraction] = []
    by_ideal: list[Fraction] = []
    for draw in range(DRAWS):
        cluster = [f"{draw}-{number}" for number in range(members)]
        before = assign("a.1", shards, dict.fromkeys(cluster[:-1], 1.0))
        after = assign("a.1", shards, dict.fromkeys(cluster, 1.0))
        count = sum(old != new for old, new in zip(before, after, strict=True))
        by_own.append(Fraction(count, after.count(cluster[-1])))
        by_ideal.append(Fraction(count * members, shards))
    return by_own, by_ideal


@pytest.mark.parametrize(
    ("shards", "members"),
    [(16, n) for n in range(2, 6)] + [(64, n) for n in range(2, 9)],
)
def test_who_joins_or_leaves_moves_little_more_than_its_share(shards: int, members: int) -> None:
    """1.5 times the ideal share on average, and never more than 2.5 times what it gets or had.

    The least that is possible is once; hashing by the remainder would move nearly all.
    """
    by_own, by_ideal = moved(shards, members)
    assert sum(by_ideal) / DRAWS <= Fraction(3, 2)
    assert min(by_own) >= 1
    assert max(by_own) <= Fraction(5, 2)


@given(counts, clusters.filter(lambda cluster: len(cluster) > 1), st.data())
def test_nothing_of_a_leaver_stays_and_who_had_all_keeps_all(
    shards: int, cluster: dict[str, float], data: st.DataObject
) -> None:
    leaver = data.draw(st.sampled_from(sorted(cluster)))
    rest = {name: weight for name, weight in cluster.items() if name != leaver}
    after = assign("a.1", shards, rest)
    assert leaver not in after
    if len(rest) == 1:
        before = assign("a.1", shards, cluster)
        (last,) = rest
        assert all(new == last for old, new in zip(before, after, strict=True) if old == last)


# -- golden -----------------------------------------------------------------------------------
def test_two_releases_agree() -> None:
    """These must never change: during an upgrade runners of two releases share shards."""
    three = {"runner-a": 1.0, "runner-b": 1.0, "runner-c": 1.0}
    assert shown(assign("account.1", 16, three)) == "cabccabbaabcabcc"
    assert shown(assign("account.2", 16, three)) == "bbcaacaaabcacbbc"
    assert shown(assign("order.1", 8, {"runner-a": 1.0, "runner-b": 3.0})) == "bbbabbba"
    assert (
        shown(assign("order.1", 8, {"runner-a": 0.5, "runner-b": 0.25, "runner-c": 2.0}))
        == "cbaccccc"
    )


def test_a_type_s_shares_are_named_by_type_and_generation() -> None:
    members = [member(f"runner-{letter}") for letter in "abc"]
    named = assign("account.3", 16, {m.runner: 1.0 for m in members})
    assert owners("account", CUT, members) == named


def shown(found: tuple[str, ...]) -> str:
    return "".join(name[-1] for name in found)
