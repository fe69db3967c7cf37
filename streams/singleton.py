"""A singleton: a coroutine that runs on exactly one of the runners that declare it.

What its coroutine is given, and how a client reaches the runner beside it. Which runner it is, and
how it moves, is in durable/singleton.py.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from ..entities.errors import MalformedMessage

NAME_LENGTH = 100
"""Characters of a name at most: names stand in a record that each heartbeat writes."""

_NAME = re.compile(rf"[A-Za-z0-9_-]{{1,{NAME_LENGTH}}}")


class Singleton:
    """One term of a singleton: its coroutine's right to run.

    A runner that is frozen or cut off can't be told that another one took over. So give `term`
    along with whatever the coroutine writes elsewhere, and let the other side refuse a smaller one
    than it has seen: terms only grow.
    """

    name: str
    term: int
    """Greater than that of any run before, on any runner."""

    def __init__(self, name: str, term: int, held: Callable[[], bool]) -> None:
        self.name = name
        self.term = term
        self._held = held

    def __repr__(self) -> str:
        return f"Singleton({self.name!r}, term={self.term}, held={self.held()})"

    def held(self) -> bool:
        """Whether this term goes on, as far as this runner knows; once False, it stays so.

        It gets False just before the coroutine is cancelled.
        """
        return self._held()


Run: TypeAlias = Callable[[Singleton], Awaitable[object]]
"""What a singleton does."""

Declare: TypeAlias = Callable[[str, Run], Awaitable[None]]
"""Tells a runner of a singleton that it can run."""


def check_singleton(name: Any, run: Any) -> None:
    """Raises MalformedMessage unless these can be a singleton."""
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        shown = repr(name)[:60]
        raise MalformedMessage(
            cause=f"singleton: {shown} isn't a name, 1-{NAME_LENGTH} of A-Z a-z 0-9 _ -"
        )
    if not _takes_one(run):
        given = repr(run)[:60]
        why = f"singleton: give an async function of one parameter, the Singleton, not {given}"
        raise MalformedMessage(cause=why)


def _takes_one(run: Any) -> bool:
    """Whether it is an async function, or an object called like one, that takes a Singleton."""
    called: object = getattr(run, "__call__", None)  # noqa: B004 (a class's own method, async)
    if not (inspect.iscoroutinefunction(run) or inspect.iscoroutinefunction(called)):
        return False
    try:
        inspect.signature(run).bind(None)
    except TypeError:
        return False
    return True
