"""`perdure entities`: which entities of a type there are, and the repair of the list of them."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from ...entities.errors import MalformedMessage
from ...entities.settings import Settings
from ...streams.connect import open_session
from ...streams.listing import Listing, place_of
from ...streams.port import Session
from ...streams.rebuild import rebuild as repair
from .advice import HOST
from .calling import run, type_of
from .hint import no_such_type
from .options import NO_OPTIONS, Common
from .output import Output
from .trouble import SUCCESS, Failed, UsageError


def entities(
    type: str,
    /,
    *,
    prefix: str = "",
    limit: int | None = None,
    after: str = "",
    rebuild: Annotated[bool, Parameter(negative="")] = False,
    common: Common = NO_OPTIONS,
) -> int:
    """Print the ids of a type that have a log, in the order in which they were first used.

    It reads the registry of ids, needs no runner, and rests between its reads, so that those who
    publish hardly notice: a million ids take less than a minute.

    For instance:

    * `perdure entities account`
    * `perdure entities account --prefix customer- --limit 20`
    * `perdure entities account --limit 1000 --after 31.0`

    Parameters
    ----------
    type
        The entity type: `account`.
    prefix
        Only ids that begin with it.
    limit
        Stop after that many; where to go on is told.
    after
        Go on where an earlier listing stopped.
    rebuild
        Register the ids that have a log and aren't listed, instead of listing. It asks the log
        itself, so those who publish may wait for half a second at each 100,000 ids.
    """
    type_of(type)
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit}", "give a number from 1 on")
    if rebuild and (prefix or limit or after):
        raise UsageError("--rebuild with another option", "give it alone: it looks at all ids")
    settings, place = common.settings(), _place(after)

    async def main() -> int:
        session = await _open(settings)
        try:
            if rebuild:
                return await _rebuild(session, type, settings, common.output())
            listing = Listing(session, type, prefix, place)
            return await _list(listing, type, limit, settings, common.output())
        finally:
            await session.close()

    return run(main())


def _place(after: str) -> tuple[int, int]:
    try:
        return place_of(after)
    except MalformedMessage as error:
        raise UsageError(error.cause or "", "give what an earlier listing told") from None


async def _open(settings: Settings) -> Session:
    try:
        return await open_session(settings, name="perdure-cli")
    except ValueError as error:  # a URL that it doesn't know
        raise UsageError(str(error), "correct --url") from error


async def _list(
    listing: Listing, entity: str, limit: int | None, settings: Settings, output: Output
) -> int:
    count = 0
    async for id in listing:
        output.result({"id": id, "place": listing.place}, id)
        count += 1
        if count == limit:
            output.note(f"{count} ids; to go on: --after {listing.place}")
            return SUCCESS
    if not count:
        await _require(settings, entity)
        output.note(f"no id of {entity} is listed")
    return SUCCESS


async def _rebuild(session: Session, entity: str, settings: Settings, output: Output) -> int:
    await _require(settings, entity)
    added = 0
    async for more in repair(session, entity):
        added += more
    output.result({"added": added}, f"{added} ids of {entity} were missing, and are listed now")
    return SUCCESS


async def _require(settings: Settings, entity: str) -> None:
    missing = await no_such_type(settings, entity)
    if missing is not None:
        raise Failed(missing, f"correct it, or host it: {HOST}")
