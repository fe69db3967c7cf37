"""The parser: which commands there are, and how any of them ends.

A command is a plain function that returns its exit code or raises Trouble; here is the one place
that turns what it raises into a line and a code.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from cyclopts import App, CycloptsError

from ...entities.errors import ClusterError
from ...streams.port import Incompatible, Unreachable
from ..server import FolderUnusable, ServerFailed, ServerMissing, StoreInUse
from .advice import next_step
from .call import ask, result, tell
from .check import check
from .dev import dev
from .entities import entities
from .look import history, state, status
from .output import Output
from .run import run as run_command
from .trouble import FAILED, SUCCESS, Advised, Failed, Trouble, UsageError

HELP = """
Durable, sharded, event-sourced entities on NATS JetStream.

Start with the first, then type the others in another terminal:

* `perdure dev bank.py`
* `perdure ask account a-1 deposit '{"cents": 700}' --key pay-1`
* `perdure history account a-1`

Exit codes: 0 done, 1 refused or failed, 2 not understood.
"""

app: App = App(
    name="perdure",
    help=HELP,
    help_format="markdown",
    version=version("perdure"),
    result_action="return_value",
    suppress_keyboard_interrupt=False,  # told like any other trouble
)
app.command(dev)
app.command(run_command, name="run")
# Usages are said where the parser's own would be [ARGS], for what may be left out.
app.command(ask, usage="Usage: perdure ask TYPE ID COMMAND [FIELDS] [OPTIONS]")
app.command(tell, usage="Usage: perdure tell TYPE ID COMMAND [FIELDS] [OPTIONS]")
for _command in (result, status, history, state, entities):
    app.command(_command)
app.command(check, usage="Usage: perdure check [APP] [OPTIONS]")


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
    try:
        code = app(tokens, exit_on_error=False, print_error=False, verbose=False)
    except ClusterError as error:
        output.cluster_error(error, next_step(error))
        return FAILED
    except Advised as advised:
        output.cluster_error(advised.error, advised.next_step)
        return FAILED
    except (Exception, KeyboardInterrupt) as error:
        trouble = trouble_of(error)
        if trouble is None:
            raise
        output.trouble(trouble)
        return trouble.code
    return code if isinstance(code, int) else SUCCESS


def trouble_of(error: BaseException) -> Trouble | None:
    """What a person can do about an error; None for a bug of ours."""
    match error:
        case Trouble():
            return error
        case CycloptsError():
            return UsageError(str(error).rstrip("."), f"see {_help_of(error)}")
        case Unreachable():
            return Failed(str(error), "perdure check")
        case Incompatible():
            return Failed(str(error), "perdure check tells all that doesn't fit")
        case StoreInUse():
            stop = f"kill {error.owner}" if error.owner is not None else "stop that nats-server"
            return Failed(
                str(error), f"end its perdure dev, or if that is gone: {stop}; or another --store"
            )
        case FolderUnusable():
            return UsageError(str(error), "give a folder that can be written as --store")
        case ServerMissing():
            return Failed(str(error), "do one of that")
        case ServerFailed():
            return Failed(
                str(error), "mend that, or take another --port or --store (--port 0: a free one)"
            )
        case KeyboardInterrupt():
            return Failed("interrupted", "run it again")
        case _:
            return None


def _help_of(error: CycloptsError) -> str:
    chain = " ".join(error.command_chain or ())
    return f"perdure {chain} --help" if chain else "perdure --help"
