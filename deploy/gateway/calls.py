"""Calls: commands, their outcomes, queries, resume tokens. Each is a call of the public client.

A command without a key gets one of the client's own, which is remembered for minutes only, so that
callers who never repeat leave no names behind; a flow's gets a lasting one, since its `Location`
must lead somewhere in a month.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ...entities.entropy import SystemEntropy
from ...entities.errors import (
    AlreadyProcessingMessage,
    SendTimeout,
    SerializationError,
    Suspended,
    with_details,
)
from ...entities.flow import Token
from ...entities.key import is_key
from ...entities.tagged import Failure
from ...streams.client import Cluster
from .limits import Limits
from .problems import STATUSES, Status, answer, of_cluster, of_failure
from .reading import (
    body_of,
    decoded,
    escaped,
    flag,
    key_of,
    number,
    parameters,
    part,
    preferences,
    time_in,
)
from .resource import Handler, unless_gone
from .served import OPTIONS, Message, Served

NO_OUTCOME = Status(404, 1, told=True)
"""Of `SendTimeout` where an outcome is asked for: there is none under that key, yet."""
OTHER_COMMAND = Status(422)
"""Of `SerializationError` there, where an answer can't be read as this command's outcome; what the
owner tells of is no fault of whoever asks."""

_MOST_VERSIONS = 999_999_999


class Resumption(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /resume`."""

    token: str
    """The token that the flow gave away. A secret."""
    value: Raw
    """What the flow waits for."""


class Calls:
    """What is done by a call."""

    def __init__(
        self,
        cluster: Cluster,
        types: Mapping[str, Served],
        limits: Limits,
        *,
        require_key: bool,
        root: str,
    ) -> None:
        """`root` is what stands before each path where clients see it."""
        self._cluster, self._types, self._limits = cluster, types, limits
        self._require_key, self._root = require_key, root
        self._entropy = SystemEntropy()

    # -- paths --------------------------------------------------------------------------------
    def type_of(self, request: Request) -> Served:
        """The type that a path names. Raises HTTPException."""
        name = part(request, "type")
        if name not in self._types:
            raise HTTPException(404, f"no entity type {name[:40]!r}")
        return self._types[name]

    def message_ways(self, request: Request) -> dict[str, Handler]:
        """`/entities/{type}/{id}/{command or query}`; empty for other names."""
        name = part(request, "name")
        message = self.type_of(request).messages.get(name)
        if message is None:
            return {}
        if message.contract.writes:
            return {"POST": self.command}
        return {"POST": self.query, **({"GET": self.query} if message.gettable else {})}

    def outcome_ways(self, request: Request) -> dict[str, Handler]:
        """`/entities/{type}/{id}/outcomes/{command}/{key}`."""
        message = self.type_of(request).messages.get(part(request, "name"))
        if message is None or not message.contract.writes:
            raise HTTPException(404, "no such command")
        if not is_key(part(request, "key")):
            raise HTTPException(404, "that can't be a key")
        return {"GET": self.outcome}

    # -- commands -----------------------------------------------------------------------------
    async def command(self, request: Request) -> Response:
        """Ask, or, with `Prefer: respond-async`, tell."""
        served, message = self._named(request)
        values = parameters(request, ("wait",))
        prefers = preferences(request, values, self._limits)
        key = key_of(request)
        if key is None and self._require_key:
            raise HTTPException(400, "the header Idempotency-Key is missing")
        body = await body_of(request, self._limits)
        command = decoded(lambda: message.from_body(body), message.contract.tag)
        ref = self._cluster.at(served.state, part(request, "id"))
        if prefers.later:
            key = str(await unless_gone(request, ref.tell(command, key=key)))
            if prefers.wait_s is None:
                return self._accepted(request, key, prefers.applied)
            return await self._result(request, key, prefers.wait_s, prefers.applied)
        if key is None and message.flows:
            key = f"h-{self._entropy.token(16)}"
        ask = ref.outcome(
            command,
            key=key,
            timeout=self._limits.call_s if prefers.wait_s is None else prefers.wait_s,
            on_suspend="raise" if prefers.wait_s is None else "wait",
        )
        try:
            outcome = await unless_gone(request, ask)
        except Suspended as error:
            return self._accepted(request, error.key or key or "", prefers.applied, error)
        if isinstance(outcome, Failure):
            return of_failure(outcome, key)
        return answer(200, outcome, prefers.applied)

    async def outcome(self, request: Request) -> Response:
        """What came of a command, or 202 while it is on its way."""
        values = parameters(request, ("wait",))
        prefers = preferences(request, values, self._limits)
        wait_s = self._limits.outcome_s if prefers.wait_s is None else prefers.wait_s
        key = part(request, "key")
        try:
            return await self._result(request, key, wait_s, prefers.waited, known=False)
        except SendTimeout as error:
            why = "no outcome under that key: never used, forgotten, or waiting for its turn"
            return of_cluster(with_details(error, cause=why), status=NO_OUTCOME)
        except SerializationError as error:
            tag = part(request, "name")
            unread = (f"{tag}: reply", f"{tag}: failure")  # else it is the owner's answer
            here = (error.cause or "").startswith(unread)
            return of_cluster(error, status=OTHER_COMMAND if here else None)

    async def _result(
        self,
        request: Request,
        key: str,
        wait_s: float,
        applied: dict[str, str],
        *,
        known: bool = True,
    ) -> Response:
        """The outcome within that time, else 202; `known`: it is stored, so it will come."""
        served, message = self._named(request)
        ref = self._cluster.at(served.state, part(request, "id"))
        try:
            command: Any = message.contract.message
            result = ref.result(command, key, timeout=wait_s)
            return answer(200, await unless_gone(request, result), applied)
        except Failure as failure:
            return of_failure(failure, key)
        except Suspended as error:
            return self._accepted(request, key, applied, error)
        except AlreadyProcessingMessage:
            return self._accepted(request, key, applied)
        except SendTimeout:
            if known:
                return self._accepted(request, key, applied)
            raise

    def _accepted(
        self,
        request: Request,
        key: str,
        applied: dict[str, str],
        suspended: Suspended | None = None,
    ) -> Response:
        """202: where its outcome will be, and what it waits for where that is known."""
        parts = [part(request, name) for name in ("type", "id", "name")]
        entity, id, name = map(escaped, parts)
        where = f"{self._root}/entities/{entity}/{id}/outcomes/{name}/{key}"
        told: dict[str, Any] = {"key": key, "outcome": where, "waits_for": []}
        if suspended is not None:
            told["waits_for"] = suspended.waits_for
            if suspended.resume_token:  # only where the flow shows it to whoever asks
                told["resume_token"] = suspended.resume_token
        retry = str(STATUSES[Suspended].retry_after_s)
        return answer(202, told, {"Location": where, "Retry-After": retry, **applied})

    def _named(self, request: Request) -> tuple[Served, Message]:
        served = self.type_of(request)
        return served, served.messages[part(request, "name")]

    # -- reads --------------------------------------------------------------------------------
    async def query(self, request: Request) -> Response:
        """Ask a query: fields by the query string (GET) or the body (POST)."""
        served, message = self._named(request)
        names = [f.name for f in message.fields] if request.method != "POST" else []
        values = parameters(request, (*names, *OPTIONS))
        prefers = preferences(request, values, self._limits)
        fresh = flag(values, "fresh")
        tag = message.contract.tag
        if request.method == "POST":
            body = await body_of(request, self._limits)
            query = decoded(lambda: message.from_body(body), tag)
        else:
            query = decoded(lambda: message.from_parameters(values), tag)
        ref = self._cluster.at(served.state, part(request, "id"))
        wait_s = self._limits.call_s if prefers.wait_s is None else prefers.wait_s
        reply = await unless_gone(request, ref.query(query, fresh=fresh, timeout=wait_s))
        return answer(200, reply, prefers.waited)

    async def state(self, request: Request) -> Response:
        """The state now, at a version, or at a time."""
        served = self.type_of(request)
        values = parameters(request, ("version", "time", "wait"))
        prefers = preferences(request, values, self._limits)
        version = number(values, "version", -1, 0, _MOST_VERSIONS)
        time = time_in(values, "time")
        ref = self._cluster.at(served.state, part(request, "id"))
        wait_s = self._limits.call_s if prefers.wait_s is None else prefers.wait_s
        at = None if version < 0 else version
        read = ref.state(version=at, time=time, timeout=wait_s)
        return answer(200, await unless_gone(request, read), prefers.waited)

    # -- resume tokens ------------------------------------------------------------------------
    async def resume(self, request: Request) -> Response:
        """The token in the body, where no log of any proxy sees it."""
        parameters(request, ())
        body = await body_of(request, self._limits)
        given = decoded(lambda: _resumptions.decode(body), "resume")
        return await self._resume(request, given.token, given.value)

    async def resume_by_path(self, request: Request) -> Response:
        """The token in the path, and the body is the value."""
        parameters(request, ())
        body = await body_of(request, self._limits)
        decoded(lambda: msgspec.json.decode(body), "value")
        return await self._resume(request, part(request, "token"), Raw(body))

    async def _resume(self, request: Request, token: str, value: Raw) -> Response:
        given: Token[Any] = Token(token)
        await unless_gone(request, self._cluster.resume(given, value))
        return Response(status_code=204)


_resumptions = msgspec.json.Decoder(Resumption)
