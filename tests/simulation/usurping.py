"""Bugs on purpose in how several runners share the shards; see planted.py.

Most of what could be wrong there breaks no promise: the append condition lets one of two owners
write, and views mend themselves. So these are the ones that take that away: what is acknowledged
though nobody did it, what nobody owns, and what never heals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from perdure.durable import membership, runner, shard, term
from perdure.durable.activation import Activation
from perdure.durable.claim import Claim
from perdure.durable.membership import Membership
from perdure.streams.members import View
from perdure.streams.memory.ports import MemoryLog
from perdure.streams.port import Append, Taken
from perdure.streams.subjects import escape

from .planting import Patches, bug


async def _yes(*_: Any) -> bool:
    return True


async def _no(*_: Any) -> bool:
    return False


async def _nothing_later(*_: Any) -> None:
    return None


def _nothing(*_: Any, **__: Any) -> None:
    return None


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


@bug
def released_at_once() -> Patches:
    """An owner that should give a shard back says so before it has finished what it holds."""
    real = Claim.asked_by

    def asked_by(self: Any, runner: str, asker: str, *, away: bool, ours: bool) -> None:
        real(self, runner, asker, away=True, ours=ours)

    return [(Claim, "asked_by", asked_by)]


@bug
def a_refused_term_removes_the_winner() -> Patches:
    """Whose creation of a consumer was refused deletes the one that was there."""
    real = term.take

    async def take(session: Any, entity: str, sharding: Any, number: int, **rest: Any) -> Any:
        try:
            return await real(session, entity, sharding, number, **rest)
        except Taken:
            for info in await term.holders(session, entity, sharding, number):
                await session.commands.delete(entity, info.name)
            raise

    return [(shard, "take", take)]


# -- suspects -------------------------------------------------------------------------------------
@bug
def a_live_owner_makes_suspects() -> Patches:
    """Whatever another had been given counts as what may have killed it."""
    return [(term, "is_gone", _yes)]


@bug
def nobody_is_ever_gone() -> Patches:
    """What a dead owner had been given isn't suspect."""
    return [(term, "is_gone", _no)]


# -- members --------------------------------------------------------------------------------------
@bug
def who_was_taken_for_dead_stays_out() -> Patches:
    """A runner that the others took for dead doesn't join again."""
    real: Any = getattr(Membership, "_expelled")  # noqa: B009

    def expelled(self: Any) -> None:
        self._on_expelled()

    return [(Membership, "_expelled", expelled)] if real else []


@bug
def lost_news_stay_lost() -> Patches:
    """Views aren't compared, and the bucket is read once, by who joins."""
    real: Any = getattr(Membership, "_list")  # noqa: B009

    async def listed(self: Any) -> None:
        if not self._timers:
            await real(self)

    return [(Membership, "_list", listed)]


@bug
def one_listing_is_enough() -> Patches:
    """Who is missing in one listing, that may be stale, has gone."""
    real = View.compare

    def compare(self: Any, listed: Any, own: str) -> bool:
        listed = list(listed)
        first = real(self, listed, own)
        return real(self, listed, own) or first

    return [(View, "compare", compare)]


@bug
def late_news_bring_the_gone_back() -> Patches:
    """A record of a runner that went counts, whatever its edition."""

    def gone(self: Any, runner: str) -> int:
        return 0

    return [(View, "gone", gone)]


@bug
def the_dead_are_not_noticed() -> Patches:
    """Nobody pings; records go by themselves in the end."""
    return [(membership, "health", lambda **_: membership.Health.WELL)]
