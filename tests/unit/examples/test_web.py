"""The FastAPI service of the examples, against a real runner on a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
import pytest_asyncio
import web
from bank import account

from perdure import Settings, connect
from perdure.deploy.server import EmbeddedServer

OwnServer = Callable[..., Awaitable[EmbeddedServer]]
KEY = {"Idempotency-Key": "pay-3"}


@pytest_asyncio.fixture
async def server(own_server: OwnServer, monkeypatch: pytest.MonkeyPatch) -> EmbeddedServer:
    server = await own_server()
    monkeypatch.setenv("NATS_URL", server.url)
    monkeypatch.setenv("PERDURE_ASK_TIMEOUT", "2")
    return server


@pytest_asyncio.fixture
async def client(server: EmbeddedServer) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the service, which runs as a web server would have it run."""
    async with web.app.router.lifespan_context(web.app):
        transport = httpx.ASGITransport(web.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://bank") as client:
            yield client


def hosting(server: EmbeddedServer) -> Any:
    settings = Settings(url=server.url, shards=2, command_stream_bytes=2**24)
    return connect(serving=[account], settings=settings)


async def test_a_day_at_the_bank(server: EmbeddedServer, client: httpx.AsyncClient) -> None:
    async with hosting(server):
        for _ in range(2):  # repeated by its key: once
            paid = await client.post("/accounts/a-1/deposits", json={"cents": 700}, headers=KEY)
            assert (paid.status_code, paid.json()) == (200, {"cents": 700})
        left = await client.post("/accounts/a-1/withdrawals", json={"cents": 500})
        assert left.json() == {"cents": 200}
        declined = await client.post("/accounts/a-1/withdrawals", json={"cents": 500})
        assert declined.status_code == 409
        assert declined.headers["content-type"] == "application/problem+json"
        assert declined.json()["balance"] == 200
        other = await client.post("/accounts/a-1/deposits", json={"cents": 1}, headers=KEY)
        assert (other.status_code, other.json()["advice"]) == (400, "fix"), "the key is taken"
        for bad in ({"cents": 0}, {"cents": "x"}, {}):
            refused = await client.post("/accounts/a-1/deposits", json=bad)
            assert refused.status_code == 422
        unnamed = {"Idempotency-Key": ""}
        refused = await client.post("/accounts/a-1/deposits", json={"cents": 1}, headers=unnamed)
        assert refused.status_code == 422, "an empty key would name nothing"
        long = await client.post(f"/accounts/{'x' * 300}/deposits", json={"cents": 1})
        assert long.status_code == 400


async def test_without_a_runner(server: EmbeddedServer, client: httpx.AsyncClient) -> None:
    """To be repeated, with the key, until somebody runs the accounts: then it happens, once."""
    gone = await client.post("/accounts/a-1/deposits", json={"cents": 5}, headers=KEY)
    assert (gone.status_code, gone.headers["retry-after"]) == (503, "1")
    assert gone.json()["may_have_taken_effect"] is False
    async with hosting(server):
        for _ in range(2):
            paid = await client.post("/accounts/a-1/deposits", json={"cents": 5}, headers=KEY)
            assert (paid.status_code, paid.json()) == (200, {"cents": 5})
