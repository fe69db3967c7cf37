"""The secrets of resume tokens: from the settings, or one that the runners share.

Where the settings name none, the first runner makes one and keeps it in the members bucket, which
only runners and operators may read: a cluster works without more, and neither who reads the logs
nor who calls can make a token.
"""

from __future__ import annotations

import asyncio

from ..entities.settings import Settings
from ..streams.port import Session, Unreachable

SECRET_KEY = "secret.resume"
SECRET_BYTES = 32
RETRY_S = 0.2
"""Between tries, in seconds: without it no flow may run."""


async def resume_secrets(session: Session, settings: Settings) -> tuple[bytes, ...]:
    """The secrets, the one that signs first. Returns once there is one."""
    if settings.resume_secrets:
        return tuple(secret.encode() for secret in settings.resume_secrets)
    while True:
        try:
            found = await session.members.get(SECRET_KEY)
            if found is not None:
                return (bytes.fromhex(found.value.decode()),)
            made = session.entropy.token(SECRET_BYTES)
            if await session.members.put(SECRET_KEY, made.encode(), expected=0) is not None:
                return (bytes.fromhex(made),)
        except Unreachable:
            await asyncio.sleep(RETRY_S)
