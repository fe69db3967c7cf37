"""What a request says: headers, paths and query strings, without a server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.exceptions import HTTPException
from starlette.requests import Request

from perdure.deploy.gateway.limits import Limits
from perdure.deploy.gateway.reading import (
    Preferences,
    accepts,
    body_of,
    escaped,
    key_of,
    parameters,
    part,
    preferences,
    wants_events,
)

LIMITS = Limits(body_bytes=10, body_s=0.05, wait_s=60)


def request(
    *headers: tuple[str, str], query: str = "", chunks: tuple[bytes, ...] = (), **path: str
) -> Request:
    """A request as the server would make it; its body may never end."""
    coming = iter(chunks)

    async def receive() -> dict[str, Any]:
        for chunk in coming:
            return {"type": "http.request", "body": chunk, "more_body": chunk != b""}
        await asyncio.Event().wait()
        raise AssertionError

    scope = {
        "type": "http",
        "method": "POST",
        "headers": [(n.lower().encode(), v.encode()) for n, v in headers],
        "query_string": query.encode(),
        "path_params": path,
    }
    return Request(scope, receive)


@settings(max_examples=50)
@given(st.text(min_size=1))
def test_an_id_is_the_same_after_the_path(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    there = escaped(text)
    assert "/" not in there
    assert there.strip(".")
    assert part(request(id=there), "id") == text


@pytest.mark.parametrize("raw", ["%", "a%2", "%zz", "%ff", "%c3"])
def test_a_path_that_is_no_text_is_refused(raw: str) -> None:
    with pytest.raises(HTTPException) as refused:
        part(request(id=raw), "id")
    assert refused.value.status_code == 400


@pytest.mark.parametrize("given", ['"order-17"', "order-17", ' "order-17" '])
def test_a_key_is_quoted_or_bare(given: str) -> None:
    assert key_of(request(("Idempotency-Key", given))) == "order-17"


@pytest.mark.parametrize("given", ["", '""', '"', "a b", '"a', "a.b", "é", "k" * 256, '"a";p=1'])
def test_what_is_no_key_is_refused(given: str) -> None:
    with pytest.raises(HTTPException) as refused:
        key_of(request(("Idempotency-Key", given)))
    assert refused.value.status_code == 400


def test_two_keys_are_refused_and_none_is_none() -> None:
    with pytest.raises(HTTPException):
        key_of(request(("Idempotency-Key", "a"), ("Idempotency-Key", "a")))
    assert key_of(request()) is None


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("wait=10", Preferences(10.0)),
        ("WAIT=2.5", Preferences(2.5)),
        ("wait=9999", Preferences(60.0)),
        ("respond-async", Preferences(None, True)),
        ("respond-async, wait=1", Preferences(1.0, True)),
        ('wait="7"; x, return=minimal', Preferences(7.0)),
        ("wait=-1", Preferences()),
        ("wait=soon, handling=strict", Preferences()),
    ],
)
def test_preferences_are_heeded_or_ignored(header: str, found: Preferences) -> None:
    assert preferences(request(("Prefer", header)), {}, LIMITS) == found


def test_the_parameter_beats_the_header_and_is_strict() -> None:
    asked = request(("Prefer", "wait=10"))
    assert preferences(asked, {"wait": "0.5"}, LIMITS).wait_s == 0.5
    for bad in ("61", "-1", "", "soon", "1e1"):
        with pytest.raises(HTTPException):
            preferences(asked, {"wait": bad}, LIMITS)


@pytest.mark.parametrize("query", ["b=1", "a=1&a=2", "a=%ff", "a", "&&", "a=1&" * 200])
def test_a_query_string_that_says_something_else_is_refused(query: str) -> None:
    with pytest.raises(HTTPException) as refused:
        parameters(request(query=query), ("a",))
    assert refused.value.status_code == 400


def test_a_query_string_is_decoded() -> None:
    assert parameters(request(query="a=x%2Fy+z&b="), ("a", "b")) == {"a": "x/y z", "b": ""}
    assert parameters(request(), ()) == {}


@pytest.mark.parametrize(
    ("header", "json", "events"),
    [
        ("*/*", True, False),
        ("application/json", True, False),
        ("application/*;q=0.1", True, False),
        ("application/problem+json", True, False),
        ("text/event-stream", False, True),
        ("text/event-stream, application/json;q=0.9", True, True),
        ("text/html, */*;q=0", False, False),
        ("application/json;q=0, */*", False, False),
        ("text/event-stream;q=0", False, False),
        ("image/png", False, False),
    ],
)
def test_what_a_client_accepts(header: str, json: bool, events: bool) -> None:
    asked = request(("Accept", header))
    assert accepts(asked, "application/json") is json
    assert wants_events(asked) is events


TYPED = ("Content-Type", "application/json; charset=UTF-8")


@pytest.mark.parametrize(
    ("headers", "chunks", "status"),
    [
        ((TYPED,), (b"12345", b"678901", b""), 413),
        ((TYPED, ("Content-Length", "5000000")), (), 413),
        ((TYPED, ("Content-Length", "11"), ("Expect", "100-continue")), (), 413),
        ((TYPED,), (b"1",), 408),
        ((), (b"1", b""), 415),
        ((("Content-Type", "application/x-www-form-urlencoded"),), (b"1", b""), 415),
        ((("Content-Type", "application/json; charset=latin-1"),), (b"1", b""), 415),
        ((TYPED, ("Content-Encoding", "gzip")), (b"1", b""), 415),
    ],
)
async def test_a_body_is_bounded_and_json(
    headers: tuple[tuple[str, str], ...], chunks: tuple[bytes, ...], status: int
) -> None:
    with pytest.raises(HTTPException) as refused:
        await body_of(request(*headers, chunks=chunks), LIMITS)
    assert refused.value.status_code == status


@pytest.mark.parametrize("kind", ["application/json", "application/vnd.bank+json"])
async def test_a_body_comes_in_parts(kind: str) -> None:
    asked = request(("Content-Type", kind), chunks=(b"12345", b"67890", b""))
    assert await body_of(asked, LIMITS) == b"1234567890"
    assert await body_of(request(chunks=(b"",)), LIMITS) == b""
