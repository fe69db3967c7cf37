"""A payment provider, as far as an example needs one: an in-house stand-in for Stripe or Adyen.

What matters is that it is like them: it stands outside of the shop, it has its own books, and it
is idempotent. The same key is the same charge, however often it is sent, and a refund of a charge
that never came keeps that charge from being taken later.

Cards: `declined…` is declined. `flaky…` is charged, but the first answer is lost on its way.
`down…` gets no answer at all. Every other card is good.
"""

from __future__ import annotations

import asyncio

import outside

GIVEN_BACK = "that charge was given back"
OTHER_AMOUNT = "that key was for another amount"


class CardDeclined(Exception):
    """The provider says no, and that is final."""


class NoAnswer(Exception):
    """Whether it was charged isn't known."""


async def charge(card: str, cents: int, *, idempotency_key: str) -> str:
    """Take money from a card; the name of the charge. Raises CardDeclined, NoAnswer."""
    return await asyncio.to_thread(_charge, card, cents, idempotency_key)


async def refund(charge: str) -> int:
    """Give back all of a charge, once; how much that was, in cents."""
    return await asyncio.to_thread(_refund, charge)


def books() -> dict[str, int]:
    """What each charge took in the end, in cents: 0 if it was given back."""
    with outside.opened() as db:
        return dict(db.execute("SELECT key, taken - given_back FROM charges"))


def _charge(card: str, cents: int, key: str) -> str:
    if card.startswith("down"):
        raise NoAnswer(f"{card}: no answer")
    if card.startswith("declined"):
        raise CardDeclined("insufficient funds")
    with outside.opened() as db:
        row = db.execute("SELECT taken, given_back FROM charges WHERE key = ?", (key,)).fetchone()
        if row is None:
            db.execute(
                "INSERT INTO charges (key, card, taken) VALUES (?, ?, ?)", (key, card, cents)
            )
    if row not in (None, (cents, 0)):
        raise CardDeclined(GIVEN_BACK if row[1] or not row[0] else OTHER_AMOUNT)
    if row is None and card.startswith("flaky"):
        raise NoAnswer(f"{card}: the answer was lost")
    return key


def _refund(charge: str) -> int:
    with outside.opened() as db:
        db.execute("INSERT OR IGNORE INTO charges (key, card, taken) VALUES (?, '', 0)", (charge,))
        db.execute("UPDATE charges SET given_back = taken WHERE key = ?", (charge,))
        (cents,) = db.execute("SELECT given_back FROM charges WHERE key = ?", (charge,)).fetchone()
    return int(cents)
