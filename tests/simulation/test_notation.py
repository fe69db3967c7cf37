"""The checker's own reader of MessagePack, against msgspec's writer."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from .notation import read

SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text()
TREES = st.recursive(
    SCALARS | st.binary(),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(), inner, max_size=20),
)


@given(TREES)
def test_it_reads_what_another_wrote(tree: Any) -> None:
    assert repr(read(msgspec.msgpack.encode(tree))) == repr(tree)


def test_json_is_told_by_its_first_byte() -> None:
    assert read(b'{"v":1}') == {"v": 1}


@pytest.mark.parametrize("size", [0, 20, 300, 70_000])
def test_every_size(size: int) -> None:
    for tree in ("x" * size, b"x" * size, [1] * size, {str(n): n for n in range(size)}):
        assert read(msgspec.msgpack.encode(tree)) == tree


@pytest.mark.parametrize("wrong", [b"\xc1", b"\x92\x01", b"\x01\x02", b""])
def test_what_is_neither_is_refused(wrong: bytes) -> None:
    with pytest.raises(ValueError, match=r"byte|cut"):
        read(wrong)
