"""Bugs on purpose in how several runners share the shards; see planted.py.

Most of what could be wrong there breaks no promise: the append condition lets one of two owners
write, and views mend themselves. So these are the ones that take that away: what is acknowledged
though nobody did it, what nobody owns, and what never heals.

Tried, and nothing that a caller could notice in 120 seeds: who should give a shard back says
`Released` before it has; a refused term deletes the winner's consumer; one listing is enough for a
member to be dropped; a record counts whatever its edition; what a live owner had been given is
suspect, which takes handlers that outlast several owners.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from perdure.durable import membership, runner, shard, term
from perdure.durable.activation import Activation
from perdure.durable.claim import Claim
from perdure.durable.membership import Membership
from perdure.durable.ring import Health
from perdure.streams.memory.ports import MemoryLog
from perdure.streams.port import Append
from perdure.streams.subjects import escape

from .planting import Patches, bug


async def _yes(*_: Any) -> bool:
    return True


async def _no(*_: Any) -> bool:
    return False


# -- shards ---------------------------------------------------------------------------------------
@bug
def a_shard_is_taken_unasked_and_unfenced() -> Patches:
    """Whoever has a shard by its view takes it, and appends whatever another wrote meanwhile."""
    real: Any = getattr(MemoryLog, "_store")  # noqa: B009

    def store(self: Any, appends: Sequence[Append]) -> Any:
        logs = getattr(self, "_streams").logs  # noqa: B009
        ends = [(one, logs[one.address.entity].last(escape(one.address.id))) for one in appends]
        now = [
            Append(one.address, one.commit, 0 if end is None else end.sequence)
            for one, end in ends
        ]
        return real(self, now)

    return [(Claim, "free", _yes), (MemoryLog, "_store", store)]


@bug
def what_is_in_hand_is_acked_when_a_shard_goes() -> Patches:
    """A hand-over acknowledges what it holds, and gives the shard away before that is done."""
    real = Activation.let_go

    def let_go(self: Any, reason: str) -> None:
        held = self.shard.term
        for item in self.mailbox.queue:
            if item.way == "tell" and held is not None and item.consumer == held.name:
                held.ack(item.handle)
        real(self, reason)

    return [(Activation, "let_go", let_go), (shard.Shard, "_busy", False)]


@bug
def a_handed_over_shard_keeps_its_term() -> Patches:
    """A hand-over says that the shard is to be had, and goes on taking its tells."""
    real: Any = getattr(shard.Shard, "_hand_over")  # noqa: B009

    async def hand_over(self: Any) -> None:
        kept = self.term
        self.term = None
        await real(self)
        self.term = kept

    return [(shard.Shard, "_hand_over", hand_over)]


@bug
def everybody_owns_everything() -> Patches:
    """Shards aren't divided among those who are there."""

    def owners(entity: Any, sharding: Any, members: Any) -> Any:
        return ("",) * sharding.shards

    def arrange(self: Any) -> None:
        for one in self.shards:
            one.assign(True)

    return [(runner, "owners", owners), (runner.Hosted, "arrange", arrange)]


# -- suspects -------------------------------------------------------------------------------------
@bug
def nobody_is_ever_gone() -> Patches:
    """What a dead owner had been given isn't suspect."""
    return [(term, "is_gone", _no)]


# -- members --------------------------------------------------------------------------------------
@bug
def who_was_taken_for_dead_stays_out() -> Patches:
    """A runner that the others took for dead never tells them otherwise."""
    real: Any = getattr(Membership, "_renew")  # noqa: B009

    def renew(self: Any, **fields: Any) -> None:
        if fields:
            real(self, **fields)

    return [(Membership, "_renew", renew)]


@bug
def lost_news_stay_lost() -> Patches:
    """Views aren't compared, and the bucket is read once, by who joins."""
    real: Any = getattr(Membership, "_list")  # noqa: B009

    async def listed(self: Any) -> None:
        if not self._timers:
            await real(self)

    return [(Membership, "_list", listed)]


@bug
def the_dead_are_not_noticed() -> Patches:
    """Nobody pings; records go by themselves in the end."""

    def health(**_: Any) -> Health:
        return Health.WELL

    return [(membership, "health", health)]
