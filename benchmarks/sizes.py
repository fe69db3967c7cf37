"""How many bytes perdure's messages have, read off the wire: the raw client sends as many."""

from __future__ import annotations

from typing import Any

import msgspec
from nats.aio.client import Client

from .contenders import Contender
from .orders import Sizes
from .servers import Servers
from .waiting import until

SEEN_S = 10.0


async def observe(contender: Contender, servers: Servers) -> Sizes:
    """The sizes of one ask, one tell, their commits and replies. Raises TimeoutError."""
    namespace = contender.namespace
    seen: dict[str, bytes] = {}
    client = Client()
    await client.connect(servers.url)

    async def see(message: Any) -> None:
        kind = message.subject.split(".")[1]
        if message.subject.startswith("_INBOX."):
            if b'"reply":' in message.data:
                seen["reply"] = message.data
        elif kind != "log" or "tell" not in seen:  # the commit of the ask, which came first
            seen[kind if kind != "to" else "tell"] = message.data

    try:
        for subject in (
            f"{namespace}.ask.>",
            f"{namespace}.to.>",
            f"{namespace}.log.>",
            "_INBOX.>",
        ):
            await client.subscribe(subject, cb=see)  # pyright: ignore[reportUnknownMemberType]
        await client.flush()

        async def seen_all() -> bool:
            return {"ask", "tell", "log", "reply"} <= seen.keys()

        await contender.send_one("ask")
        await contender.send_one("stream")
        await until(seen_all, SEEN_S, "a message of each kind")
    finally:
        await client.close()
    commit = seen["log"]
    outcome = msgspec.json.encode(msgspec.json.decode(commit)["outcomes"][0])
    return Sizes(
        ask=len(seen["ask"]),
        tell=len(seen["tell"]),
        commit=len(commit),
        outcome=len(outcome) + 1,
        reply=len(seen["reply"]),
    )
