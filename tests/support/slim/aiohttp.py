"""Stands before the real aiohttp in processes that tests start, and says that there is none.

nats-py imports it for WebSocket URLs alone, and that takes a quarter of a second of each process:
a minute of all tests. Those of WebSockets run in pytest's own process, which has the real one.
"""

raise ImportError("kept out of processes that tests start")
