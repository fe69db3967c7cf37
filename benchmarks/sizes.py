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
        else:  # of two commits the ask's, which came first
            seen.setdefault(kind if kind != "to" else "tell", message.data)

    try:
        for subject in (
            f"{namespace}.ask.>",
            f"{namespace}.to.>",
            f"{namespace}.log.>",
            "_INBOX.>",
        ):
            await client.subscribe(subject, cb=see)  # pyright: ignore[reportUnknownMemberType]
        for _ in range(2):  # nats-py writes the first ping ahead of what its buffer holds
            await client.flush()

        async def seen_ask() -> bool:
            return {"ask", "log", "reply"} <= seen.keys()

        async def seen_tell() -> bool:
            return "tell" in seen

        await contender.send_one("ask")
        await until(seen_ask, SEEN_S, "all messages of an ask")
        await contender.send_one("stream")  # only now: they come by several subscriptions
        await until(seen_tell, SEEN_S, "the message of a tell")
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
