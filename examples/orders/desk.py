"""The desk of whoever approves large orders: what lies on it, in the file of `outside.py`.

A request carries the token of the order's flow. Whoever holds that may decide, once, from anywhere
and in any language; `approve.py` does it in Python.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import outside


class Request(NamedTuple):
    """One order that wants to be approved."""

    cents: int
    token: str


async def put(order: str, cents: int, token: str) -> None:
    """Put a request on the desk. Twice is once: an order has one."""
    await asyncio.to_thread(_put, order, cents, token)


async def clear(order: str) -> None:
    """It is decided, or too late."""
    await asyncio.to_thread(_clear, order)


def requests() -> dict[str, Request]:
    """What lies there, by order."""
    with outside.opened() as db:
        rows = db.execute('SELECT "order", cents, token FROM requests ORDER BY "order"')
        return {order: Request(cents, token) for order, cents, token in rows}


def _put(order: str, cents: int, token: str) -> None:
    with outside.opened() as db:
        db.execute("INSERT OR REPLACE INTO requests VALUES (?, ?, ?)", (order, cents, token))


def _clear(order: str) -> None:
    with outside.opened() as db:
        db.execute('DELETE FROM requests WHERE "order" = ?', (order,))
