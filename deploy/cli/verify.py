"""`perdure verify`: is the log what was written, and do snapshots say the same?"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from rich.text import Text

from ...durable.host import ledger_limits
from ...entities.entity import Entity
from ...entities.settings import Settings
from ...streams.caller import Caller
from ...streams.codec import name_hash
from ...streams.jetstream.connection import Connection
from ...streams.jetstream.direct import Record
from ...streams.jetstream.scan import bounds, get, scan
from ...streams.subjects import escape, unescape
from ..chains import Chains
from ..fault import Fault, Foreign, Summary, restore
from ..folds import Folding, Folds
from .advice import HOST
from .app import load_app
from .calling import address_of, connected, type_of
from .operating import connection_of, types_of, with_server
from .options import NO_OPTIONS, Common
from .output import Output, stamp
from .trouble import FAILED, SUCCESS, Failed, UsageError

FEW = 200
"""Entities that are read one by one. For each, the server looks through its whole log, at some 0.1
microseconds a message; a pass takes 50 of ours a message, for all of them."""

PASS_ENTITIES = 20_000
"""Entities that are folded in one pass: of a few KB each, with snapshot and ledger."""

PASS_BYTES = 64 * 1024**2
"""Snapshots that are held in one pass, in bytes; a pass begins no more beyond it."""

AT_ONCE = 64
"""Snapshots that are asked for at a time."""

SALT_BYTES = 4
"""Of what a sample is drawn with: each run takes another one."""

STEP = 500
"""Messages between two steps of the progress bar."""

AnyEntity = Entity[Any, Any]


def verify(
    type: str | None = None,
    /,
    *,
    app: str | None = None,
    id: str | None = None,
    sample: int | None = None,
    common: Common = NO_OPTIONS,
) -> int:
    """Verify logs: hash chains, versions, times; with APP also folds and snapshots.

    It reads whole logs, changes nothing, and exits with 1 if it found a fault. Messages that
    perdure didn't write are reported and are no faults. Memory: some 250 bytes an entity, and
    while it folds, 20,000 entities at a time.

    For instance:

    * `perdure verify`
    * `perdure verify account --app bank`
    * `perdure verify account --id a-1 --app bank`

    Parameters
    ----------
    type
        Only this entity type: `account`.
    app
        The code: a module (`bank`), one entity of it (`bank:account`) or a file (`bank.py`).
        Every event is folded with it, and snapshots are compared with the folds.
    id
        Only this entity: `a-1`.
    sample
        With `--app`: fold only so many entities, drawn anew each time. All chains are checked.
    """
    _check(type, app, id, sample)
    entities = {e.name: e for e in load_app(app)} if app is not None else {}
    if type is not None and app is not None and type not in entities:
        raise UsageError(f"{app} has no entity {type!r}", f"it has {', '.join(entities)}")
    settings, output = with_server(common.settings()), common.output()

    async def work(caller: Caller) -> int:
        there = await types_of(caller)
        wanted = [type] if type is not None else list(entities) or there
        _require(wanted, there, settings)
        faults = 0
        for name in wanted:
            job = Verification(caller, output, name, entities.get(name), id, sample)
            faults += await job.run()
        return FAILED if faults else SUCCESS

    return connected(settings, work)


@dataclass
class Verification:
    """The verification of one type."""

    caller: Caller
    output: Output
    type: str
    entity: AnyEntity | None
    id: str | None
    sample: int | None
    faults: int = 0

    async def run(self) -> int:
        """Do all of it; the number of faults."""
        chains = await self._chains()
        folds: Folds | None = None
        if self.entity is not None:
            limits = ledger_limits(self.caller.settings)
            folds = Folds(self.caller.session, self.entity, limits)
            await self._fold(folds, self._drawn(chains.sound))
        self._sum(chains, folds)
        return self.faults

    # -- chains -----------------------------------------------------------------------------------
    async def _chains(self) -> Chains:
        connection, subjects = connection_of(self.caller), self.caller.session.subjects
        stream = subjects.log_stream(self.type)
        chains = Chains(self.type, stream)
        found = await bounds(connection, stream)
        last = 0 if found is None else found.last_seq
        token = "*" if self.id is None else escape(self.id)
        whole = self.id is None
        records = scan(connection, stream, subjects.log(self.type, token), upto=last)
        with self.output.progress() as progress:
            bar = progress.add_task(f"{self.type}: messages", total=last)
            async for record in _complete(connection, stream, records, last, whole=whole):
                self._show(chains.take(record, whole=whole))
                if chains.messages % STEP == 0:
                    progress.update(bar, completed=record.sequence)
        if whole:
            self._show(chains.end(last))
        else:
            await self._count(chains.messages)
        return chains

    async def _count(self, read: int) -> None:
        """Of one entity alone, a message that can't be read shows in their number only."""
        address = address_of(self.type, self.id or "")
        there = await self.caller.session.log.count(address)
        if read < there:
            what = f"of its {there} messages the server can read {read}"
            step = restore(self.caller.session.subjects.log_stream(self.type))
            fault = Fault(fault="unreadable", address=str(address), seq=0, what=what, next=step)
            self._show([fault])

    # -- folds ------------------------------------------------------------------------------------
    def _drawn(self, tokens: list[str]) -> list[str]:
        """The entities to fold: all, or so many by chance."""
        if self.sample is None:
            return tokens
        salt = self.caller.session.entropy.token(SALT_BYTES)
        return heapq.nsmallest(self.sample, tokens, key=lambda token: name_hash(salt + token))

    async def _fold(self, folds: Folds, tokens: Sequence[str]) -> None:
        """Fold these entities: few one by one, many in passes over the whole stream.

        To find the next message of one entity the server looks at all between them.
        """
        connection, subjects = connection_of(self.caller), self.caller.session.subjects
        stream = subjects.log_stream(self.type)
        left = iter(tokens)
        few = len(tokens) <= FEW
        with self.output.progress() as progress:
            bar = progress.add_task(f"{self.type}: folds", total=len(tokens))
            while group := await _group(folds, left, 1 if few else PASS_ENTITIES):
                found = await bounds(connection, stream)
                subject = subjects.log(self.type, next(iter(group)) if few else "*")
                last = 0 if found is None else found.last_seq
                async for record in scan(connection, stream, subject, upto=last):
                    folding = group.get(record.token)
                    if folding is not None:
                        self._show(folding.take(record.stored))
                for folding in group.values():
                    self._show(folding.end())
                progress.advance(bar, len(group))

    # -- telling ----------------------------------------------------------------------------------
    def _show(self, found: Iterable[Fault | Foreign]) -> None:
        for one in found:
            if isinstance(one, Fault):
                self.faults += 1
                at = f"{one.address} at sequence {one.seq}: " if one.seq else f"{one.address}: "
                text = Text.assemble(
                    (f"{one.fault:<10}", "bold red"), at, one.what, (f"; next: {one.next}", "dim")
                )
            else:
                what = f"{one.subject} at sequence {one.seq}: {one.bytes} bytes that perdure "
                text = Text.assemble(
                    (f"{'foreign':<10}", "bold yellow"), what, f"didn't write, {stamp(one.time)}"
                )
            self.output.result(one, text)

    def _sum(self, chains: Chains, folds: Folds | None) -> None:
        told = Summary(
            verified=self.type,
            messages=chains.messages,
            entities=len(chains.tokens),
            foreign=chains.foreign,
            folded=0 if folds is None else folds.folded,
            snapshots=0 if folds is None else folds.snapshots,
            ignored=0 if folds is None else folds.ignored,
            faults=self.faults,
        )
        parts = [f"{told.messages} messages", f"{told.entities} entities"]
        parts += [f"{told.foreign} foreign"] if told.foreign else []
        if folds is not None:
            parts += [f"{told.folded} folded", f"{told.snapshots} snapshots compared"]
            parts += [f"{told.ignored} snapshots of other code"] if told.ignored else []
        mark = ("ok        ", "green") if not told.faults else ("failed    ", "bold red")
        text = f"{self.type}: {', '.join(parts)}, {told.faults or 'no'} faults"
        self.output.result(told, Text.assemble(mark, text))


async def _group(folds: Folds, tokens: Iterator[str], most: int) -> dict[str, Folding]:
    """The folds of the next entities, as many as may be in memory at once."""
    group: dict[str, Folding] = {}
    size = 0
    while len(group) < most and size < PASS_BYTES:
        some = list(islice(tokens, min(AT_ONCE, most - len(group))))
        if not some:
            break
        begun = await asyncio.gather(*(folds.begin(unescape(token)) for token in some))
        group.update(zip(some, begun, strict=True))
        size += sum(folding.size for folding in begun)
    return group


async def _complete(
    connection: Connection,
    stream: str,
    records: AsyncIterator[Record],
    last: int,
    *,
    whole: bool,
) -> AsyncIterator[Record]:
    """The records, and of the whole stream also those that only the leader has."""
    expected = 1
    async for record in records:
        if whole:
            async for missed in _missed(connection, stream, expected, record.sequence):
                yield missed
            expected = record.sequence + 1
        yield record
    if whole:
        async for missed in _missed(connection, stream, expected, last + 1):
            yield missed


async def _missed(
    connection: Connection, stream: str, first: int, end: int
) -> AsyncIterator[Record]:
    for sequence in range(first, end):
        record = await get(connection, stream, sequence)
        if record is not None:
            yield record


def _check(type: str | None, app: str | None, id: str | None, sample: int | None) -> None:
    if type is not None:
        type_of(type)
    if id is not None and type is None:
        raise UsageError("--id without TYPE", "say of which entity type: perdure verify account")
    if id is not None:
        address_of(type or "", id)
    if sample is not None and app is None:
        raise UsageError("--sample without --app", "chains are always checked, all of them")
    if sample is not None and (sample < 1 or id is not None):
        raise UsageError("--sample takes at least 1, and no --id", "leave one out")


def _require(wanted: Sequence[str], there: Sequence[str], settings: Settings) -> None:
    """That the types have logs. Raises Failed."""
    missing = [name for name in wanted if name not in there]
    if missing or not there:
        known = f"only {', '.join(there)}" if there else "nor any other"
        names = ", ".join(map(repr, missing)) or "any entity type"
        raise Failed(
            f"there is no log of {names} in namespace {settings.namespace!r}, {known}",
            f"correct it, or host it: {HOST}",
        )
