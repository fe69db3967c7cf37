"""Orders as durable flows, on a server of their own, with a kill -9 in the middle.

    python examples/orders/demo.py                    in a folder that is removed at the end
    python examples/orders/demo.py --store DIR        keeps it: server, provider and desk
    python examples/orders/demo.py --json             what came of it, as one JSON value

It starts a nats-server and a runner with the three entities (order, payment, stock), places nine
orders and shows how each of them ends: confirmed, rejected, cancelled. Three wait for a person to
approve them; while they do, the runner is killed, and another one goes on. At the end the books
are compared: what was sold and what the payment provider has must be what was confirmed. README.md
has the story, tour.py the code.

Exit codes: 0 the books balance, 1 they don't or something failed, 2 wrong usage, 130
stopped.
"""

from __future__ import annotations

import sys
from pathlib import Path

# PYTHONSAFEPATH leaves a script's own folder out
sys.path.insert(0, str(Path(__file__).resolve().parent))

from tour import main

if __name__ == "__main__":
    sys.exit(main(__doc__ or ""))
