"""A claim: how a shard is got from the runner that has it, and how it is let go of.

Who is to own a shard by the members' view asks whoever still holds its term, again and again. An
owner that agrees finishes what is in hand, gives the term back and says so; one whose own view is
older keeps it until it hears. One that doesn't answer loses it after a while, by force: that is
safe, since the append condition lets one of the two write, but what the other had in hand is done
again.
"""

from __future__ import annotations

import asyncio
import logging

from ..streams.members import Kept, Release, Released, Word, encode_word
from ..streams.subjects import Sharding
from .host import Host
from .term import holders, released

logger: logging.Logger = logging.getLogger("perdure.claim")

PATIENCE_S = 15.0
STRANGER_S = 0.9
"""How long a shard that is ours by the members' view is asked for before it is taken by force, in
seconds: from a member, which may finish something long, and from a stranger: dead or frozen, so
that one request without an answer is enough (RELEASE_S)."""

WAITING = 16
"""Runners that wait for a shard at most: one has it next, more only while views differ."""


class Claim:
    """What one shard's runner asks of others, and what they ask of it."""

    def __init__(self, host: Host, sharding: Sharding, number: int) -> None:
        self._host, self._sharding, self._number = host, sharding, number
        self._asked: tuple[str, float] | None = None  # who is asked for it, and since when
        self._waiting: dict[str, str] = {}  # each runner that asks for it, where it is told

    def __repr__(self) -> str:
        asked = "nobody" if self._asked is None else self._asked[0]
        return f"Claim(asks {asked}, {len(self._waiting)} wait)"

    # -- for the shard --------------------------------------------------------------------------
    async def free(self) -> bool:
        """Whether nobody holds the shard for whom one should wait. Raises Unreachable."""
        host = self._host
        held = await holders(host.session, host.entity.name, self._sharding, self._number)
        owners = {info.owner for info in held} - {"", host.runner}
        return all([await self._released_by(owner) for owner in sorted(owners)])

    def withdraw(self) -> None:
        """The shard isn't wanted any more."""
        self._asked = None

    async def _released_by(self, owner: str) -> bool:
        """Ask an owner for the shard; whether it is to be had, by its word or by force."""
        now = asyncio.get_running_loop().time
        asked = self._asked
        if asked is None or asked[0] != owner:
            asked = self._asked = owner, now()
        host, sharding = self._host, self._sharding
        word = Release(host.entity.name, sharding.generation, self._number, runner=host.runner)
        if await released(host.session, owner, word):
            self._asked = None
            return True
        patience_s = PATIENCE_S if owner in host.view else STRANGER_S
        if now() - asked[1] < patience_s:
            return False
        logger.warning(
            "shard %d of %s is taken from runner %s, which doesn't give it back",
            self._number,
            host.entity.name,
            owner,
            extra={"action": "shard.forced", "owner": owner},
        )
        self._asked = None
        return True

    # -- for other runners ----------------------------------------------------------------------
    def asked_by(self, runner: str, asker: str, *, away: bool, ours: bool) -> None:
        """Another runner wants the shard: it is told at `asker` once it is to be had.

        `away`: nothing of it is here; `ours`: it is this runner's by its own view.
        """
        if away:
            self._say(asker, Released())
        elif ours:
            self._say(asker, Kept())
        elif runner in self._waiting or len(self._waiting) < WAITING:
            self._waiting[runner] = asker

    def released(self) -> None:
        """Nothing of the shard is here any more: tell those who wait for it."""
        waiting, self._waiting = self._waiting, {}
        for asker in waiting.values():
            self._say(asker, Released())

    def _say(self, asker: str, word: Word) -> None:
        self._host.session.asks.send(asker, encode_word(word))
