"""Tags: how names become them."""

from __future__ import annotations

import pytest

from perdure import snake


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("Withdraw", "withdraw"),
        ("GetBalance", "get_balance"),
        ("HTTPCall", "http_call"),
        ("V2Open", "v2_open"),
        ("already_snake", "already_snake"),
        ("", ""),
    ],
)
def test_snake(name: str, tag: str) -> None:
    assert snake(name) == tag
