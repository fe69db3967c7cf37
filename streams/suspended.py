"""Suspended: the flows of a type that are open, found by their timers, told by their owners."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

import msgspec

from ..entities.address import Address
from ..entities.errors import SerializationError
from ..entities.suspension import Suspension
from .caller import Caller
from .incoming import value_of
from .port import Pending, Unreachable
from .subjects import unescape
from .unreachable import unreachable

AT_ONCE = 16
"""Owners that are asked at a time: a listing of many is no load beside their work."""

_suspensions: msgspec.json.Decoder[list[Suspension]] = msgspec.json.Decoder(list[Suspension])


async def suspended(caller: Caller, entity: str, prefix: str) -> AsyncIterator[Suspension]:
    """All that are open. Raises a ClusterError."""
    async for found in open_flows(caller, entity, prefix):
        if isinstance(found, SerializationError):
            raise found
        yield found


async def open_flows(
    caller: Caller, entity: str, prefix: str
) -> AsyncGenerator[Suspension | SerializationError]:
    """The same, for who goes on after an entity whose log can't be folded: its error is in its
    place. Raises another ClusterError."""
    seen: set[str] = set()
    async for page in _pages(caller, entity):
        ids = [id for id in map(_id, page) if id is not None and id.startswith(prefix)]
        fresh = [id for id in dict.fromkeys(ids) if id not in seen]
        seen.update(fresh)
        for start in range(0, len(fresh), AT_ONCE):
            asked = (_ask(caller, Address(entity, id)) for id in fresh[start : start + AT_ONCE])
            for found in await asyncio.gather(*asked):
                for flow in found:
                    yield flow


async def flows_of(caller: Caller, address: Address) -> list[Suspension]:
    """Those of one entity, by its owner. Raises a ClusterError."""
    target = caller.target(address)
    answer = await caller.control(target, "flows")
    with caller.checking(target):
        found: list[Suspension] = value_of(_suspensions, answer, "flows")
    return [msgspec.structs.replace(flow, address=str(address)) for flow in found]


async def _ask(caller: Caller, address: Address) -> list[Suspension] | list[SerializationError]:
    try:
        return await flows_of(caller, address)
    except SerializationError as error:
        return [error]


async def _pages(caller: Caller, entity: str) -> AsyncGenerator[list[Pending]]:
    after = 0
    try:
        while page := await caller.session.schedules.pending(entity, after=after):
            yield page
            after = page[-1].place
    except Unreachable as error:
        raise unreachable(error) from None


def _id(pending: Pending) -> str | None:
    """Whose timer it is; None for what isn't one of ours."""
    try:
        return unescape(pending.token)
    except ValueError:
        return None
