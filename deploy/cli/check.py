"""`perdure check`: is everything there that a caller, a reader or a runner needs?"""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter
from rich.text import Text

from ...entities.entity import Entity
from ...entities.settings import MEMORY
from ..checks import check as checks
from ..finding import Finding
from ..permissions import Role
from .app import load_app
from .calling import run, type_of
from .options import NO_OPTIONS, Common
from .output import Output
from .trouble import FAILED, SUCCESS, UsageError


def check(
    app: str | None = None,
    /,
    *,
    type: Annotated[tuple[str, ...], Parameter(negative="", consume_multiple=False)] = (),
    role: Role = "runner",
    common: Common = NO_OPTIONS,
) -> int:
    """Check server, streams, permissions and runners, without changing anything.

    One line a check, with what to do; it exits with 1 if any failed, while a warning is no
    failure. The entity types are those of APP, else those of `--type`, else those that the
    server has.

    For instance:

    * `perdure check bank`
    * `perdure check --type account --role caller`

    Parameters
    ----------
    app
        A module (`bank`), one entity of it (`bank:account`) or a file (`bank.py`).
    type
        An entity type to check, by its name; may be repeated.
    role
        Whose permissions this login must have.
    """
    if app is not None and type:
        raise UsageError("APP and --type together", "give one of them")
    for name in type:
        type_of(name)
    loaded: list[Entity[Any, Any]] = [] if app is None else list(load_app(app))
    names = [entity.name for entity in loaded] or list(type)
    settings = common.settings()
    if settings.url.startswith(MEMORY):
        raise UsageError(f"{settings.url} has no server", "give the --url of one")

    async def main() -> int:
        found: list[Finding] = []
        async for finding in checks(settings, names, role):
            found.append(finding)
            show(common.output(), finding)
        return SUCCESS if all(finding.ok for finding in found) else FAILED

    return run(main())


def show(output: Output, finding: Finding) -> None:
    """One finding on one line."""
    mark = ("ok      ", "green") if finding.ok else ("failed  ", "bold red")
    if finding.warning:
        mark = ("warning ", "bold yellow")
    step = f"; next: {finding.next}" if finding.next else ""
    text = Text.assemble(mark, (f"{finding.check:<12}", "bold"), finding.what, (step, "dim"))
    output.result(finding, text)
