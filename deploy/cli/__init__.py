"""The command line: `perdure`. `parser.py` lists its commands.

One small file a group of commands. It needs the extra `cli`; without it this says so in one line,
as a traceback would send people looking for a bug.
"""

from __future__ import annotations

import sys

_NEEDED = frozenset({"cyclopts", "rich"})


def main() -> None:
    """Run the command line on this process's arguments, and exit."""
    try:
        from .parser import run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _NEEDED:
            raise
        print(
            "error: the command line needs the extra `cli`; next: pip install cyclopts rich",
            file=sys.stderr,
        )
        sys.exit(1)
    except KeyboardInterrupt:  # before the parser could tell it
        sys.exit(1)
    sys.exit(run(sys.argv[1:]))
