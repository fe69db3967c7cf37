"""Told: what a client remembers of the entities it spoke to, so that its words stay in order.

Of each address the stream sequence of the last tell, which a later ask carries so that the owner
lets the tell come first, and the last log sequence seen in an answer, which a later query carries
so that the caller never reads a state older than one it has seen. Both are bounded, the address
unused for longest goes first. After that an unknown address of its type is no longer known to be
untold, and the client takes the slow way that needs no memory: it asks by the stream, and reads
from the leader.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from ..entities.address import Address


@dataclass(frozen=True, slots=True)
class ToldStatistics:
    """What a client remembers at one moment."""

    told: int  # addresses whose last tell is remembered
    seen: int  # addresses whose last log sequence is remembered
    forgot_told: bool  # one of the former was dropped for lack of room
    forgot_seen: bool  # one of the latter was


class Told:
    """The last tell and the last sight of each address, bounded."""

    def __init__(self, capacity: int) -> None:
        self._told = _Newest(capacity)
        self._seen = _Newest(capacity)

    def __repr__(self) -> str:
        return f"Told({self.statistics()})"

    def statistics(self) -> ToldStatistics:
        """Sizes, for metrics and operators."""
        return ToldStatistics(
            len(self._told.highest),
            len(self._seen.highest),
            self._told.forgot,
            self._seen.forgot,
        )

    def tell(self, address: Address, sequence: int) -> None:
        """A tell was stored, at this sequence of the command stream."""
        self._told.put(address, sequence)

    def see(self, address: Address, sequence: int) -> None:
        """An answer told of this sequence of the log."""
        self._seen.put(address, sequence)

    def after(self, address: Address) -> int | None:
        """The tell that an ask must come after; None if there is none that is remembered."""
        return self._told.get(address)

    def seen(self, address: Address) -> int | None:
        """The log sequence that a query must not be older than; None if none is remembered."""
        return self._seen.get(address)

    def may_have_told(self, address: Address) -> bool:
        """Whether a tell to it may have been forgotten: an ask must go by the stream then."""
        return self._told.lost(address)

    def may_have_seen(self, address: Address) -> bool:
        """Whether a sight of it may have been forgotten: a query must ask the leader then."""
        return self._seen.lost(address)


class _Newest:
    """The highest number of each address, bounded."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self.highest: OrderedDict[Address, int] = OrderedDict()
        # The highest number that was dropped, by type: each has a stream that counts for itself.
        self._dropped: dict[str, int] = {}

    @property
    def forgot(self) -> bool:
        return bool(self._dropped)

    def put(self, address: Address, number: int) -> None:
        known = self.highest.get(address)
        if known is None:
            if number <= self._dropped.get(address.entity, -1):
                return  # a newer one of it may have been dropped: it stays unknown
            self.highest[address] = number
        else:
            self.highest[address] = max(number, known)
            self.highest.move_to_end(address)
            return
        if len(self.highest) > self._capacity:
            oldest, dropped = self.highest.popitem(last=False)
            of = oldest.entity
            self._dropped[of] = max(dropped, self._dropped.get(of, -1))

    def get(self, address: Address) -> int | None:
        number = self.highest.get(address)
        if number is not None:
            self.highest.move_to_end(address)
        return number

    def lost(self, address: Address) -> bool:
        """Whether it is unknown, and may have been dropped."""
        return address.entity in self._dropped and self.get(address) is None
