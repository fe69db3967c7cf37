"""`perdure broadcast`: a command to every entity of a type, which can be gone on with.

Nothing here knows the command's class, and a mistyped one would become as many dead letters as
there are entities. So the owner of the first entity is asked before: for the outcome of this
command under this key, which executes nothing, and is refused if the type doesn't take it.
"""

from __future__ import annotations

import asyncio

import msgspec

from ...entities.address import Address
from ...entities.errors import (
    ClusterError,
    MalformedMessage,
    RunnerNotRegistered,
    RunnerUnavailable,
    with_details,
)
from ...streams.broadcast import RATE, RATE_MAX, Broadcast, BroadcastProgress
from ...streams.caller import Caller
from ...streams.listing import Listing, place_of
from ...streams.outgoing import lasting_key
from .advice import HOST, REUSED, quoted
from .calling import connected, key_of, payload_of, type_of
from .entities import place_given, require_listed
from .hint import takes
from .hosting import options
from .options import NO_OPTIONS, Common
from .output import Output, counted
from .trouble import FAILED, SUCCESS, Failed, UsageError

TRIAL_S = 1.0
"""How long the first entity's owner may take to refuse the command, in seconds. An outcome that
isn't there it waits for just as long, so this is added to each first broadcast."""

START = "0.0"
"""The place before all entities."""

EVERY_S = 5.0
"""Between two lines of progress for people, in seconds; programs get one a second."""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """Progress, as `--json` prints it; `done` with the last."""

    key: str
    told: int
    place: str
    done: bool


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What was typed, to be typed again."""

    entity: str
    command: str
    fields: str | None
    rate: float
    prefix: str
    place: str
    """The options that lead to the same server and namespace."""

    def again(self, progress: BroadcastProgress) -> str:
        """The command that goes on."""
        given = "" if self.fields is None else f" {quoted(self.fields)}"
        more = f" --prefix {quoted(self.prefix)}" if self.prefix else ""
        more += f" --rate {self.rate:g}" if self.rate != RATE else ""
        after = f" --after {progress.place}" if progress.place != START else ""
        typed = f"perdure broadcast {self.entity} {quoted(self.command)}{given}"
        return f"{typed} --key {progress.key}{more}{after}{self.place}"


class Shown:
    """What a broadcast told of itself, on its way to people or programs."""

    def __init__(self, output: Output, plan: Plan, progress: BroadcastProgress) -> None:
        self.output: Output = output
        self.last: BroadcastProgress = progress
        self._plan = plan
        self._next = 0.0

    def __call__(self, progress: BroadcastProgress) -> None:
        """The first line says how to go on, whatever happens to this process."""
        first, self.last = self._next == 0.0, progress
        now = asyncio.get_running_loop().time()
        if self.output.json:
            self.output.result(self.line(done=False))
        elif first:
            self.output.note(f"to go on if this ends: {self.again}")
        elif now >= self._next:
            self.output.note(f"{counted(progress.told, 'tell')} stored; --after {progress.place}")
        if first or now >= self._next:
            self._next = now + EVERY_S

    @property
    def again(self) -> str:
        """The command that goes on from here."""
        return self._plan.again(self.last)

    def line(self, *, done: bool) -> Line:
        """For programs."""
        last = self.last
        return Line(key=last.key, told=last.told, place=last.place, done=done)


def broadcast(
    type: str,
    command: str,
    fields: str | None = None,
    /,
    *,
    key: str | None = None,
    rate: float = RATE,
    after: str = "",
    prefix: str = "",
    common: Common = NO_OPTIONS,
) -> int:
    """Tell a command to every entity of a type: store it for each that is listed.

    Each gets it under the same key, so the same broadcast typed again tells nobody twice (within
    `dedup_window`). Progress goes to standard error; when it is interrupted or fails it prints the
    command that goes on. On success all of it is stored, not done: `perdure stats` shows what
    waits. A runner must be there, which is asked first whether the type takes the command.

    For instance:

    * `perdure broadcast account deposit '{"cents": 5}' --key gift-2026`
    * `perdure broadcast account deposit '{"cents": 5}' --key gift-2026 --after 31.0`
    * `perdure broadcast account close --prefix trial- --rate 20`

    Parameters
    ----------
    type
        The entity type: `account`.
    command
        The command's tag: `deposit`.
    fields
        Its fields, as a JSON object: `'{"cents": 5}'`.
    key
        The idempotency key of all tells, which these entities must not know from another command;
        without one it gets one, which is printed.
    rate
        Tells a second at most.
    after
        Go on where an earlier one stopped, with its key.
    prefix
        Only entities whose id begins with it.
    """
    payload, given = payload_of(command, fields), key_of(key)
    name = type_of(type)
    _check(rate, after, given)
    settings, output = common.settings(), common.output()
    plan = Plan(
        entity=name,
        command=command,
        fields=fields,
        rate=rate,
        prefix=prefix,
        place=options(settings),
    )

    async def work(caller: Caller) -> int:
        progress = BroadcastProgress(
            key=given or lasting_key(caller.session.entropy), told=0, place=after or START
        )
        shown = Shown(output, plan, progress)
        try:
            return await _work(caller, payload, plan, shown)
        except asyncio.CancelledError:
            told = shown.last.told
            what = f"{counted(told, 'tell')} or more are stored" if told else "hardly begun"
            raise Failed(f"interrupted; {what}", f"to go on: {shown.again}") from None

    return connected(settings, work)


def _check(rate: float, after: str, key: str | None) -> None:
    """Raises UsageError for what makes no sense."""
    place_given(after)
    if not 0 < rate <= RATE_MAX:
        raise UsageError(f"--rate {rate:g}", f"give tells a second, up to {RATE_MAX:g}")
    if after and key is None:
        raise UsageError("--after without --key", "give the key that the earlier one printed")


async def _work(caller: Caller, payload: msgspec.Raw, plan: Plan, shown: Shown) -> int:
    output, entity, start = shown.output, plan.entity, shown.last

    def listing() -> Listing:
        return Listing(caller.session, entity, plan.prefix, place_of(start.place))

    ids = listing()
    first = await anext(ids, None)
    await ids.aclose()
    if first is None:
        await require_listed(caller, entity)
        nobody = f"no id of {entity} is listed{' there' if plan.prefix else ''}"
        if output.json:
            output.result(shown.line(done=True))
        else:
            output.note(nobody)
        return SUCCESS
    try:
        await _try(caller, Address(entity, first), payload, start.key)
    except ClusterError as error:
        output.cluster_error(error, await _not_taken(caller, entity, error))
        return FAILED
    try:
        told = await Broadcast(
            *(caller, entity, listing(), payload, start.key), rate=plan.rate, on_progress=shown
        ).run()
    except ClusterError as error:
        output.cluster_error(error, f"to go on: {shown.again}")
        return FAILED
    text = f"{counted(told, 'tell')} stored for {entity}, under the key {start.key}"
    output.result(shown.line(done=True), text)
    return SUCCESS


async def _try(caller: Caller, address: Address, payload: msgspec.Raw, key: str) -> None:
    """That the owner of an entity takes such a command, under such a key. Raises ClusterError."""
    target = caller.target(address, key)
    try:
        await caller.result(target, payload, timeout_s=TRIAL_S)
    except (MalformedMessage, RunnerNotRegistered, RunnerUnavailable) as error:
        raise with_details(error, may_have_taken_effect=False) from None  # it only asked
    except ClusterError:
        return  # the outcome isn't there yet, or is recorded trouble: the command was taken


async def _not_taken(caller: Caller, entity: str, error: ClusterError) -> str:
    """The next step where nobody was told."""
    cause = error.cause or ""
    if "a query" in cause:
        return f"a query is asked of one entity: perdure ask {entity} ID …"
    if REUSED in cause:
        return "use another --key, or the same fields as before"
    if isinstance(error, MalformedMessage):
        return await takes(caller, entity) or "correct it"
    return f"a runner must say whether it takes this: {HOST}, or see perdure shards {entity}"
