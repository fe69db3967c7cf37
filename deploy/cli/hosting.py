"""Hosting: what `dev` and `run` have in common, from loading APP to draining.

Both serve the entities of APP in this process until a signal, or until an operator drains it
(`Cluster.drained`). They differ in whose server it is, and in what happens to a stuck event loop:
a runner is ended, so that another can take over; while developing nobody would, and a debugger
that holds the loop isn't stuck.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from rich.text import Text

from ...durable.connect import opened
from ...durable.runner import Runner
from ...entities.settings import MEMORY, Settings, without_login
from ...streams.client import Cluster
from ..health import Health, serving
from ..process import collecting_seldom
from ..service import answering
from ..watchdog import Watchdog
from .advice import quoted
from .app import AnyEntity
from .example import example
from .output import Output
from .trouble import UsageError

EXAMPLES = 2
"""Commands shown of each entity type: enough to see the pattern."""


@asynccontextmanager
async def hosting(
    entities: Sequence[AnyEntity], settings: Settings, *, ends: bool, health: bool = False
) -> AsyncGenerator[Cluster]:
    """Serve the entities; drained on leaving. `ends`: end the process if its loop is stuck,
    `health`: answer probes meanwhile, where the settings say."""
    async with AsyncExitStack() as stack:
        watchdog = stack.enter_context(Watchdog(ends=ends))
        stack.enter_context(collecting_seldom())
        probed = Health(settings, watchdog)
        if health and settings.health_port:
            await _probes(stack, probed, settings)
        runners: list[Runner] = []

        def on_runner(runner: Runner) -> None:
            runners.append(runner)
            probed.runs(runner)

        served = opened(settings.url, serving=entities, settings=settings, on_runner=on_runner)
        try:
            cluster = await stack.enter_async_context(served)
        except ValueError as error:  # what it can't host
            raise UsageError(str(error), "correct APP") from error
        if not settings.url.startswith(MEMORY):
            await stack.enter_async_context(answering(runners[0], settings))
        probed.hosting = True
        yield cluster


async def _probes(stack: AsyncExitStack, health: Health, settings: Settings) -> None:
    """Answer probes where the settings say. Raises UsageError if that can't be."""
    host, port = settings.health_host, settings.health_port
    try:
        await stack.enter_async_context(serving(health, host, port))
    except OSError as error:
        where = f"health_port {port}" + (f" on {host}" if host else "")
        why = error.strerror or str(error)
        raise UsageError(f"{where}: {why}", "give a free --health-port, or 0 for none") from None


def announce(
    output: Output, entities: Sequence[AnyEntity], settings: Settings, *, how: str
) -> None:
    """Say that it runs, and what can be done now, ready to be copied."""
    if output.json:
        served = {entity.name: list(entity.contracts) for entity in entities}
        output.result({"ready": True, "url": without_login(settings.url), "entities": served})
        return
    output.line(Text.assemble((how, "bold"), f" on {without_login(settings.url)}"))
    for entity in entities:
        output.line(f"  {entity.name}: {', '.join(entity.contracts)}")
    output.line()
    output.line("Next, in another terminal:")
    for entity in entities:
        for line in next_commands(entity, options(settings)):
            output.line(f"  {line}")


def next_commands(entity: AnyEntity, options: str = "") -> list[str]:
    """Commands for a shell that work on this entity type as it is."""
    lines: list[str] = []
    at = f"{entity.name} {entity.name[0]}-1"
    for tag, contract in list(entity.contracts.items())[:EXAMPLES]:
        fields = example(contract)
        if fields is not None:
            lines.append(
                f"perdure ask {at} {tag}{f' {quoted(fields)}' if fields else ''}{options}"
            )
    return [*lines, f"perdure history {at}{options}", f"perdure state {at}{options}"]


def options(settings: Settings) -> str:
    """What a command typed here needs to reach the same place, if it wouldn't by itself.

    By itself it goes where the variables, the NATS context and `perdure.toml` say.
    """
    usual = Settings.load()
    url = "" if settings.url == usual.url else f" --url {quoted(without_login(settings.url))}"
    other = settings.namespace != usual.namespace
    return url + (f" --namespace {settings.namespace}" if other else "")
