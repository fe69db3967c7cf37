"""Singletons: the coroutines that this runner can run, each on exactly one of all that declare it.

Which of them it runs follows from the members' view, as for shards; how one is taken, run and
given back is a `Post`'s (durable/post.py). Terms are the fence where an old runner can't be told
that it was replaced: frozen, or cut off.
"""

from __future__ import annotations

import asyncio

from ..entities.errors import MalformedMessage, RunnerUnavailable
from ..entities.settings import Settings
from ..streams.members import HandOver, Released, encode_word
from ..streams.port import Session
from ..streams.singleton import Run
from .assignment import singleton_owner
from .membership import Membership
from .post import Post, State
from .tenure import Tenure

SINGLETONS = 64
"""Of one runner at most: their names stand in the record that each of its heartbeats writes."""


class Singletons:
    """All that this runner declares."""

    def __init__(self, session: Session, settings: Settings, membership: Membership) -> None:
        self._session, self._settings, self._membership = session, settings, membership
        self._posts: dict[str, Post] = {}
        self._closed = False
        self._background: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"Singletons({len(self.held)} of {len(self._posts)} run here)"

    @property
    def held(self) -> tuple[str, ...]:
        """The names of those that are with this runner."""
        return tuple(n for n, post in sorted(self._posts.items()) if post.running is not None)

    @property
    def states(self) -> dict[str, State]:
        """How each of those is."""
        posts = sorted(self._posts.items())
        return {name: post.running.state for name, post in posts if post.running is not None}

    @property
    def declared(self) -> dict[str, Run]:
        """What each of them does."""
        return {name: post.run for name, post in self._posts.items()}

    async def declare(self, name: str, run: Run) -> None:
        """This runner can run a singleton, from now on until it leaves.

        Raises MalformedMessage for one that is declared already or too many, RunnerUnavailable if
        the runner leaves or has left.
        """
        if self._closed or self._membership.own.leaving:
            raise RunnerUnavailable(
                cause=f"singleton {name}: the runner leaves, or has left",
                runner=self._membership.own.runner,
                may_have_taken_effect=False,
            )
        if name in self._posts:
            raise MalformedMessage(cause=f"singleton {name} is declared here already")
        if len(self._posts) >= SINGLETONS:
            raise MalformedMessage(cause=f"singleton {name}: a runner has {SINGLETONS} at most")
        session, view, own = self._session, self._membership.view, self._membership.own
        tenure = Tenure(session, view, own.runner, name)
        self._posts[name] = Post(session, self._settings, tenure, name, run, self._tell_later)
        await self._tell()

    def arrange(self) -> None:
        """Run those that are this runner's by the members' view, end the others."""
        members = self._membership.view.members() if self._posts else []
        for name, post in self._posts.items():
            post.assign(singleton_owner(name, members) == self._membership.own.runner)

    def expelled(self) -> None:
        """The others took this runner for dead."""
        for post in self._posts.values():
            post.expelled()

    def asked(self, word: HandOver, asker: str) -> None:
        """Another runner wants one of them."""
        post = self._posts.get(word.singleton)
        if post is None:
            self._session.asks.send(asker, encode_word(Released()))
        else:
            post.asked(asker)

    async def away(self) -> None:
        """Return when none is here any more."""
        while here := [post for post in self._posts.values() if not post.away.is_set()]:
            await here[0].away.wait()

    async def release(self) -> None:
        """Give back what is left."""
        self._closed = True
        await asyncio.gather(*(post.release() for post in self._posts.values()))
        await self._end_background()

    async def abandon(self) -> None:
        """End without a word."""
        self._closed = True
        await asyncio.gather(*(post.abandon() for post in self._posts.values()))
        await self._end_background()

    async def _end_background(self) -> None:
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)

    # -- what the others are told ---------------------------------------------------------------
    async def _tell(self) -> None:
        names = sorted(name for name, post in self._posts.items() if not post.stuck)
        await self._membership.change(singletons=tuple(names))

    def _tell_later(self) -> None:
        if self._closed:
            return
        task = asyncio.get_running_loop().create_task(self._tell())
        self._background.add(task)
        task.add_done_callback(self._background.discard)
