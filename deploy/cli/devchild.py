"""The other end of `devrunner.py`: a runner process as `perdure dev` sees it."""

from __future__ import annotations

import signal

import msgspec

from ..child import Child
from .devrunner import PROGRAM, Given, Go, Loaded, Ready


class DevChild(Child):
    """One runner process, from loading to its end."""

    _hosting = False

    @classmethod
    async def with_app(cls, given: Given) -> DevChild:
        """Start one, which loads APP."""
        flags = ["-B"]  # two changes within a second would share one cached file
        return await cls.start(PROGRAM, given, tied=signal.SIGKILL, flags=flags)

    async def loaded(self) -> Loaded:
        """What it loaded; it has told why it failed. `files` is empty if it just ended."""
        line = await self.hear()
        return msgspec.json.decode(line, type=Loaded) if line else Loaded(False, (), ())

    async def host(self, url: str, changed: tuple[str, ...] = ()) -> bool:
        """Let it go; whether it hosts then. If not, it has told why and ends."""
        self.say(Go(url, changed))
        self._hosting = True  # it may own shards from now on
        line = await self.hear()
        if line:
            msgspec.json.decode(line, type=Ready)
        return bool(line)

    async def end(self, drain_s: float) -> int:
        """Drain and end it, or just end it if it hosts nothing; its exit code."""
        return await self.stop(drain_s, signal.SIGTERM if self._hosting else signal.SIGKILL)
