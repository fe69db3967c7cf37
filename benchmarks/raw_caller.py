"""The raw client's caller: sends as many bytes as perdure's, by the same ways."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import msgspec

from perdure.streams.subjects import Subjects

from .child import Parent, run
from .closed import Call, closed_loop
from .orders import Load, Raw, Sample, Way
from .raw_link import RawLink, acks


class RawFailed(Exception):
    """The worker or the server refused a command."""


class RawCaller:
    """Sends commands and waits for what comes back."""

    def __init__(self, spec: Raw) -> None:
        self._link = RawLink()
        self._spec = spec
        self._ask = b"a" * spec.sizes.ask
        self._tell = b"\n" + b"t" * (spec.sizes.tell - 1)
        self._waiting: dict[str, asyncio.Future[bytes]] = {}

    async def open(self) -> None:
        """Connect."""
        await self._link.open(self._spec.url, self._on_reply)
        self._new = asyncio.get_running_loop().create_future

    def way(self, load: Load) -> Call:
        """The call that sends one command."""
        if load.way == "get":
            return partial(self._get, Subjects(load.namespace))
        ways: dict[Way, Call] = {
            "ask": self._send_ask,
            "stream": self._send_stream,
            "tell": self._send_tell,
        }
        return ways[load.way]

    async def _send_ask(self, id: str) -> None:
        reply, answer = self._expect()
        subject = f"{self._spec.namespace}.ask.account.{id}"
        await self._link.client.publish(subject, self._ask, reply)
        _check_reply(await answer)

    async def _send_tell(self, id: str) -> None:
        ack, stored = self._expect()
        subject = f"{self._spec.namespace}.to.account.{id}"
        await self._link.client.publish(subject, self._tell, ack)
        _check_ack(await stored)

    async def _send_stream(self, id: str) -> None:
        ack, stored = self._expect()
        reply, answer = self._expect()
        body = (reply.encode() + b"\n").ljust(self._spec.sizes.tell, b"t")
        subject = f"{self._spec.namespace}.to.account.{id}"
        await self._link.client.publish(subject, body, ack)
        _check_ack(await stored)
        _check_reply(await answer)

    async def _get(self, subjects: Subjects, id: str) -> None:
        reply, answer = self._expect()
        stream, subject = subjects.log_stream("account"), subjects.log("account", id)
        await self._link.client.publish(f"$JS.API.DIRECT.GET.{stream}.{subject}", b"", reply)
        if not await answer:
            raise RawFailed(f"nothing at {subject}")

    def _expect(self) -> tuple[str, asyncio.Future[bytes]]:
        token = self._link.token()
        future: asyncio.Future[bytes] = self._new()
        self._waiting[token] = future
        return self._link.inbox + token, future

    async def _on_reply(self, message: Any) -> None:
        future = self._waiting.pop(message.subject.rpartition(".")[2], None)
        if future is not None:
            future.set_result(message.data)


def _check_reply(data: bytes) -> None:
    if not data.startswith(b"r"):
        raise RawFailed(data[:200])


def _check_ack(data: bytes) -> None:
    if acks.decode(data).error is not None:
        raise RawFailed(data[:200])


async def main(parent: Parent, spec: Raw) -> None:
    """Send what the parent orders until it leaves."""
    caller = RawCaller(spec)
    await caller.open()
    parent.say("ready")

    async def carry(line: bytes) -> Sample:
        load = msgspec.json.decode(line, type=Load)
        return await closed_loop(load, caller.way(load), (RawFailed,))

    await parent.serve(carry)


if __name__ == "__main__":
    run(main, Raw)
