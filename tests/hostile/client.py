"""A program that knows perdure from docs/wire.md alone: it imports nats-py and nothing of perdure.

It escapes ids, names subjects and reads answers by itself, as a client in another language would.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import nats
from nats.js.errors import NotFoundError

PATIENCE_S = 20.0
PAUSE_S = 0.02
"""Between two repeats of an ask, in seconds."""
_PLAIN = re.compile(rb"[A-Za-z0-9_-]")


def escape(id: str) -> str:
    """An id as one token of a subject."""
    return "".join(
        chr(byte) if _PLAIN.match(bytes([byte])) else f"={byte:02X}" for byte in id.encode()
    )


def body(message: object) -> bytes:
    """A message's bytes; bytes stay as they are."""
    return message if isinstance(message, bytes) else json.dumps(message).encode()


class Plain:
    """One connection to one namespace and one entity type."""

    def __init__(self, nc: Any, namespace: str, entity: str) -> None:
        self.nc, self.namespace, self.entity = nc, namespace, entity
        self.js = nc.jetstream()

    # -- subjects and streams -------------------------------------------------------------------
    def ask_subject(self, token: str) -> str:
        return f"{self.namespace}.ask.{self.entity}.{token}"

    def to_subject(self, token: str) -> str:
        return f"{self.namespace}.to.{self.entity}.{token}"

    def log_subject(self, token: str) -> str:
        return f"{self.namespace}.log.{self.entity}.{token}"

    def stream(self, kind: str) -> str:
        """`CMD`, `LOG`, `SNAP`: of the type; `DEAD`: of all."""
        head = f"{self.namespace.upper()}_{kind}"
        return head if kind == "DEAD" else f"{head}_{self.entity}"

    # -- both ways ------------------------------------------------------------------------------
    async def request(self, subject: str, message: object, **headers: str) -> dict[str, Any]:
        """The JSON that answers a request. Header names are written with `_` for `-`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        got = await self.nc.request(
            subject, body(message), timeout=PATIENCE_S, headers=named or None
        )
        answer: dict[str, Any] = json.loads(got.data)
        return answer

    async def ask(self, id: str, message: object, **headers: str) -> dict[str, Any]:
        """The outcome of an ask; repeated as long as the owner says that it is at work on it."""
        while True:
            answer = await self.request(self.ask_subject(escape(id)), message, **headers)
            if answer.get("error", {}).get("type") != "AlreadyProcessingMessage":
                return answer
            await asyncio.sleep(PAUSE_S)

    async def tell(self, id: str, message: object, **headers: str) -> dict[str, Any]:
        """The server's acknowledgement of a tell."""
        return await self.request(self.to_subject(escape(id)), message, **headers)

    # -- what is stored -------------------------------------------------------------------------
    async def count(self, kind: str) -> int:
        """How many messages a stream holds."""
        return int((await self.js.stream_info(self.stream(kind))).state.messages)

    async def settled(self) -> None:
        """Wait until no tell is un-acked any more."""
        async with asyncio.timeout(PATIENCE_S):
            while await self.count("CMD"):  # noqa: ASYNC110 (the server tells when it is asked)
                await asyncio.sleep(0.01)

    async def dead(self, after: int = 0) -> list[dict[str, Any]]:
        """All dead letters beyond a sequence, once no tell waits any more."""
        await self.settled()
        state = (await self.js.stream_info(self.stream("DEAD"))).state
        numbers = range(max(after + 1, state.first_seq), state.last_seq + 1)
        found = [await self.js.get_msg(self.stream("DEAD"), seq) for seq in numbers]
        return [json.loads(message.data) for message in found]

    async def log(self, id: str) -> list[Any]:
        """The messages of an entity's log, the oldest first."""
        found: list[Any] = []
        sequence = 0
        while True:
            try:
                message = await self.js.get_msg(
                    self.stream("LOG"),
                    sequence + 1,
                    subject=self.log_subject(escape(id)),
                    next=True,
                )
            except NotFoundError:
                return found
            found.append(message)
            sequence = message.seq


async def plain(url: str, namespace: str, entity: str = "victim") -> Plain:
    """A connected client. `Any`, since nats-py's own types are partly unknown."""
    module: Any = nats
    return Plain(await module.connect(url), namespace, entity)
