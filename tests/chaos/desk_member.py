"""One of several runners that host desks: `python -m tests.chaos.desk_member`."""

from __future__ import annotations

from .desk import desk
from .member import main

if __name__ == "__main__":
    main(desk, "info")
