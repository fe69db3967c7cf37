"""`perdure history` and `state`: what an entity did, and what it is."""

from __future__ import annotations

from msgspec import UNSET, Raw

from ...entities.address import Address
from ...streams.asks import NULL, raw
from ...streams.caller import Caller
from ...streams.commit import Damaged
from .advice import HOST
from .call import run
from .calling import address_of, calling
from .chronicle import Chronicle, tagged, told
from .hint import no_such_type
from .options import NO_OPTIONS, Common
from .output import Output
from .trouble import SUCCESS, Failed


def history(type: str, id: str, /, *, common: Common = NO_OPTIONS) -> int:
    """Print an entity's log: of each command its version, time, key, and what came of it.

    It reads the log itself, needs no runner, and checks the chain of hashes on the way.

    For instance:

    * `perdure history account a-1`
    * `perdure history account a-1 --json | jq .events`

    Parameters
    ----------
    type
        The entity type: `account`.
    id
        The entity's id: `a-1`.
    """
    address = address_of(type, id)
    settings = common.settings()

    async def main() -> int:
        async with calling(settings) as caller:
            return await _history(caller, address, common.output())

    return run(main())


async def _history(caller: Caller, address: Address, output: Output) -> int:
    log = caller.session.log
    last = await log.last(address)
    if last is None:
        missing = await no_such_type(caller.settings, address.entity)
        if missing is not None:
            raise Failed(missing, f"correct it, or host it: {HOST}")
        output.note(f"{address} has no history")
        return SUCCESS
    chronicle = Chronicle()
    async for stored in log.read(address, after=0, upto=last.sequence):
        try:
            for entry in chronicle.read(stored):
                output.result(entry, told(entry))
        except Damaged as error:
            raise Failed(
                f"{address}: the log is damaged: {error}",
                "its runner has quarantined it; compare with a backup of the stream",
            ) from None
    return SUCCESS


def state(
    type: str,
    id: str,
    /,
    *,
    version: int | None = None,
    common: Common = NO_OPTIONS,
) -> int:
    """Print an entity's state, now or at a version, as its owner computes it.

    For instance:

    * `perdure state account a-1`
    * `perdure state account a-1 --version 3`

    Parameters
    ----------
    type
        The entity type: `account`.
    id
        The entity's id: `a-1`.
    version
        The number of events after which; the newest if left out.
    """
    address = address_of(type, id)
    settings = common.settings()
    payload = NULL if version is None else raw({"version": version})

    async def main() -> int:
        async with calling(settings) as caller:
            answer = await caller.control(caller.target(address), "state", payload)
        at = answer.version if version is None else version
        reply = Raw(b"null") if answer.reply is UNSET else answer.reply
        value = {"state": reply, "version": at}
        common.output().result(value, f"{address} at version {at}: {tagged(reply)}")
        return SUCCESS

    return run(main())
