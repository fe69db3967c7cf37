"""Members: what runners tell each other, and what one makes of it."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.streams.codec import Undecodable
from perdure.streams.members import (
    GONE_KEPT,
    Drain,
    Draining,
    Gone,
    HandOver,
    Hosting,
    Kept,
    Member,
    Ping,
    Release,
    Released,
    View,
    Word,
    decode_word,
    encode_word,
    member_key,
)
from perdure.streams.port import ENTRIES

FULL = Member(
    runner="0a1b",
    edition=3,
    types=(Hosting(entity="account", generation=2, version="v", label="gpu"),),
    weight=2.5,
    labels=("gpu", "eu-west"),
    machine=7,
    leaving=True,
    host="box",
    process=4711,
    since=1_700_000_000_000,
    singletons=("nightly",),
)


def there(runner: str, edition: int = 1) -> Member:
    return Member(runner=runner, edition=edition)


def seen(*members: Member) -> View:
    view = View()
    for member in members:
        assert view.add(member)
    return view


def names(view: View) -> list[str]:
    return [member.runner for member in view.members()]


# -- news -------------------------------------------------------------------------------------
def test_a_newer_edition_takes_the_place_of_an_older_one() -> None:
    view = seen(there("a"), there("a", 3))
    assert not view.add(there("a", 2))
    assert not view.add(there("a", 3))
    found = view.get("a")
    assert found is not None
    assert found.edition == 3


def test_members_come_by_their_names() -> None:
    assert names(seen(there("c"), there("a"), there("b"))) == ["a", "b", "c"]
    assert repr(seen(there("c"), there("a"))) == "View(a, c)"


def test_who_went_stays_gone_until_it_joins_with_a_higher_edition() -> None:
    view = seen(there("a", 2), there("b"))
    assert view.remove(Gone("a", 2))
    assert "a" not in view
    assert not view.remove(Gone("a", 2))  # no news
    assert not view.add(there("a", 1))
    assert not view.add(there("a", 2))  # late
    assert names(view) == ["b"]
    assert view.add(there("a", 3))
    assert "a" in view


def test_a_late_word_that_one_went_does_not_remove_who_joined_again() -> None:
    view = seen(there("a", 3))
    assert not view.remove(Gone("a", 2))
    assert "a" in view
    assert view.gone("a") == 2


def test_who_went_before_it_was_heard_of_is_not_there() -> None:
    view = View()
    assert not view.remove(Gone("a", 5))
    assert view.gone("a") == 5
    assert not view.add(there("a", 5))
    assert not view.remove(Gone("a", 4))  # an older word forgets nothing
    assert view.gone("a") == 5
    assert view.gone("b") == 0
    assert view.add(there("a", 6))


news = st.lists(
    st.builds(there, st.sampled_from("abc"), st.integers(1, 4))
    | st.builds(Gone, st.sampled_from("abc"), st.integers(1, 4)),
    min_size=1,
    max_size=12,
)


@given(news, st.randoms())
def test_the_order_of_news_does_not_matter_nor_do_repeats(
    words: list[Member | Gone], chance: random.Random
) -> None:
    mixed = [*chance.sample(words, len(words)), *chance.choices(words, k=5)]
    assert names(fed(words)) == names(fed(mixed))
    assert fed(words).members() == fed(mixed).members()


def fed(words: list[Member | Gone]) -> View:
    view = View()
    for word in words:
        if isinstance(word, Member):
            view.add(word)
        else:
            view.remove(word)
    return view


# -- digests ----------------------------------------------------------------------------------
@given(news, news)
def test_the_digest_tells_views_apart(
    words: list[Member | Gone], others: list[Member | Gone]
) -> None:
    one, other = fed(words), fed(others)
    assert (one.digest == other.digest) is (one.members() == other.members())


def test_the_digest_follows_each_change() -> None:
    view = View()
    seen_digests = [view.digest]
    changes: list[Callable[[], bool]] = [
        partial(view.add, there("a")),
        partial(view.add, there("b")),
        partial(view.add, there("b", 2)),
        partial(view.remove, Gone("a", 1)),
        partial(view.compare, [there("c")], "own"),
        partial(view.compare, [there("c")], "own"),  # b is missing a second time
    ]
    for change in changes:
        assert change()
        seen_digests.append(view.digest)
    assert len(set(seen_digests)) == len(seen_digests)


# -- bounds -----------------------------------------------------------------------------------
def test_so_many_that_went_are_remembered() -> None:
    view = View()
    for number in range(GONE_KEPT):
        view.remove(Gone(f"r{number}", 1))
    view.remove(Gone("r0", 2))  # the news of it is fresh now
    view.remove(Gone("one-more", 1))
    assert view.gone("r0") == 2
    assert view.gone("r1") == 0
    assert view.gone("r2") == view.gone("one-more") == 1


def test_no_more_members_than_a_listing_has() -> None:
    view = seen(*(there(f"r{number}") for number in range(ENTRIES)))
    assert not view.add(there("one-more"))
    assert view.add(there("r0", 2))
    view.remove(Gone("r1", 1))
    assert view.add(there("one-more"))
    assert len(view.members()) == ENTRIES


# -- listings ---------------------------------------------------------------------------------
def test_who_is_listed_is_there() -> None:
    view = seen(there("own"))
    assert view.compare([there("own"), there("a", 2)], "own")
    assert not view.compare([there("own"), there("a", 2)], "own")
    assert view.compare([there("own"), there("a", 3)], "own")
    assert names(view) == ["a", "own"]


def test_a_stale_listing_brings_nobody_back() -> None:
    view = seen(there("own"), there("a", 2))
    view.remove(Gone("a", 2))
    assert not view.compare([there("own"), there("a", 2)], "own")
    assert "a" not in view


def test_only_who_is_missing_in_two_listings_that_follow_each_other_has_gone() -> None:
    view = seen(there("own"), there("a"), there("b"))
    both, without = [there("a"), there("b")], [there("b")]
    assert not view.compare(without, "own")
    assert not view.compare(both, "own")
    assert not view.compare(without, "own")
    assert names(view) == ["a", "b", "own"]
    assert view.compare(without, "own")
    assert names(view) == ["b", "own"]


def test_who_shows_itself_between_two_listings_has_not_gone() -> None:
    view = seen(there("own"), there("a"))
    assert not view.compare([], "own")
    assert view.add(there("a", 2))
    assert not view.compare([], "own")
    assert "a" in view


def test_a_runner_s_own_record_may_be_missing() -> None:
    view = seen(there("own"))
    assert not view.compare([], "own")
    assert not view.compare([], "own")
    assert "own" in view


def test_who_was_missing_by_mistake_comes_back_with_the_next_listing() -> None:
    """Two listings of one replica that lags behind: nobody said that it went."""
    view = seen(there("own"), there("a"))
    view.compare([], "own")
    assert view.compare([], "own")
    assert "a" not in view
    assert view.compare([there("a")], "own")
    assert "a" in view


# -- the wire ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "word",
    [
        FULL,
        there("a"),
        Gone("a", 0),
        Release("account", 1, 15, "a"),
        HandOver("nightly", "a"),
        Ping("d"),
        Drain(),
        Released(),
        Kept(),
        Draining(),
    ],
    ids=lambda word: type(word).__name__,
)
def test_words_come_back(word: Word) -> None:
    assert decode_word(encode_word(word)) == word


def test_what_words_look_like() -> None:
    """Runners of two releases talk: a change here is a change of the wire."""
    assert encode_word(there("a")) == b'{"type":"member","runner":"a","edition":1}'
    assert encode_word(FULL) == (
        b'{"type":"member","runner":"0a1b","edition":3,"types":[{"entity":"account",'
        b'"generation":2,"version":"v","label":"gpu"}],"weight":2.5,"labels":["gpu","eu-west"],'
        b'"machine":7,"leaving":true,"host":"box","process":4711,"since":1700000000000,'
        b'"singletons":["nightly"]}'
    )
    assert encode_word(Gone("a", 2)) == b'{"type":"gone","runner":"a","edition":2}'
    assert encode_word(Release("account", 1, 2, "a")) == (
        b'{"type":"release","entity":"account","generation":1,"shard":2,"runner":"a"}'
    )
    assert encode_word(HandOver("nightly", "a")) == (
        b'{"type":"hand_over","singleton":"nightly","runner":"a"}'
    )
    assert encode_word(Ping("d")) == b'{"type":"ping","view":"d"}'
    assert [encode_word(word) for word in (Drain(), Released(), Kept(), Draining())] == [
        b'{"type":"drain"}',
        b'{"type":"released"}',
        b'{"type":"kept"}',
        b'{"type":"draining"}',
    ]
    assert member_key("0a1b") == "member.0a1b"


def test_what_a_later_release_adds_is_left_out() -> None:
    body = msgspec.json.decode(encode_word(FULL)) | {"more": [1, {"x": 2}]}
    assert decode_word(msgspec.json.encode(body)) == FULL


def gone(**changes: Any) -> bytes:
    return msgspec.json.encode({"type": "gone", "runner": "a", "edition": 1, **changes})


def joined(**changes: Any) -> bytes:
    return msgspec.json.encode({"type": "member", "runner": "a", "edition": 1, **changes})


def test_the_templates_of_hostile_words_are_good() -> None:
    assert decode_word(gone()) == Gone("a", 1)
    assert decode_word(joined()) == there("a")
    assert decode_word(gone(edition=2**53)) == Gone("a", 2**53)
    assert decode_word(joined(edition=2**53 + 1, runner="a-Z_0=9")).__class__ is Member


DEEP = b"[" * 100_000
HOSTILE = {
    "nothing": b"",
    "no JSON": b"\xff\xfe",
    "half": gone()[:-1],
    "more after it": gone() + b"x",
    "null": b"null",
    "a list": b"[1]",
    "no type": b'{"runner":"a","edition":1}',
    "another type": b'{"type":"other"}',
    "no text": b'{"type":"gone","runner":"\xff","edition":1}',
    "half a pair": b'{"type":"gone","runner":"\\ud800","edition":1}',
    "deep": DEEP,
    "deep types": b'{"type":"member","runner":"a","edition":1,"types":' + DEEP,
    "deep in what isn't known": b'{"type":"member","runner":"a","edition":1,"x":' + DEEP,
    "deep and closed": b'{"type":"drain","x":' + DEEP + b"]" * 100_000 + b"}",
    "no runner": b'{"type":"gone","edition":1}',
    "a runner of another type": gone(runner=1),
    "an empty runner": joined(runner=""),
    "two tokens": joined(runner="a.b"),
    "a wildcard": joined(runner="*"),
    "all": gone(runner=">"),
    "white space": joined(runner="a b"),
    "a line's end": joined(runner="a\n"),
    "a long runner": joined(runner="a" * 256),
    "an asker that is no token": b'{"type":"release","entity":"x","generation":1,"shard":0,'
    b'"runner":"a b"}',
    "edition as a text": joined(edition="1"),
    "edition as a float": joined(edition=1.5),
    "no edition": joined(edition=None),
    "edition 0": joined(edition=0),
    "a negative edition": gone(edition=-1),
    "an edition that nobody can follow": gone(edition=2**53 + 1),
    "an edition beyond 64 bits": b'{"type":"member","runner":"a","edition":' + b"9" * 400 + b"}",
    "weight 0": joined(weight=0),
    "a negative weight": joined(weight=-1),
    "a weight beyond floats": b'{"type":"member","runner":"a","edition":1,"weight":1e999}',
    "an immense weight": joined(weight=1e300),
    "no number": b'{"type":"member","runner":"a","edition":1,"weight":NaN}',
    "a view as a number": b'{"type":"ping","view":1}',
    "labels as a text": joined(labels="gpu"),
    "types as a table": joined(types={"entity": "x"}),
    "a type without generation": joined(types=[{"entity": "x"}]),
    "leaving as a number": joined(leaving=1),
    "a machine as a text": joined(machine="7"),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_bytes_are_undecodable(data: bytes) -> None:
    with pytest.raises(Undecodable):
        decode_word(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_word_or_undecodable(data: bytes) -> None:
    try:
        word = decode_word(data)
    except Undecodable:
        return
    assert decode_word(encode_word(word)) == word
