"""A FastAPI service in front of the accounts of bank.py: one cluster for the process, one `ask` a
request, and each way it may end as the status that HTTP has for it.

    pip install -e '.[cli,server]' fastapi uvicorn    # in perdure's folder
    cd examples && perdure dev bank.py                # leave it running; elsewhere:
    NATS_URL=nats://127.0.0.1:4222 uvicorn web:app
    curl localhost:8000/accounts/a-1/deposits -H 'Idempotency-Key: pay-3' --json '{"cents": 700}'

Whoever repeats a request with its `Idempotency-Key` gets the answer of the first one, over a lost
connection, a restart of this service or of the runner. (`perdure gateway bank.py` is such a
service for every entity type, without code; write your own where paths, logins or answers are to
be yours.)
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from bank import Account, Deposit, InsufficientFunds, Withdraw
from fastapi import Depends, FastAPI, Header, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from perdure import Cluster, ClusterError, Ref, connect

RETRY_AFTER_S = 1
"""What a client is told to wait, in seconds: runners come back and mailboxes empty within one."""


class Amount(BaseModel):
    """What is paid in or out."""

    cents: Annotated[int, Field(gt=0, le=10**15)]


class Balance(BaseModel):
    """What is in the account afterwards."""

    cents: int


@asynccontextmanager
async def _connected(app: FastAPI) -> AsyncGenerator[None]:
    """One connection for all requests, as long as the service runs."""
    async with connect() as cluster:
        app.state.cluster = cluster
        yield


app = FastAPI(title="Accounts", lifespan=_connected)


def account(id: str, request: Request) -> Ref[Account]:
    """The account that the path names."""
    cluster: Cluster = request.app.state.cluster
    return cluster.at(Account, id)


Of = Annotated[Ref[Account], Depends(account)]
Key = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1)]


@app.post("/accounts/{id}/deposits")
async def deposit(amount: Amount, of: Of, key: Key = None) -> Balance:
    """Pay something in."""
    return Balance(cents=await of.ask(Deposit(amount.cents), key=key))


@app.post("/accounts/{id}/withdrawals")
async def withdraw(amount: Amount, of: Of, key: Key = None) -> Balance:
    """Pay something out; 409 if there isn't enough."""
    return Balance(cents=await of.ask(Withdraw(amount.cents), key=key))


@app.exception_handler(InsufficientFunds)
async def declined(_request: Request, failure: InsufficientFunds) -> JSONResponse:
    """The domain says no: an answer like another, and the same each time it is asked for."""
    return _problem(409, "insufficient funds", balance=failure.balance)


@app.exception_handler(ClusterError)
async def troubled(_request: Request, error: ClusterError) -> JSONResponse:
    """Infrastructure: 400 where the request is to be mended, else 503 and to be repeated.

    A key makes repeating safe, so one that perdure made for the caller is told as well."""
    status = 400 if error.advice == "fix" else 503
    headers = {} if status == 400 else {"Retry-After": str(RETRY_AFTER_S)}
    told = {"advice": error.advice, "may_have_taken_effect": error.may_have_taken_effect}
    return _problem(status, error.cause or error.tag, headers, key=error.key, **told)


def _problem(
    status: int, title: str, headers: dict[str, str] | None = None, **more: Any
) -> JSONResponse:
    """As RFC 9457 has it."""
    body = {"title": title, "status": status, **more}
    return JSONResponse(body, status, headers, "application/problem+json")
