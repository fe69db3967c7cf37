"""Operating: what the commands for operators have in common.

They look at whole streams and not only at entities, so they need the connection beneath a session,
and a real server.
"""

from __future__ import annotations

from ...entities.settings import MEMORY, Settings
from ...streams.caller import Caller
from ...streams.jetstream.connection import Connection
from ...streams.jetstream.scan import names
from ...streams.jetstream.session import JetStreamSession
from ..checks import types_among
from .trouble import UsageError


def with_server(settings: Settings) -> Settings:
    """The settings, if they name a server. Raises UsageError."""
    if settings.url.startswith(MEMORY):
        raise UsageError(f"{settings.url} has no server", "give the --url of one")
    return settings


def has_server(caller: Caller) -> bool:
    """Whether a call goes to a server; else everything is in this process's memory."""
    return isinstance(caller.session, JetStreamSession)


def connection_of(caller: Caller) -> Connection:
    """The connection beneath a call's session."""
    session = caller.session
    assert isinstance(session, JetStreamSession), "with_server was not asked"
    return session.connection


async def types_of(caller: Caller) -> list[str]:
    """The entity types that have a log here, by name. Raises Unreachable, Incompatible."""
    subjects = caller.session.subjects
    return types_among(subjects, await names(connection_of(caller), subjects.log("*", "*")))
