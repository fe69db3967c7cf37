"""What a registration says, and how a page is written."""

from __future__ import annotations

import msgspec
import pytest

from perdure.streams.registration import (
    FORMAT,
    PAGE_BYTES,
    PARTS,
    Page,
    Unreadable,
    decode,
    encode,
)


def test_what_is_written_is_read_back() -> None:
    ids = ["a-1", "Zoë", '"quoted"', "line\nbreak", "日本"]
    assert decode(encode(ids)) == ids
    assert encode(["a-1"]) == b'{"v":1,"ids":["a-1"]}'


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"null",
        b"[]",
        b"\xff\xfe",
        b'{"v":1}',
        b'{"ids":["a"]}',
        b'{"v":1,"ids":[1]}',
        b'{"v":1,"ids":"a"}',
        b'{"stream":"PERDURE_CMD_account","seq":7}',
        b'{"v":1,"ids":["\xff"]}',
    ],
)
def test_anything_else_is_foreign(data: bytes) -> None:
    assert decode(data) is None


def test_a_newer_format_is_refused_and_a_new_field_ignored() -> None:
    with pytest.raises(Unreadable, match=f"format {FORMAT + 1}"):
        decode(msgspec.json.encode({"v": FORMAT + 1, "ids": ["a"]}))
    assert decode(b'{"v":1,"ids":["a"],"more":true}') == ["a"]


def test_a_page_is_rolled_up_after_its_last_part() -> None:
    page = Page("p-1")
    ids = [f"a-{n}" for n in range(PARTS + 1)]
    for id in ids[: PARTS - 2]:
        assert page.next([id]) == (encode([id]), False)
        assert not page.full
    assert page.next(ids[PARTS - 2 : PARTS]) == (encode(ids[PARTS - 2 : PARTS]), False)
    data, whole = page.next(ids[PARTS:])
    assert (decode(data), whole, page.full) == (ids, True, True)


def test_a_page_of_large_parts_is_full_and_left_as_it_is() -> None:
    page = Page("p-1")
    ids = [f"{n:0250}" for n in range(PAGE_BYTES // 250 + 1)]
    assert page.next(ids) == (encode(ids), False)
    assert page.full


def test_the_whole_of_a_page_fits_into_a_message_whatever_its_ids_are() -> None:
    """Characters that JSON writes in six bytes; the largest part comes last."""
    page, odd = Page("p-1"), "\x01" * 255
    for n in range(PARTS - 1):
        data, _ = page.next([f"{n}{odd[: PAGE_BYTES // PARTS // 6 - 8]}"])
        assert not page.full
    data, whole = page.next([f"{n}{odd[:250]}" for n in range(500)])
    assert whole
    assert len(data) < 1024**2
