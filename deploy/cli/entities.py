"""`perdure entities`: which entities of a type there are, and the repair of the list of them."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from ...entities.errors import MalformedMessage
from ...streams.caller import Caller
from ...streams.jetstream.scan import scan
from ...streams.listing import Listing, place_of
from ...streams.port import Unreachable
from ...streams.rebuild import rebuild as repair
from .advice import HOST
from .calling import connected, type_of
from .hint import no_registry, require_type
from .operating import connection_of, has_server
from .options import NO_OPTIONS, Common
from .output import Output, counted
from .trouble import SUCCESS, Failed, UsageError

ANY = 2**63 - 1
"""Beyond every sequence of a stream."""


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
    settings, place = common.settings(), place_given(after)

    async def work(caller: Caller) -> int:
        if rebuild:
            return await _rebuild(caller, type, common.output())
        listing = Listing(caller.session, type, prefix, place)
        return await _list(caller, listing, type, limit, common.output())

    return connected(settings, work)


def place_given(after: str) -> tuple[int, int]:
    """A listing's place from the command line. Raises UsageError."""
    try:
        return place_of(after)
    except MalformedMessage as error:
        raise UsageError(error.cause or "", "give what an earlier listing told") from None


async def _list(
    caller: Caller, listing: Listing, entity: str, limit: int | None, output: Output
) -> int:
    count = 0
    async for id in listing:
        output.result({"id": id, "place": listing.place}, id)
        count += 1
        if count == limit:
            output.note(f"{counted(count, 'id')}; to go on: --after {listing.place}")
            return SUCCESS
    if not count:
        await require_listed(caller, entity)
        output.note(f"no id of {entity} is listed")
    return SUCCESS


async def require_listed(caller: Caller, entity: str) -> None:
    """That there is the type, and ids are registered, or none has a log. Raises Failed.

    An id is registered before its first commit, so a registry without any was lost, or takes
    nothing.
    """
    await require_type(caller, entity)
    if await caller.session.ids.last(entity) or not await _has_commits(caller, entity):
        return
    raise Failed(
        f"{entity} has a log, but no id of it is registered: "
        "its registry was lost, or takes nothing now",
        f"make it again: perdure entities {entity} --rebuild",
    )


async def _has_commits(caller: Caller, entity: str) -> bool:
    if not has_server(caller):
        return False
    subjects = caller.session.subjects
    stream, subject = subjects.log_stream(entity), subjects.log(entity, "*")
    async for record in scan(connection_of(caller), stream, subject, upto=ANY):
        if record.mark is not None:  # else somebody else's
            return True
    return False


async def _rebuild(caller: Caller, entity: str, output: Output) -> int:
    await require_type(caller, entity)
    added = 0
    try:
        async for more in repair(caller.session, entity):
            added += more
    except Unreachable:
        if await no_registry(caller, entity):
            what = f"there is no stream {caller.session.subjects.ids_stream(entity)}"
            step = f"start a runner, which creates it ({HOST}); then the same again"
            raise Failed(what, step) from None
        raise
    output.result({"added": added}, f"missing and listed now: {counted(added, 'id')} of {entity}")
    return SUCCESS
