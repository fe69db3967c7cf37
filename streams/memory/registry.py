"""Which broker a `memory:` URL means.

`memory:` is private: each connect has its own. `memory:NAME` is shared by everybody in this
process who says the same name, for as long as the process lives or until `forget`.
"""

from __future__ import annotations

from ...entities.clock import Clock, SystemClock
from ...entities.settings import Settings
from .broker import MemoryBroker

SCHEME = "memory:"

_shared: dict[str, MemoryBroker] = {}


def shared_broker(
    name: str, clock: Clock | None = None, settings: Settings | None = None
) -> MemoryBroker:
    """The broker of a name; clock and settings count for whoever comes first."""
    broker = _shared.get(name)
    if broker is None:
        broker = _shared[name] = MemoryBroker(clock or SystemClock(), settings)
    return broker


def broker_for(
    url: str, clock: Clock | None = None, settings: Settings | None = None
) -> MemoryBroker:
    """The broker of a URL. Raises ValueError if it isn't `memory:` or `memory:NAME`."""
    if not url.startswith(SCHEME):
        raise ValueError(f"not a memory URL: {url!r} (write memory: or memory:NAME)")
    name = url[len(SCHEME) :]
    if name:
        return shared_broker(name, clock, settings)
    return MemoryBroker(clock or SystemClock(), settings)


def forget(name: str) -> None:
    """Drop a shared broker; who uses it keeps it, the next to say the name gets a new one."""
    _shared.pop(name, None)
