"""`perdure dead list | show | retry | discard`: commands that ended as dead letters."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

import msgspec
from cyclopts import App, Parameter
from msgspec import UNSET, Raw, UnsetType

from ...entities.errors import ClusterError
from ...streams.call import Target
from ...streams.caller import Caller
from ...streams.commands import retry_key
from ...streams.port import Incompatible, Unreachable
from ..dead import DeadLetters, Hopeless, Letter, address_of, settle
from .advice import next_step, quoted
from .calling import address_of as checked_address
from .calling import connected, show_answer, type_of
from .hint import require_type
from .operating import connection_of, types_of, with_server
from .options import NO_OPTIONS, Common
from .output import Output, compact, counted, stamp
from .trouble import FAILED, SUCCESS, Failed, UsageError

Reason: TypeAlias = Literal[
    "poison",
    "defect",
    "malformed",
    "unencodable",
    "expired",
    "too_old",
    "too_large",
    "cancelled",
    "foreign",
]

HELP = """
Look at commands that ended as dead letters, and retry or discard them.

A tell becomes a dead letter when it can't be executed: it was malformed, its handler failed every
time, or it killed its runners. It had no effect, its sender got an error under its key, and that
verdict stays in the entity's log. So does a flow that broke, or was cancelled: it may have had an
effect, so it is sent again only with `--force`. Repair the cause first, then:

* `perdure dead list`
* `perdure dead show @1.42.1764000000000000000.c5a6eceb8a6dcb25`
* `perdure dead retry @1.42.1764000000000000000.c5a6eceb8a6dcb25 --wait`
* `perdure dead retry --all --type account --reason defect`
"""

COLUMNS = ("#SEQ", "TIME", "ADDRESS", "COMMAND", "REASON", "STATUS", "CAUSE")
PAGE = 500
"""Rows of a table that are kept to be set in columns."""

Negative: Parameter = Parameter(negative="")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Which letters, where none is named."""

    all: Annotated[bool, Negative] = False
    """All that `--type`, `--id` and `--reason` leave, instead of named ones, oldest first."""

    type: str | None = None
    """With `--all`: only those of this entity type."""

    id: str | None = None
    """With `--all` and `--type`: only those of this entity."""

    reason: Reason | None = None
    """With `--all`: only those that died of this."""

    def check(self, causes: tuple[str, ...]) -> None:
        """That it is clear which letters are meant. Raises UsageError."""
        if causes and self != NONE_CHOSEN:
            raise UsageError("both CAUSE and --all or its filters", "give one of them")
        if not causes and not self.all:
            raise UsageError("no CAUSE", "name some, or say --all; perdure dead list shows them")
        if self.id is not None and self.type is None:
            raise UsageError("--id without --type", "say of which entity type")
        _check(self.type, self.id)

    def fits(self, letter: Letter) -> bool:
        """Whether it died of what is meant."""
        return self.reason in (None, letter.reason)


NONE_CHOSEN = Chosen()

dead: App = App(name="dead", help=HELP, help_format="markdown")


class Row(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A dead letter, as `--json` prints it."""

    seq: int
    """Of the copy in PERDURE_DEAD; 0 where it is gone."""
    cause: str | None
    address: str
    command: str
    reason: str
    status: str
    time: str
    key: str | None
    request: str | None
    error: Raw | UnsetType = UNSET
    payload: Raw | UnsetType = UNSET
    raw: bytes | None = None
    """The payload in base64, where it is no JSON."""
    trace: str | None = None
    retry_key: str | None = None


@dead.command(name="list", usage="Usage: perdure dead list [TYPE [ID]] [OPTIONS]")
def list_letters(
    type: str | None = None,
    id: str | None = None,
    /,
    *,
    reason: Reason | None = None,
    settled: Annotated[bool, Negative] = False,
    common: Common = NO_OPTIONS,
) -> int:
    """List dead letters, oldest first: those that nobody has retried or discarded.

    For instance:

    * `perdure dead list`
    * `perdure dead list account a-1 --settled`
    * `perdure dead list --json | jq -r .cause`

    Parameters
    ----------
    type
        Only those of this entity type: `account`.
    id
        Only those of this entity: `a-1`.
    reason
        Only those that died of this.
    settled
        Also those that were retried or discarded: reads the logs, which takes its time.
    """
    _check(type, id)
    settings, output = with_server(common.settings()), common.output()

    async def work(caller: Caller) -> int:
        letters = _dead(caller)
        await letters.count()
        every = letters.letters(type, id)
        if settled:
            every = _settled(caller, letters, type, id)
        found = await _list(output, every, reason)
        if not found:
            await _require_type(caller, type)
            output.note("no dead letters" if reason is None else f"no dead letters of {reason}")
        return SUCCESS

    return connected(settings, work)


async def _list(output: Output, letters: AsyncIterator[Letter], reason: str | None) -> int:
    page: list[tuple[str, ...]] = []
    found = 0
    async for letter in letters:
        if reason not in (None, letter.reason):
            continue
        found += 1
        if output.json:
            output.result(row(letter))
            continue
        page.append(cells(letter))
        if len(page) == PAGE:
            output.table(COLUMNS, page)
            page.clear()
    if page:
        output.table(COLUMNS, page)
    return found


async def _settled(
    caller: Caller, letters: DeadLetters, type: str | None, id: str | None
) -> AsyncIterator[Letter]:
    copies = [letter async for letter in letters.letters(type, id)]
    verdicts: list[Letter] = []
    retried: set[str] = set()
    for entity in [type] if type is not None else await types_of(caller):
        async for key, verdict in letters.verdicts(entity, id):
            if key is not None:
                retried.add(key)
            if verdict is not None:
                verdicts.append(verdict)
    for letter in settle(copies, verdicts, retried):
        yield letter


@dead.command
def show(*causes: str, common: Common = NO_OPTIONS) -> int:
    """Show whole dead letters: payload, error, key, request id, and the key of a retry.

    For instance:

    * `perdure dead show @1.42.1764000000000000000.c5a6eceb8a6dcb25`
    * `perdure dead show 17`

    Parameters
    ----------
    causes
        Causes, or sequences of copies, as `perdure dead list` shows them.
    """
    _require(causes)
    settings, output = with_server(common.settings()), common.output()

    async def work(caller: Caller) -> int:
        letters = _dead(caller)
        for letter in await _named(letters, causes):
            status = letter.status
            if letter.id is not None and letter.outcome is not None:
                status = await _status(letters, letter)
            _show(output, letter, status)
        return SUCCESS

    return connected(settings, work)


async def _status(letters: DeadLetters, letter: Letter) -> str:
    """What its entity's log says of a retry."""
    if letter.cause is None:
        return letter.status
    known = await letters.took_effect(letter, retry_key(letter.cause))
    return letter.status if known is None else "retried"


def _show(output: Output, letter: Letter, status: str) -> None:
    outcome = letter.outcome
    told = msgspec.structs.replace(
        row(letter),
        status=status,
        payload=_payload(letter),
        trace=None if outcome is None else outcome.trace,
        retry_key=None if letter.cause is None else retry_key(letter.cause),
    )
    if told.payload is UNSET and outcome is not None and outcome.dead is not None:
        told = msgspec.structs.replace(told, raw=outcome.dead.raw)
    if output.json:
        output.result(told)
        return
    for name, value in msgspec.json.decode(compact(told), type=dict[str, Raw]).items():
        text = bytes(value).decode()
        if text.startswith('"'):
            text = msgspec.json.decode(text, type=str)
        if text != "null":
            output.line(f"{name:<10} {text}")
    output.line()


@dead.command(usage="Usage: perdure dead retry CAUSE… | --all [OPTIONS]")
def retry(
    *causes: str,
    chosen: Chosen = NONE_CHOSEN,
    wait: Annotated[bool, Negative] = False,
    force: Annotated[bool, Negative] = False,
    timeout: float | None = None,
    common: Common = NO_OPTIONS,
) -> int:
    """Send dead letters again, each with a key of its own, and remove the copies.

    Repair the cause first. A second retry of the same letter does nothing new: its key,
    `dead:<cause>`, has its outcome. One that dies again is a new dead letter.

    For instance:

    * `perdure dead retry @1.42.1764000000000000000.c5a6eceb8a6dcb25 --wait`
    * `perdure dead retry --all --type account --reason defect`

    Parameters
    ----------
    causes
        Causes, or sequences of copies, as `perdure dead list` shows them.
    wait
        Wait for each outcome and print it as `perdure ask` does; the copy goes after it.
    force
        Also those that may have taken effect already.
    timeout
        Seconds to wait for each, in all.
    """
    chosen.check(causes)
    settings, output = with_server(common.settings(timeout=timeout)), common.output()

    async def work(caller: Caller) -> int:
        sender = Retry(caller, output, wait=wait, force=force, timeout=timeout)
        return await _each(output, caller, causes, chosen, sender.one)

    return connected(settings, work)


class Retry:
    """Sends letters again, one after another, so that an entity's come in their order."""

    def __init__(
        self, caller: Caller, output: Output, *, wait: bool, force: bool, timeout: float | None
    ) -> None:
        self._caller, self._output = caller, output
        self._wait, self._force, self._timeout = wait, force, timeout

    async def one(self, letters: DeadLetters, letter: Letter) -> int:
        """Send it, wait if that is wanted, remove the copy; an exit code."""
        try:
            address, payload, cause = address_of(letter), letter.payload(), letter.cause
        except Hopeless as error:
            step = f"send it corrected with perdure tell, then: perdure dead discard {letter.name}"
            return self._failed(letter, f"can't be retried: {error}", step)
        if letter.unsure and not self._force:
            at = f"{address.entity} {quoted(address.id)}"
            step = f"look first: perdure history {at}; then retry it with --force, or discard it"
            return self._failed(letter, "may have taken effect already", step)
        key = retry_key(cause or f"copy-{letter.sequence}")
        target = self._caller.target(address, key)
        try:
            await self._caller.tell(target, payload)
        except ClusterError as error:
            self._output.cluster_error(error, next_step(error))
            return FAILED
        code = await self._outcome(letters, letter, target) if self._wait else SUCCESS
        if code is None:
            return FAILED
        await letters.discard(letter)
        if not self._wait:
            at = f"{address.entity} {quoted(address.id)} {key}"
            value = {"cause": letter.cause, "address": letter.where, "key": key, "retried": True}
            self._output.result(value, f"{letter.name}: sent again: perdure result {at}")
        return code

    async def _outcome(self, letters: DeadLetters, letter: Letter, target: Target) -> int | None:
        """Print what came of it; None if nothing is recorded yet, so that the copy stays.

        An error doesn't tell whether it is the tell's outcome or the way's: a full mailbox, a
        quarantined entity and a lost connection are no verdict. The log tells.
        """
        try:
            timeout_s = self._caller.timeout_s(self._timeout)
            answer = await self._caller.result(target, timeout_s=timeout_s)
        except ClusterError as error:
            took_effect = await self._took_effect(letters, letter, target.key or "")
            if took_effect is not None:
                dead, at = "it is a new dead letter: perdure dead list", target.address
                done = f"it took effect: perdure result {at.entity} {quoted(at.id)} {target.key}"
                self._output.cluster_error(error, done if took_effect else dead)
                return FAILED
            again = f"perdure dead retry {letter.name} --wait, which waits on and repeats nothing"
            self._output.cluster_error(error, f"no outcome yet, so its copy stays: {again}")
            return None
        return show_answer(self._output, answer)

    async def _took_effect(self, letters: DeadLetters, letter: Letter, key: str) -> bool | None:
        """What the log has of the retry; where nobody tells, nothing is known of."""
        try:
            return await letters.took_effect(letter, key)
        except (Unreachable, Incompatible):
            return None

    def _failed(self, letter: Letter, what: str, step: str) -> int:
        self._output.trouble(Failed(f"{letter.name} of {letter.where} {what}", step))
        return FAILED


@dead.command(usage="Usage: perdure dead discard CAUSE… | --all [OPTIONS]")
def discard(
    *causes: str,
    chosen: Chosen = NONE_CHOSEN,
    yes: Annotated[bool, Negative] = False,
    common: Common = NO_OPTIONS,
) -> int:
    """Remove the copies of dead letters that nobody wants any more.

    The verdict stays in the entity's log, and so does the answer under its key. Only a letter
    whose id can't be an entity's (shown as `=`) has no other record.

    For instance:

    * `perdure dead discard @1.42.1764000000000000000.c5a6eceb8a6dcb25`
    * `perdure dead discard --all --reason malformed --yes`

    Parameters
    ----------
    causes
        Causes, or sequences of copies, as `perdure dead list` shows them.
    yes
        Don't ask for confirmation.
    """
    chosen.check(causes)
    settings, output = with_server(common.settings()), common.output()

    async def count(caller: Caller) -> int:
        letters = _dead(caller)
        if causes:
            return len(await _named(letters, causes))
        every = letters.letters(chosen.type, chosen.id)
        return len([letter async for letter in every if chosen.fits(letter)])

    async def one(letters: DeadLetters, letter: Letter) -> int:
        await letters.discard(letter)
        value = {"cause": letter.cause, "address": letter.where, "discarded": True}
        output.result(value, f"{letter.name}: discarded")
        return SUCCESS

    async def work(caller: Caller) -> int:
        return await _each(output, caller, causes, chosen, one)

    if not yes:
        number = connected(settings, count)
        if number and not output.confirm(
            f"discard {counted(number, 'dead letter')} for good?", "--yes"
        ):
            raise Failed("nothing was discarded", "say yes, or retry them instead")
    return connected(settings, work)


# -- parts --------------------------------------------------------------------------------------
def _dead(caller: Caller) -> DeadLetters:
    return DeadLetters(connection_of(caller), caller.session.subjects)


async def _each(
    output: Output,
    caller: Caller,
    causes: tuple[str, ...],
    chosen: Chosen,
    work: Callable[[DeadLetters, Letter], Awaitable[int]],
) -> int:
    """Do something with each chosen letter; the worst exit code."""
    letters = _dead(caller)
    code, done = SUCCESS, 0
    if causes:
        for letter in await _named(letters, causes):
            code = max(code, await work(letters, letter))
        return code
    with output.progress() as progress:
        bar = progress.add_task("dead letters", total=await letters.count())
        async for letter in letters.letters(chosen.type, chosen.id):
            progress.advance(bar)
            if chosen.fits(letter):
                done += 1
                code = max(code, await work(letters, letter))
    if not done:
        await _require_type(caller, chosen.type)
        output.note("no dead letters")
    return code


async def _require_type(caller: Caller, type: str | None) -> None:
    """That the type of which no letter was found is one. Raises Failed."""
    if type is not None:
        await require_type(caller, type)


async def _named(letters: DeadLetters, names: tuple[str, ...]) -> list[Letter]:
    """The letters of these names. Raises Failed if one isn't there."""
    await letters.count()
    found = await letters.find(names)
    for name, copies in found.items():
        if not copies:
            raise Failed(
                f"no dead letter {name}: it was retried or discarded, or never was",
                "perdure dead list shows those that are there, --settled the others too",
            )
    return [letter for copies in found.values() for letter in copies]


def row(letter: Letter) -> Row:
    """A letter for programs."""
    outcome = letter.outcome
    error: Raw | UnsetType = UNSET
    if outcome is not None and outcome.dead is not None:
        error = outcome.dead.error
    return Row(
        seq=letter.sequence,
        cause=letter.cause,
        address=letter.where,
        command=letter.command,
        reason=letter.reason,
        status=letter.status,
        time=letter.time.isoformat(),
        key=letter.key,
        request=None if outcome is None else outcome.request,
        error=error,
    )


def cells(letter: Letter) -> tuple[str, ...]:
    """A letter for people, as COLUMNS."""
    return (
        str(letter.sequence or "-"),
        stamp(letter.time),
        letter.where,
        letter.command or "?",
        letter.reason,
        letter.status,
        letter.cause or "-",
    )


def _payload(letter: Letter) -> Raw | UnsetType:
    try:
        return letter.payload()
    except Hopeless:
        return UNSET


def _check(type: str | None, id: str | None) -> None:
    if type is not None:
        type_of(type)
        if id is not None:
            checked_address(type, id)


def _require(causes: tuple[str, ...]) -> None:
    if not causes:
        raise UsageError("no CAUSE", "perdure dead list shows them")
