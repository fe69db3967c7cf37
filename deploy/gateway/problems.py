"""Problems: each error as RFC 9457 says it, `application/problem+json`, with its status.

`STATUSES` is the whole table. The rule behind it: what may be repeated as it is has a
`Retry-After`; what doesn't is final. A declared failure is a 409, as it is the entity's state that
refuses it, and 422 is left for what no state would take.

What lies beneath an error of infrastructure is for operators: it is logged with the request id,
and not told, since it may hold a server's name or the text of an exception in the user's code.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response

from ...entities.errors import (
    AlreadyProcessingMessage,
    ClusterError,
    EntityNotAssignedToRunner,
    MailboxFull,
    MalformedMessage,
    PersistenceError,
    RpcClientError,
    RunnerNotRegistered,
    RunnerUnavailable,
    SendTimeout,
    SerializationError,
    Suspended,
)
from ...entities.tagged import Failure, to_wire, values_of

PROBLEM = "application/problem+json"
FAILURE_STATUS = 409
"""Of a declared failure."""
BLANK = "about:blank"
"""The type of a problem that says no more than its status."""

_log = logging.getLogger("perdure.gateway")


class Status(msgspec.Struct, frozen=True):
    """How one of the eleven is answered."""

    code: int
    retry_after_s: int | None = None
    """What `Retry-After` says; None: the same again would end the same."""
    told: bool = False
    """Whether its cause is the client's business."""


STATUSES: Mapping[type[ClusterError], Status] = {
    AlreadyProcessingMessage: Status(409, 1, told=True),
    EntityNotAssignedToRunner: Status(503, 1),
    MailboxFull: Status(429, 1, told=True),
    MalformedMessage: Status(422, told=True),
    PersistenceError: Status(503, 1),
    RunnerNotRegistered: Status(503, 5),
    RunnerUnavailable: Status(503, 1),
    SendTimeout: Status(504, 1, told=True),
    Suspended: Status(202, 1, told=True),
    RpcClientError: Status(502),
    SerializationError: Status(500),
}
"""All eleven. 202 is no problem: `Suspended` is answered by the resources themselves."""


NO_CONNECTION = Status(503, 1)
"""Of an RpcClientError that may be repeated: it isn't a defect, the connection failed."""


class Problem(msgspec.Struct, kw_only=True, omit_defaults=True):
    """An error of HTTP's own, or of the gateway."""

    title: str
    status: int
    type: str = BLANK
    detail: str | None = None


def answer(status: int, body: object, headers: Mapping[str, str] | None = None) -> Response:
    """JSON."""
    return Response(msgspec.json.encode(body), status, headers, "application/json")


def problem(error: HTTPException) -> Response:
    """What the gateway itself refuses."""
    title = HTTPStatus(error.status_code).phrase
    detail = error.detail if error.detail != title else None
    told = {"type": BLANK, "title": title, "status": error.status_code}
    body = msgspec.json.encode(told if detail is None else {**told, "detail": detail})
    return Response(body, error.status_code, error.headers, PROBLEM)


def of_failure(failure: Failure, key: str | None) -> Response:
    """A declared failure: an outcome, recorded under its key."""
    return Response(msgspec.json.encode(failure_body(failure, key)), FAILURE_STATUS, None, PROBLEM)


def failure_body(failure: Failure, key: str | None) -> dict[str, Any]:
    """Its fields stand below `failure`, as on the wire: one may be called `status` or `title`."""
    return {
        "type": failure.tag,
        "title": failure.tag.replace("_", " "),
        "status": FAILURE_STATUS,
        "key": key,
        "failure": to_wire(failure),
    }


def status_of(error: ClusterError) -> Status:
    """How it is answered."""
    if isinstance(error, RpcClientError) and error.advice not in ("fix", "check"):
        return NO_CONNECTION
    return STATUSES[type(error)]


def of_cluster(error: ClusterError, *, status: Status | None = None) -> Response:
    """One of the eleven; logged where it is an operator's business."""
    known = status_of(error) if status is None else status
    headers = {} if known.retry_after_s is None else {"Retry-After": str(known.retry_after_s)}
    body = cluster_body(error, known)
    tell_operator(error, known)
    return Response(msgspec.json.encode(body), known.code, headers, PROBLEM)


def tell_operator(error: ClusterError, status: Status) -> None:
    """Log what lies beneath, where that is not told to whoever asked."""
    if not status.told:
        _log.warning(
            "%s: %s",
            error.tag,
            error.cause,
            extra={
                "action": "http.error",
                "status": status.code,
                "address": error.address,
                "request_id": error.request_id,
            },
        )


def cluster_body(error: ClusterError, status: Status) -> dict[str, Any]:
    """Its fields beside those that every problem has."""
    fields = values_of(error)
    cause = fields.pop("cause")
    usual = (type(error).__doc__ or error.tag).partition("\n")[0]
    fields.pop("resume_token", None)  # whom it is for gets it with the 202
    return {
        "type": error.tag,
        "title": usual,
        "status": status.code,
        **({"detail": cause} if status.told and cause else {}),
        **fields,
    }


def gone_wrong(where: str) -> Response:
    """A bug of the gateway, within `except`: logged with its traceback, told without it."""
    _log.exception("%s", where, extra={"action": "http.defect"})
    return problem(HTTPException(500))
