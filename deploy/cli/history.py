"""`perdure history`: what an entity did, from its log, and as it happens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from cyclopts import Parameter

from ...entities.address import Address
from ...streams.caller import Caller
from ...streams.commit import Damaged, Stored
from .calling import address_of, connected, until_interrupted
from .chronicle import Chronicle, Entry, Foreign, damaged, told
from .cloudevents import cloud_events
from .hint import require_type
from .options import NO_OPTIONS, Common
from .output import Output
from .trouble import SUCCESS, UsageError

Form: TypeAlias = Literal["outcomes", "cloudevents"]


def history(
    type: str,
    id: str,
    /,
    *,
    after: int = 0,
    follow: Annotated[bool, Parameter(negative="")] = False,
    format: Form = "outcomes",
    common: Common = NO_OPTIONS,
) -> int:
    """Print an entity's log: of each command its version, time, key, and what came of it.

    It reads the log itself, needs no runner, and checks the chain of hashes on the way.

    For instance:

    * `perdure history account a-1`
    * `perdure history account a-1 --json | jq .events`
    * `perdure history account a-1 --follow --after 17`
    * `perdure history account a-1 --format cloudevents`

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
    format
        `outcomes`: what came of each command; `cloudevents`: only what happened, as CloudEvents
        1.0, one JSON value a line.
    """
    address = address_of(type, id)
    settings, output = common.settings(), common.output()
    printed = _Printed(address, output, after, settings.namespace, format)
    if after < 0:
        raise UsageError(f"no version {after}", "versions begin at 1; 0 is before the first")

    async def work(caller: Caller) -> int:
        log = caller.session.log
        last = await log.last(address)
        if last is None:
            await _explain(caller, address, output, follow=follow)
        if follow:
            with until_interrupted():
                await printed.all(log.follow(address, after=0))
        elif last is not None:
            stored = log.read(address, after=0, upto=last.sequence)
            await printed.all(stored)
        return SUCCESS

    return connected(settings, work)


async def _explain(caller: Caller, address: Address, output: Output, *, follow: bool) -> None:
    """Why there is nothing. Raises Failed if the type is the reason."""
    await require_type(caller, address.entity)
    output.note(f"{address} has no history{' yet' if follow else ''}")


@dataclass(frozen=True)
class _Printed:
    """Prints an entity's log in the form that was asked for."""

    address: Address
    output: Output
    after: int
    namespace: str
    format: Form

    async def all(self, found: AsyncIterator[Stored]) -> None:
        """What is new in each message. Raises Failed where the log is damaged."""
        chronicle = Chronicle()
        async for stored in found:
            try:
                for entry in chronicle.read(stored):
                    version = chronicle.version if isinstance(entry, Foreign) else entry.version
                    if version > self.after or not self.after:
                        self._print(entry)
            except Damaged as error:
                raise damaged(self.address, error) from None

    def _print(self, entry: Entry | Foreign) -> None:
        if self.format == "outcomes":
            self.output.result(entry, told(entry))
        elif isinstance(entry, Entry):
            for event in cloud_events(entry, self.address, self.namespace):
                if event.entityversion > self.after:
                    self.output.result(event)
