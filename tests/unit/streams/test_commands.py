"""How a stored tell and a shard's consumer are named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.entities.key import is_key
from perdure.streams.asks import reply_allowed
from perdure.streams.commands import CAUSE, TermName, cause_of, parse_term
from perdure.streams.commit import At

numbers = st.integers(0, 2**63 - 1)
ats = st.builds(At, numbers, numbers, numbers)
hashes = st.text("0123456789abcdef", min_size=32, max_size=32)


@given(ats, hashes, ats, hashes)
def test_two_tells_have_two_causes(one: At, hash1: str, two: At, hash2: str) -> None:
    same = one == two and hash1[:16] == hash2[:16]
    assert (cause_of(one, hash1) == cause_of(two, hash2)) is same


@given(ats, hashes)
def test_a_cause_is_neither_a_key_nor_a_reply_subject(at: At, hash: str) -> None:
    cause = cause_of(at, hash)
    assert cause.startswith(CAUSE)
    assert not is_key(cause)
    assert not reply_allowed(cause, ("_INBOX", "_R_", "perdure.reply"))


def test_a_sequence_given_out_again_is_another_cause() -> None:
    before, after = At(1, 7, 1_000), At(1, 7, 2_000)
    assert cause_of(before, "0" * 32) != cause_of(after, "0" * 32)
    assert cause_of(before, "0123456789abcdef" * 2) == "@1.7.1000.0123456789abcdef"


terms = st.builds(
    TermName,
    st.integers(0, 10**9 - 1),
    st.integers(0, 10**9 - 1),
    st.integers(0, 10**18 - 1),
    st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=32),
)


@given(terms)
def test_a_term_comes_back_from_its_name(term: TermName) -> None:
    assert parse_term(str(term)) == term


def test_a_terms_name() -> None:
    assert str(TermName(1, 7, 43, "x8k2")) == "g1-s7-t43-x8k2"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "relay",
        "g1-s7-t43",
        "g1-s7-t43-",
        "g1-s7-t43-X",
        "g1-s7-t-x",
        "g-1-s7-t43-x",
        "g1-s7-t43-x8k2 ",
        "g1-s7-t43-x\n",
        " g1-s7-t43-x",
        "g1-s7-t43-" + "x" * 33,
        "g\N{ARABIC-INDIC DIGIT ONE}-s7-t43-x",
        "g01-s7-t43-x",
        "g1-s7-t043-x",
        "g1-s7-t" + "9" * 19 + "-x",
    ],
)
def test_a_foreign_consumer_is_no_term(name: str) -> None:
    assert parse_term(name) is None


@given(st.text(max_size=40))
def test_no_other_name_is_a_term(name: str) -> None:
    term = parse_term(name)
    assert term is None or str(term) == name
