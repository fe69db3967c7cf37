"""Approve orders, as the person at the desk would.

    python examples/orders/approve.py                what waits for an approval, with its token
    python examples/orders/approve.py o-2            approve it
    python examples/orders/approve.py o-2 --refuse   refuse it

It takes the server's address from PERDURE_URL, as `perdure` does, and the desk's file from
ORDERS_OUTSIDE.
Exit codes: 0 done, 1 no such request, or the cluster refused.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

# PYTHONSAFEPATH leaves a script's own folder out
sys.path.insert(0, str(Path(__file__).resolve().parent))

import desk
from order import Verdict

from perdure import ClusterError, Token, connect


async def approve(order: str, verdict: Verdict) -> None:
    """Let the order go on. Raises KeyError for one without a request, and ClusterError."""
    token = Token[Verdict](desk.requests()[order].token)
    async with connect() as cluster:
        await cluster.resume(token, verdict)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("order", nargs="?", help="which order; without it: what is there")
    parser.add_argument("--refuse", action="store_true", help="say no")
    parser.add_argument("--by", default="desk", help="who decides; default: desk")
    given = parser.parse_args()
    if given.order is None:
        for order, request in desk.requests().items():
            print(f"{order}  {request.cents / 100:10,.2f}  {request.token}")
        return 0
    try:
        asyncio.run(approve(given.order, Verdict(approved=not given.refuse, by=given.by)))
    except KeyError:
        print(f"no request for {given.order} lies on the desk", file=sys.stderr)
        return 1
    except ClusterError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
