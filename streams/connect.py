"""Opening a session: which backend a URL means.

Backends are imported when they are wanted: a memory cluster needs no nats-py, and a real one none
of the memory backend.
"""

from __future__ import annotations

from ..entities.settings import MEMORY, Settings
from .port import Session, Unreachable
from .unreachable import unreachable


async def open_session(settings: Settings, name: str) -> Session:
    """A session at `settings.url`; `name` is shown by the server's tools.

    `memory:` is private to this session, `memory:NAME` shared in the process; everything else is
    a list of servers, divided by commas.

    Raises what the backend raises if it can't connect: RpcClientError when nothing answers,
    Incompatible when the server is too old.
    """
    if settings.url.startswith(MEMORY):
        from .memory.registry import broker_for

        return broker_for(settings.url, settings=settings).session(name, settings=settings)
    from .jetstream.session import open_session as open_jetstream

    try:
        return await open_jetstream(settings, name=name)
    except Unreachable as error:
        raise unreachable(error) from error
