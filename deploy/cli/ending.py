"""Ending: how any command ends, as a line and an exit code.

A command is a plain function that returns its exit code or raises Trouble; here is the one place
that turns what it raises into a line and a code.
"""

from __future__ import annotations

from collections.abc import Callable

from cyclopts import CycloptsError

from ...entities.errors import ClusterError
from ...streams.port import Forbidden, Incompatible, Unreachable
from ..server import FolderUnusable, ServerFailed, ServerMissing, StoreInUse
from .advice import allow, next_step
from .output import Output
from .trouble import FAILED, SUCCESS, Advised, Failed, Trouble, UsageError

_TYPES = {
    "into int|Literal[auto]": "into a whole number, or auto",
    "into int": "into a whole number",
    "into float": "into a number",
}
"""What the parser calls the types of options, and what people call them."""


def ending(output: Output, work: Callable[[], object]) -> int:
    """Do something to its end: its exit code, or what its error is told as."""
    try:
        code = work()
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
            return UsageError(_plain(error), f"see {_help_of(error)}")
        case Forbidden():
            return Failed(str(error), allow(str(error)))
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


def _plain(error: CycloptsError) -> str:
    """Its text in plain words, without its list of some commands: `--help` has all of them."""
    text = str(error).partition(" Available commands:")[0].rstrip(".")
    for python, plain in _TYPES.items():
        text = text.removesuffix(python) + (plain if text.endswith(python) else "")
    return text


def _help_of(error: CycloptsError) -> str:
    chain = " ".join(error.command_chain or ())
    return f"perdure {chain} --help" if chain else "perdure --help"
