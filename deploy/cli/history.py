"""`perdure history`: what an entity did, from its log, and as it happens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from cyclopts import Parameter

from ...entities.address import Address
from ...streams.caller import Caller
from ...streams.commit import Damaged, Stored
from .calling import address_of, connected, until_interrupted
from .chronicle import Chronicle, Foreign, damaged, told
from .hint import require_type
from .options import NO_OPTIONS, Common
from .output import Output
from .trouble import SUCCESS, UsageError


def history(
    type: str,
    id: str,
    /,
    *,
    after: int = 0,
    follow: Annotated[bool, Parameter(negative="")] = False,
    common: Common = NO_OPTIONS,
) -> int:
    """Print an entity's log: of each command its version, time, key, and what came of it.

    It reads the log itself, needs no runner, and checks the chain of hashes on the way.

    For instance:

    * `perdure history account a-1`
    * `perdure history account a-1 --json | jq .events`
    * `perdure history account a-1 --follow --after 17`

    Parameters
    ----------
    type
        The entity type: `account`.
    id
        The entity's id: `a-1`.
    after
        Only what came after this version. What is before it is read and checked all the same.
    follow
        Go on with what comes, until Ctrl-C. A lost connection is made anew, without a gap.
    """
    address = address_of(type, id)
    settings, output = common.settings(), common.output()
    if after < 0:
        raise UsageError(f"no version {after}", "versions begin at 1; 0 is before the first")

    async def work(caller: Caller) -> int:
        log = caller.session.log
        last = await log.last(address)
        if last is None:
            await _explain(caller, address, output, follow=follow)
        if follow:
            with until_interrupted():
                await _print(log.follow(address, after=0), address, output, after)
        elif last is not None:
            stored = log.read(address, after=0, upto=last.sequence)
            await _print(stored, address, output, after)
        return SUCCESS

    return connected(settings, work)


async def _explain(caller: Caller, address: Address, output: Output, *, follow: bool) -> None:
    """Why there is nothing. Raises Failed if the type is the reason."""
    await require_type(caller, address.entity)
    output.note(f"{address} has no history{' yet' if follow else ''}")


async def _print(
    found: AsyncIterator[Stored], address: Address, output: Output, after: int
) -> None:
    chronicle = Chronicle()
    async for stored in found:
        try:
            for entry in chronicle.read(stored):
                version = chronicle.version if isinstance(entry, Foreign) else entry.version
                if version > after or not after:
                    output.result(entry, told(entry))
        except Damaged as error:
            raise damaged(address, error) from None
