"""Entities over HTTP: a real gateway, a real runner on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from perdure import Ref, SerializationError
from perdure.deploy.gateway.limits import Limits
from perdure.deploy.server import EmbeddedServer

from ...support.server import fresh_namespace, until
from . import till as tills
from .house import House, house

KEY = "Idempotency-Key"
PROBLEM = "application/problem+json"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(nats_server: EmbeddedServer) -> AsyncIterator[House]:
    """One for all tests that use ids of their own."""
    limits = Limits(outcome_s=0.1)
    async with house(nats_server, fresh_namespace(), limits) as made:
        yield made


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def put(made: House, id: str, cents: int, **headers: str) -> httpx.Response:
    return await made.http.post(f"/entities/till/{id}/put", json={"cents": cents}, headers=headers)


# -- commands -----------------------------------------------------------------------------------
async def test_a_command_is_answered_with_its_reply(shared: House) -> None:
    answer = await put(shared, "reply", 5)
    assert (answer.status_code, answer.json()) == (200, 5)
    assert answer.headers["cache-control"] == "no-store"
    named = {"type": "put", "cents": 2}
    again = await shared.http.post("/entities/till/reply/put", json=named)
    assert again.json() == 7


async def test_a_key_gets_the_same_outcome_and_no_other_fields(shared: House) -> None:
    first = await put(shared, "key", 5, **{KEY: '"order-17"'})
    same = await put(shared, "key", 5, **{KEY: "order-17"})
    assert (first.json(), same.json()) == (5, 5)
    other = await put(shared, "key", 6, **{KEY: '"order-17"'})
    assert (other.status_code, other.json()["type"]) == (422, "MalformedMessage")
    assert other.json()["may_have_taken_effect"] is False
    assert (await shared.http.get("/entities/till/key/state")).json()["cents"] == 5


async def test_the_same_key_in_progress_waits_for_the_same_outcome(shared: House) -> None:
    tills.released.clear()
    ask = {"url": "/entities/till/twin/wait", "headers": {KEY: "w-1", "Prefer": "wait=15"}}
    both = [asyncio.create_task(shared.http.post(**ask)) for _ in range(2)]  # type: ignore[arg-type]
    await until(lambda: shared.gateway.requests >= 2, "two requests in hand")
    tills.released.set()
    assert [(await one).json() for one in both] == [True, True]
    history = (await shared.http.get("/entities/till/twin/history")).json()["items"]
    assert sum(item.get("reply") is True for item in history) == 1


async def test_a_failure_is_a_conflict_that_is_recorded(shared: House) -> None:
    for _ in range(2):
        answer = await shared.http.post(
            "/entities/till/short/take", json={"cents": 5}, headers={KEY: "t-1"}
        )
        assert (answer.status_code, answer.headers["content-type"]) == (409, PROBLEM)
        assert answer.json()["type"] == "short"
        assert answer.json()["failure"] == {"type": "short", "status": 0}
        assert "retry-after" not in answer.headers


async def test_a_tell_is_accepted_and_its_outcome_found(shared: House) -> None:
    told = await put(shared, "told", 5, Prefer="respond-async")
    assert (told.status_code, told.headers["preference-applied"]) == (202, "respond-async")
    found = await shared.http.get(told.headers["location"], headers={"Prefer": "wait=10"})
    assert (found.status_code, found.json()) == (200, 5)
    soon = await put(shared, "told", 5, Prefer="respond-async, wait=10")
    assert (soon.status_code, soon.json()) == (200, 10)


async def test_a_suspended_flow_is_accepted_resumed_and_found(shared: House) -> None:
    await put(shared, "flow%2F1", 50)
    close = "/entities/till/flow%2F1/close"
    asked = await shared.http.post(close, json={"cents": 20})
    assert (asked.status_code, asked.json()["waits_for"]) == (202, ["verdict"])
    assert asked.headers["location"] == asked.json()["outcome"]
    waits = await shared.http.get(asked.headers["location"])
    assert (waits.status_code, waits.headers["location"]) == (202, asked.headers["location"])
    token, value = asked.json()["resume_token"], {"yes": True, "by": "ann"}
    for bad in ({"yes": 1}, {"yes": True, "by": "x", "token": "x" * 40}):
        refused = await shared.http.post("/resume", json={"token": f"{token}x", "value": bad})
        assert (refused.status_code, token in refused.text) == (422, False)
    done = await shared.http.post("/resume", json={"token": token, "value": value})
    assert (done.status_code, done.content) == (204, b"")
    late = await shared.http.post(f"/resume/{token}", json={"yes": False, "by": "bob"})
    assert late.status_code == 204
    found = await shared.http.get(asked.headers["location"], headers={"Prefer": "wait=10"})
    assert (found.status_code, found.json()) == (200, True)
    past = await shared.http.get("/entities/till/flow%2F1/history")
    assert token.partition(".")[0] not in past.text


async def test_a_refused_flow_is_a_conflict_at_its_outcome(shared: House) -> None:
    await put(shared, "no", 50)
    asked = await shared.http.post("/entities/till/no/close", json={"cents": 20})
    value = {"yes": False, "by": "ann"}
    await shared.http.post("/resume", json={"token": asked.json()["resume_token"], "value": value})
    found = await shared.http.get(asked.headers["location"], headers={"Prefer": "wait=10"})
    assert (found.status_code, found.json()["failure"]) == (409, {"type": "refused", "by": "ann"})
    other = await shared.http.get(asked.headers["location"].replace("close", "put"))
    assert (other.status_code, other.json()["type"]) == (422, "SerializationError")


async def test_an_outcome_that_the_owner_cannot_tell_is_no_fault_of_who_asks(
    shared: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def large(*_: object, **__: object) -> None:
        why = "the answer has 600000 bytes, a message holds 524288"
        raise SerializationError(cause=why, may_have_taken_effect=False)

    monkeypatch.setattr(Ref, "result", large)
    found = await shared.http.get("/entities/till/large/outcomes/put/k")
    assert (found.status_code, found.json()["type"]) == (500, "SerializationError")


async def test_an_outcome_that_is_not_there_is_not_found(shared: House) -> None:
    found = await shared.http.get("/entities/till/none/outcomes/put/never-used")
    assert (found.status_code, found.json()["type"]) == (404, "SendTimeout")
    assert found.headers["retry-after"] == "1"


async def test_who_waits_too_short_is_told_that_it_may_happen(shared: House) -> None:
    tills.released.clear()
    late = await shared.http.post("/entities/till/late/wait?wait=0.3", headers={KEY: "l-1"})
    tills.released.set()
    assert late.status_code in (202, 504)
    found = await shared.http.get("/entities/till/late/outcomes/wait/l-1?wait=10")
    assert (found.status_code, found.json()) == (200, True)


# -- reads --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("times=3", {"all": 15}),
        ("times=3&label=x", {"x": 15}),
        ("times=3&label=5&fresh=true", {"5": 15}),
        ("times=0&parts=[1,2]&label=null&wait=5", {"all": 3}),
    ],
)
async def test_a_query_takes_its_fields_from_the_url(
    shared: House, query: str, found: dict[str, int]
) -> None:
    await put(shared, "asked", 5, **{KEY: "once"})
    answer = await shared.http.get(f"/entities/till/asked/worth?{query}")
    assert (answer.status_code, answer.json()) == (200, found)


async def test_a_query_may_be_posted(shared: House) -> None:
    body = {"times": 2, "parts": [1]}
    answer = await shared.http.post("/entities/till/posted/worth?fresh=true", json=body)
    assert answer.json() == {"all": 1}
    answer = await shared.http.post("/entities/till/posted/history", json={"fresh": True})
    assert answer.json() == 0


async def test_a_state_is_that_of_a_version_or_a_time(shared: House) -> None:
    for cents in (1, 2):
        await put(shared, "then", cents)
    at = "/entities/till/then/state"
    assert (await shared.http.get(at)).json() == {"type": "till", "cents": 3}
    assert (await shared.http.get(f"{at}?version=1")).json()["cents"] == 1
    assert (await shared.http.get(f"{at}?time=2020-01-01T00:00:00Z")).json()["cents"] == 0
    for bad in ("version=9", "version=-1", "time=2020-01-01T00:00:00", "time=x", "x=1"):
        assert (await shared.http.get(f"{at}?{bad}")).status_code in (400, 422)


async def test_what_is_heeded_of_preferences_is_told(shared: House) -> None:
    made = await put(shared, "preferred", 1, **{KEY: "k", "Prefer": "wait=7"})
    assert made.headers["preference-applied"] == "wait=7"
    for path in ("state", "history", "worth?times=1", "outcomes/put/k"):
        for prefer, applied in (("respond-async, wait=7", "wait=7"), ("respond-async", None)):
            at = f"/entities/till/preferred/{path}"
            answer = await shared.http.get(at, headers={"Prefer": prefer})
            told = (answer.status_code, answer.headers.get("preference-applied"))
            assert told == (200, applied), path


@pytest.mark.parametrize(
    "id", ["a/b", "..", ".", "a b", "ü", "%2F", "=2F", "a?b#c", "*", ">", "\0"]
)
async def test_any_id_is_itself(shared: House, id: str) -> None:
    there = "".join(f"%{byte:02X}" for byte in id.encode())
    path = f"/entities/till/{there}/put"
    # As it is: what httpx makes of a URL it may also make of the dots in it.
    url = httpx.URL(shared.at).copy_with(raw_path=path.encode())
    answer = await shared.http.send(
        shared.http.build_request("POST", url, json={"cents": 0}, headers={KEY: "id"})
    )
    assert answer.status_code == 200
    ids = [found async for found in shared.cluster.ids(tills.Till)]
    assert id in ids


# -- what HTTP asks -----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/entities/nobody/a/put", 404),
        ("POST", "/entities/till/a/nothing", 404),
        ("POST", "/entities/till/a/put/", 404),
        ("POST", "/entities/till//put", 404),
        ("GET", "/entities/till/a/outcomes/put/not.a.key", 404),
        ("GET", "/entities/till/a/outcomes/worth/k", 404),
        ("GET", "/entities/till/%ff/state", 400),
        ("GET", "/entities/till/a/put", 405),
        ("DELETE", "/entities/till/a/state", 405),
        ("PUT", "/resume", 405),
        ("POST", "/openapi.json", 405),
        ("OPTIONS", "/entities/till/a/worth", 204),
        ("HEAD", "/entities/till/a/state", 200),
        ("GET", f"/entities/till/{'i' * 256}/state", 422),
        ("GET", f"/entities/till/a/worth?label={'i' * 9000}", 414),
        ("GET", "/entities/till/a/worth", 422),
        ("GET", "/entities/till/a/worth?times=x", 422),
        ("GET", "/entities/till/a/worth?times=1&tiems=1", 400),
        ("POST", "/entities/till/a/put?fresh=true", 400),
        ("GET", "/entities/till/a/history?limit=0", 400),
    ],
)
async def test_paths_and_methods(shared: House, method: str, path: str, status: int) -> None:
    answer = await shared.http.request(method, path)
    assert answer.status_code == status
    if status >= 400:
        assert answer.headers["content-type"] == PROBLEM
        assert answer.json()["status"] == status
    else:
        assert answer.content == b""
    if status in (204, 405):
        assert "OPTIONS" in answer.headers["allow"]


@pytest.mark.parametrize(
    ("body", "kind", "accept", "status"),
    [
        (b'{"cents": 1', "application/json", "*/*", 400),
        (b"\xff", "application/json", "*/*", 400),
        (b'{"note": ' + b"[" * 5000, "application/json", "*/*", 422),
        (b'{"cents": "1"}', "application/json", "*/*", 422),
        (b'{"cents": 1, "cent": 1}', "application/json", "*/*", 422),
        (b'{"cents": 1, "type": "take"}', "application/json", "*/*", 422),
        (b"[]", "application/json", "*/*", 422),
        (b"", "application/json", "*/*", 422),
        (b'{"cents": 1}', "text/plain", "*/*", 415),
        (b'{"cents": 1}', "application/json", "text/html", 406),
        (b" " * 600_000, "application/json", "*/*", 413),
    ],
)
async def test_bodies(shared: House, body: bytes, kind: str, accept: str, status: int) -> None:
    headers = {"Content-Type": kind, "Accept": accept}
    answer = await shared.http.post("/entities/till/a/put", content=body, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM)
    assert "Traceback" not in answer.text


async def test_a_stream_of_anything_else_is_not_acceptable(shared: House) -> None:
    only = {"Accept": "text/event-stream"}
    assert (await shared.http.get("/entities/till/a/state", headers=only)).status_code == 406


async def test_it_is_ready_while_owners_answer(
    nats_server: EmbeddedServer, namespace: str, shared: House
) -> None:
    assert (await shared.http.get("/readyz")).json() == {"ready": True}
    async with house(nats_server, namespace, hosted=False, require_key=True, root="/b") as alone:
        answer = await alone.http.get("/readyz")
        assert (answer.status_code, answer.json()["why"]) == (503, "RunnerNotRegistered")
        assert (await alone.http.get("/livez")).status_code == 200
        nobody = await put(alone, "a", 1, **{KEY: "k"})
        assert (nobody.status_code, nobody.json()["type"]) == (503, "RunnerNotRegistered")
        assert nobody.json()["may_have_taken_effect"] is False
        assert (await put(alone, "a", 1)).status_code == 400
        told: Any = (await alone.http.get("/openapi.json")).json()
        assert told["servers"] == [{"url": "/b"}]
