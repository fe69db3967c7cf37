"""The shop: its entities in one place.

perdure dev examples/orders/shop.py     a server and a runner, for developing
perdure run shop                        a runner, with this folder on PYTHONPATH
python examples/orders/shop.py          the same, on the server that PERDURE_URL says
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

# PYTHONSAFEPATH leaves a script's own folder out
sys.path.insert(0, str(Path(__file__).resolve().parent))

from order import order
from payment import payment
from stock import stock
from takings import takings

from perdure import serve

ENTITIES = (order, payment, stock, takings)

if __name__ == "__main__":
    asyncio.run(serve(*ENTITIES))
