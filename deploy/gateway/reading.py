"""Reading: what a request says, checked and bounded before anything else is done with it.

All of it raises `HTTPException` with the status that fits. Ids are read from the path as it was
sent: decoded once for the whole path, an id with a `/` in it would be two parts.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Collection
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl, quote, unquote_to_bytes

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from ...entities.key import is_key
from .limits import LEAST_WAIT_S, PARAMETERS, Limits

JSON = "application/json"
EVENTS = "text/event-stream"

LINGER_BYTES = 4_194_304
"""How much of a body that is too large is read and thrown away, so that a client that sends before
it listens hears why; the connection of a larger one is closed under it."""

_ESCAPED = re.compile(r"(?:[^%]|%[0-9A-Fa-f]{2})*")
_NUMBER = re.compile(r"[0-9]{1,9}")
_SECONDS = re.compile(r"[0-9]{1,6}(\.[0-9]{1,20})?")


class Gone(Exception):
    """The client went away: there is nobody to answer."""


def part(request: Request, name: str) -> str:
    """A part of the path, percent-decoded."""
    raw: str = request.path_params[name]
    if _ESCAPED.fullmatch(raw) is None:
        raise HTTPException(400, f"{name}: a % without two hexadecimal digits")
    try:
        return unquote_to_bytes(raw.encode("latin-1")).decode()
    except UnicodeDecodeError:
        raise HTTPException(400, f"{name}: not percent-encoded UTF-8") from None


def escaped(text: str) -> str:
    """A part of a path; of dots alone it would mean a folder."""
    return text.replace(".", "%2E") if text.strip(".") == "" else quote(text, safe="")


def parameters(request: Request, known: Collection[str]) -> dict[str, str]:
    """The query string. What isn't known is refused: a mistyped one would silently do nothing."""
    raw: bytes = request.scope["query_string"]
    try:
        found = parse_qsl(
            raw.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(raw),
            errors="strict",
            max_num_fields=PARAMETERS,
        )
    except (ValueError, UnicodeError):
        raise HTTPException(400, "the query string can't be read") from None
    values = dict(found)
    if len(values) < len(found):
        raise HTTPException(400, "a parameter is given twice")
    for name in values:
        if name not in known:
            there = f"there are: {', '.join(known)}" if known else "there is none"
            raise HTTPException(400, f"unknown parameter {name[:60]!r}; {there}")
    return values


def number(values: dict[str, str], name: str, usual: int, least: int, most: int) -> int:
    """A whole number among the parameters."""
    text = values.get(name)
    if text is None:
        return usual
    if _NUMBER.fullmatch(text) is None or not least <= int(text) <= most:
        raise HTTPException(400, f"{name}: not a whole number from {least} to {most}")
    return int(text)


def flag(values: dict[str, str], name: str) -> bool:
    """`true` or `false` among the parameters; absent it is false."""
    text = values.get(name, "false")
    if text not in ("true", "false"):
        raise HTTPException(400, f"{name}: true or false")
    return text == "true"


def time_in(values: dict[str, str], name: str) -> datetime | None:
    """A time with its zone among the parameters."""
    text = values.get(name)
    if text is None:
        return None
    try:
        found = msgspec.convert(text, datetime)
    except msgspec.ValidationError:
        raise HTTPException(400, f"{name}: not a time such as 2026-11-30T12:00:00Z") from None
    if found.tzinfo is None:
        raise HTTPException(400, f"{name}: a time without a zone: end it with Z or +01:00")
    return found


class Preferences(msgspec.Struct, frozen=True):
    """How the client wants to be answered (RFC 7240), and `?wait=`, which is the same."""

    wait_s: float | None = None
    """How long it waits, in seconds; None if it doesn't say."""
    later: bool = False
    """`respond-async`."""

    @property
    def applied(self) -> dict[str, str]:
        """The header that says what of it was heeded."""
        if not self.later:
            return self.waited
        said = [*self.waited.values(), "respond-async"]
        return {"Preference-Applied": ", ".join(said)}

    @property
    def waited(self) -> dict[str, str]:
        """The same where nothing is done later: only commands are."""
        return {} if self.wait_s is None else {"Preference-Applied": f"wait={self.wait_s:g}"}


def preferences(request: Request, values: dict[str, str], limits: Limits) -> Preferences:
    """The parameter beats the header, which is ignored where it can't be heeded, by its RFC."""
    wait_s: float | None = None
    later = False
    for preference in ",".join(request.headers.getlist("prefer")).split(","):
        name, _, value = preference.partition(";")[0].strip().lower().partition("=")
        if name.strip() == "respond-async":
            later = True
        elif name.strip() == "wait" and _SECONDS.fullmatch(value.strip().strip('"')):
            wait_s = min(max(float(value.strip().strip('"')), LEAST_WAIT_S), limits.wait_s)
    text = values.get("wait")
    if text is not None:
        if _SECONDS.fullmatch(text) is None or not LEAST_WAIT_S <= float(text) <= limits.wait_s:
            raise HTTPException(400, f"wait: seconds, {LEAST_WAIT_S:g} to {limits.wait_s:g}")
        wait_s = float(text)
    return Preferences(wait_s, later)


def key_of(request: Request) -> str | None:
    """The `Idempotency-Key`: a quoted string, as its draft says, or bare."""
    given = request.headers.getlist("idempotency-key")
    if not given:
        return None
    text = given[0].strip()
    if len(text) >= 2 and text[0] == text[-1] == '"':
        text = text[1:-1]
    if len(given) > 1 or not is_key(text):
        raise HTTPException(400, "Idempotency-Key: one of 1-255 characters of A-Z a-z 0-9 : _ -")
    return text


async def body_of(request: Request, limits: Limits) -> bytes:
    """The body, JSON by its header, within its size and time. Raises Gone."""
    length = int(request.headers.get("content-length", "0"))  # h11 refuses what is no number
    waits = "expect" in request.headers
    if length > limits.body_bytes + (0 if waits else LINGER_BYTES):
        raise _too_large(limits)
    if request.headers.get("content-encoding", "identity") != "identity":
        raise HTTPException(415, "send the body as it is", {"Accept-Encoding": "identity"})
    kind = request.headers.get("content-type")
    if kind is not None and not _is_json(kind):
        raise _not_json()
    found, size = bytearray(), 0
    try:
        async with asyncio.timeout(limits.body_s):
            async for chunk in request.stream():
                size += len(chunk)
                if size <= limits.body_bytes:
                    found += chunk
                elif size > limits.body_bytes + LINGER_BYTES:
                    break
    except TimeoutError:
        late = f"the body didn't come within {limits.body_s:g} s"
        raise HTTPException(408, late, {"Connection": "close"}) from None
    except ClientDisconnect:
        raise Gone from None
    if size > limits.body_bytes:
        raise _too_large(limits)
    if found and kind is None:
        raise _not_json()
    return bytes(found)


def _is_json(kind: str) -> bool:
    name, *rest = (p.strip().lower() for p in kind.split(";"))
    charsets = [p for p in rest if p.startswith("charset")]
    utf8 = all(p.partition("=")[2].strip().strip('"') == "utf-8" for p in charsets)
    return utf8 and (name == JSON or (name.startswith("application/") and name.endswith("+json")))


def _not_json() -> HTTPException:
    how = "send JSON in UTF-8, with the header Content-Type: application/json"
    return HTTPException(415, how, {"Accept": JSON, "Accept-Post": JSON})


def _too_large(limits: Limits) -> HTTPException:
    # Its rest isn't read, so nothing else can come by that connection.
    why = f"allowed are {limits.body_bytes} bytes"
    return HTTPException(413, why, {"Connection": "close"})


def decoded(decode: Callable[[], Any], what: str) -> Any:
    """What `decode` returns. 400 for what isn't JSON, 422 for JSON that doesn't fit."""
    try:
        return decode()
    except msgspec.ValidationError as error:
        raise HTTPException(422, f"{what}: {error}"[:500]) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise HTTPException(400, f"{what}: not JSON: {why}"[:500]) from None
    except Exception as error:  # a class's own __post_init__ may raise anything
        raise HTTPException(422, f"{what}: {type(error).__name__}") from error


def accepts(request: Request, kind: str) -> bool:
    """Whether the client takes that media type, or, for JSON, one that errors are told in."""
    given = request.headers.getlist("accept")
    if not given:
        return True
    best = (-1, 0.0)
    for entry in ",".join(given).split(","):
        name, *rest = (p.strip().lower() for p in entry.split(";"))
        quality = next((_quality(p) for p in rest if p.startswith("q=")), 1.0)
        if name == kind or (kind == JSON and name == "application/problem+json"):
            rank = 2
        elif name == f"{kind.partition('/')[0]}/*":
            rank = 1
        elif name == "*/*" or not name:
            rank = 0
        else:
            continue
        best = max(best, (rank, quality))
    return best[1] > 0


def _quality(text: str) -> float:
    try:
        return float(text[2:])
    except ValueError:
        return 1.0


def wants_events(request: Request) -> bool:
    """Whether it asks for a stream of events by name: `*/*` gets a page."""
    given = ",".join(request.headers.getlist("accept")).lower()
    names = [entry.partition(";")[0].strip() for entry in given.split(",")]
    return EVENTS in names and accepts(request, EVENTS)
