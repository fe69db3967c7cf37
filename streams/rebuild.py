"""Rebuild: put into a type's registry of ids what its log has and it hasn't.

A repair, for a registry that was lost, or that a runner couldn't reach when it ended. It asks the
log for its subjects, which is what the registry is there to avoid: those who publish wait for up
to half a second at each 100,000 ids. It may run while runners do, and be ended and begun again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from .listing import Listing
from .port import Appended, Session, Unreachable
from .registration import encode
from .subjects import unescape

TOGETHER = 500
"""Ids in one message, as a runner writes them at most."""
NAME_BYTES = 6
"""Random bytes in the pages' name: no runner and no other repair writes to them."""


async def rebuild(session: Session, entity: str) -> AsyncIterator[int]:
    """Register what is missing; after each message how many ids it added. Raises ClusterError.

    It holds all ids of the type in memory, about 150 bytes each.
    """
    known = {id async for id in Listing(session, entity, "", (0, 0))}
    name = f"repair-{session.entropy.token(NAME_BYTES)}"
    skip = 0
    while page := await session.ids.logged(entity, skip=skip):
        skip += len(page)
        missing = [id for id in _ids(page) if id not in known]
        for start in range(0, len(missing), TOGETHER):
            part = missing[start : start + TOGETHER]
            answer = await session.ids.add(entity, name, encode(part), whole=False)
            if not isinstance(answer, Appended):
                raise Unreachable(f"the registry of {entity} took nothing: {answer}")
            known.update(part)
            yield len(part)


def _ids(tokens: list[str]) -> Iterator[str]:
    """The ids of the tokens that are an id's: others were published by somebody else."""
    for token in tokens:
        try:
            yield unescape(token)
        except ValueError:
            continue
