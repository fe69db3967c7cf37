"""`perdure shards`: whose the shards are, and whether each has one owner."""

from __future__ import annotations

from cyclopts import App

from ...streams.caller import Caller
from ..fleet import Fleet, Layout, Place
from .calling import connected, type_of
from .options import NO_OPTIONS, Common
from .output import Output, counted
from .survey import ONCE, Watching, fleet, nobody_hosts, rest, watched
from .trouble import FAILED, SUCCESS

AGAIN_S = 0.5
"""After how long a shard without an owner, or with two, is looked at again, in seconds: while
shards move, each is nobody's for a moment."""

COLUMNS = ("TYPE", "#SHARD", "OWNER", "STATE")

HELP = """
Look at the shards of entity types: whose they are, and whether each has one owner.

STATE is empty where all is well; `unowned`: no runner has it; `twice`: several believe to have it,
of which one can write; `moves to …`: its owner is about to give it away. The imbalance says by how
many shards the runner that is farthest from its share, by the weights, is away from it. Where the
type asks for a label that no runner has, that is said, too: nobody may own its shards then. It
exits with 1 if a shard is unowned or owned twice at a second look, too, and if nobody answers.

For instance:

* `perdure shards`
* `perdure shards account --watch`
* `perdure shards --json | jq -c '[.entity, .owners]'`
* `perdure shards resize account 32` (while nobody hosts the type)
"""

shards: App = App(
    name="shards",
    help=HELP,
    help_format="markdown",
    usage="Usage: perdure shards [TYPE] [OPTIONS] | perdure shards resize TYPE N",
)


@shards.default
def list_shards(
    type: str | None = None,
    /,
    *,
    watching: Watching = ONCE,
    common: Common = NO_OPTIONS,
) -> int:
    """Print the owner of each shard, and a line a type.

    Parameters
    ----------
    type
        Only this entity type: `account`.
    """
    if type is not None:
        type_of(type)
    watching.check()
    settings, output = common.settings(), common.output()

    async def work(caller: Caller) -> int:
        async def look() -> tuple[list[Layout], bool]:
            found = layouts(await fleet(caller), type)
            if watching.watch or not faulty(found, found):
                return found, False
            await rest(AGAIN_S)
            again = layouts(await fleet(caller), type)
            return again, faulty(found, again)

        return await watched(output, watching, look, lambda found: _show(output, *found))

    return connected(settings, work)


def layouts(found: Fleet, entity: str | None) -> list[Layout]:
    """Where the shards of all hosted types are, or of one. Raises Failed if nobody hosts it."""
    if entity is None:
        return [found.layout(name) for name in found.types]
    if entity not in found.types:
        raise nobody_hosts(entity, found.types)
    return [found.layout(entity)]


def faulty(first: list[Layout], second: list[Layout]) -> bool:
    """Whether a shard is unowned or owned twice at both looks."""
    return any(one.faulty(other) for one in second for other in first)


def _show(output: Output, found: list[Layout], bad: bool) -> int:
    for layout in found:
        output.result(layout, summary(layout))
    if not output.json:
        output.line()
        output.table(
            COLUMNS, [cells(layout, place) for layout in found for place in layout.places]
        )
    return FAILED if bad else SUCCESS


def summary(layout: Layout) -> str:
    """A type on one line."""
    faults = [place.state for place in layout.places]
    wrong = [f"{faults.count(state)} {state}" for state in ("unowned", "twice", "moves")]
    told = ", ".join(
        [
            counted(layout.shards, "shard"),
            f"generation {layout.generation}",
            counted(len(layout.owners), "owner"),
            f"imbalance {layout.imbalance:g}",
            *(text for text in wrong if not text.startswith("0 ")),
        ]
    )
    older = f"; with an older generation: {', '.join(layout.older)}" if layout.older else ""
    nobody = f"; no runner that hosts it has the label {layout.lacked}" if layout.lacked else ""
    return f"{layout.entity}: {told}{older}{nobody}"


def cells(layout: Layout, place: Place) -> tuple[str, ...]:
    """A shard for people."""
    moves = f"moves to {place.assigned or 'nobody'}"
    state = {"well": "", "moves": moves}.get(place.state, place.state)
    return layout.entity, str(place.shard), ", ".join(place.owners) or "-", state
