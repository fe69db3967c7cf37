"""The parser: which commands there are, in the order in which `--help` lists them."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from cyclopts import App, Group

from .backup import backup
from .broadcast import broadcast
from .call import ask, result, tell
from .check import check
from .dead import dead
from .dev import dev
from .drain import drain
from .ending import ending
from .entities import entities
from .flows import flows
from .gateway import gateway
from .history import history
from .look import state, status
from .output import Output
from .permissions import permissions
from .resizing import resize_type
from .restore import restore
from .resume import resume
from .run import run as run_command
from .runners import runners
from .schedules import schedules
from .schema import schema
from .settings import settings
from .shards import shards
from .stats import stats
from .suspended import suspended
from .topology import topology
from .trouble import FAILED
from .verify import verify

HELP = """
Durable, sharded, event-sourced entities on NATS JetStream.

Start with the first, then type the others in another terminal:

* `perdure dev bank.py`
* `perdure ask account a-1 deposit '{"cents": 700}' --key pay-1`
* `perdure history account a-1`

Exit codes: 0 done, 1 refused, failed or a fault found, 2 not understood.
"""

app: App = App(
    name="perdure",
    help=HELP,
    help_format="markdown",
    version=version("perdure"),
    result_action="return_value",
    suppress_keyboard_interrupt=False,  # told like any other trouble
)
HOST = Group("Develop and host", sort_key=1)
CALL = Group("Call", sort_key=2)
LOOK = Group("Look at an entity", sort_key=3)
OPERATE = Group("Operate", sort_key=4)

app.command(dev, group=HOST)
app.command(run_command, name="run", group=HOST)
app.command(schema, group=HOST)
app.command(gateway, group=HOST)
# Usages are said where the parser's own would be [ARGS], for what may be left out.
app.command(ask, group=CALL, usage="Usage: perdure ask TYPE ID COMMAND [FIELDS] [OPTIONS]")
app.command(tell, group=CALL, usage="Usage: perdure tell TYPE ID COMMAND [FIELDS] [OPTIONS]")
app.command(result, group=CALL)
app.command(
    broadcast,
    group=CALL,
    usage="Usage: perdure broadcast TYPE COMMAND [FIELDS] [OPTIONS]",
)
app.command(resume, group=CALL)
for _command in (status, history, state):
    app.command(_command, group=LOOK)
app.command(check, group=OPERATE, usage="Usage: perdure check [APP] [OPTIONS]")
app.command(permissions, group=OPERATE, usage="Usage: perdure permissions [APP] [OPTIONS]")
app.command(topology, group=OPERATE, usage="Usage: perdure topology [APP] [OPTIONS]")
app.command(entities, group=OPERATE)
app.command(stats, group=OPERATE, usage="Usage: perdure stats [TYPE] [OPTIONS]")
app.command(runners, group=OPERATE)
shards.group = OPERATE
shards.command(resize_type, name="resize", usage="Usage: perdure shards resize TYPE N [OPTIONS]")
app.command(shards)
app.command(drain, group=OPERATE)
app.command(settings, group=OPERATE, usage="Usage: perdure settings [NAME…] [OPTIONS]")
app.command(suspended, group=OPERATE)
app.command(schedules, group=OPERATE)
flows.group = OPERATE
app.command(flows)
dead.group = OPERATE  # an app of its own takes no options here
app.command(dead)
app.command(verify, group=OPERATE, usage="Usage: perdure verify [TYPE] [OPTIONS]")
app.command(backup, group=OPERATE, usage="Usage: perdure backup [TYPE…] FOLDER [OPTIONS]")
app.command(restore, group=OPERATE, usage="Usage: perdure restore [TYPE…] FOLDER [OPTIONS]")


def run(tokens: Sequence[str]) -> int:
    """Run one command line; the exit code."""
    try:
        return _run(tokens)
    except BrokenPipeError:  # `perdure history … | head`
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _run(tokens: Sequence[str]) -> int:
    output = Output(json="--json" in tokens)
    return ending(
        output, lambda: app(tokens, exit_on_error=False, print_error=False, verbose=False)
    )
