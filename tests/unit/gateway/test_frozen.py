"""What is told while the server is frozen: a server of its own, as it is frozen for all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from perdure.deploy.gateway.limits import Limits
from perdure.deploy.server import EmbeddedServer

from .house import house

OwnServer = Callable[..., Awaitable[EmbeddedServer]]


async def test_a_read_has_its_time(own_server: OwnServer, namespace: str) -> None:
    server = await own_server()
    async with house(server, namespace, Limits(ready_s=0.3)) as made:
        first = await made.http.post("/entities/till/a/put", json={"cents": 1})
        assert first.json() == 1
        server.pause()
        for path in ("state", "history"):
            late = await made.http.get(f"/entities/till/a/{path}?wait=0.2")
            assert (late.status_code, late.headers["retry-after"]) == (504, "1")
        ready = await made.http.get("/readyz")
        assert (ready.status_code, ready.json()["why"]) == (503, "no owner answered in time")
        server.resume()
        assert (await made.http.get("/entities/till/a/state")).json()["cents"] == 1
