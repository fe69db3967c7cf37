"""Chains: by which flows a question came, so that one that can never be answered is refused.

While a flow has its entity for itself, what it asks may ask that entity in turn: that waits for
the flow, which waits for it. So a question carries the flows that wait for it, in order.
"""

from __future__ import annotations

from typing import TypeAlias

from ..entities.address import Address
from .codec import digest

Chain: TypeAlias = tuple[str, ...]

DEPTH = 32
"""Flows that wait for one another, at most: each is an entity, and somebody's recursion."""
CHAIN_BYTES = 2048
"""What a chain may take of its envelope, in bytes. A longer one loses its first links, and tells
how many."""
DIGITS = 8
"""Of a flow's name in a link: an entity has few that are open."""


def link(address: Address, flow: str) -> str:
    """A flow that waits."""
    return f"{address}#{digest(flow.encode())[:DIGITS]}"


def longer(chain: Chain, added: str) -> Chain:
    """With one more at its end."""
    lost = depth(chain) - len(_links(chain))
    links = [*_links(chain), added]
    while len(links) > 1 and sum(len(each.encode()) + 3 for each in links) > CHAIN_BYTES:
        links.pop(0)
        lost += 1
    return (*((f"+{lost}",) if lost else ()), *links)


def depth(chain: Chain) -> int:
    """How many wait."""
    links = _links(chain)
    return len(links) + (int(chain[0][1:]) if len(links) < len(chain) else 0)


def shown(chain: Chain, last: Address) -> str:
    """For people: whose flows wait, and who was asked."""
    return " → ".join([*(each.rpartition("#")[0] or each for each in chain), str(last)])


def is_chain(chain: Chain) -> bool:
    """Whether it can be one."""
    counted = bool(chain) and chain[0].startswith("+")
    digits = not counted or (chain[0][1:].isascii() and chain[0][1:].isdigit())
    return digits and len(chain) <= DEPTH + 1 and all("#" in each for each in _links(chain))


def _links(chain: Chain) -> Chain:
    return chain[1:] if chain and chain[0].startswith("+") else chain
