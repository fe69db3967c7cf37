"""The raw client's worker: conditional appends to the same streams, and nothing else.

It holds one number an entity, the last sequence, and no state: no command is decoded, decided,
remembered or checked. Appends of one entity follow each other, as their condition demands; what
arrives meanwhile goes into the next one, as in perdure. `Batched` also gathers entities into one
atomic batch at a time.
"""

from __future__ import annotations

import sys
from typing import Any

from perdure import Settings
from perdure.deploy.process import collecting_seldom
from perdure.streams.commit import MARK
from perdure.streams.jetstream.log import BATCH_COMMIT, BATCH_ID, BATCH_SEQUENCE, EXPECTED
from perdure.streams.subjects import Sharding, Subjects
from perdure.streams.topology import Stream, command_stream, log_stream

from .child import Parent, run
from .orders import Raw
from .raw_link import RawLink, acks

COMMIT_COMMANDS = 64
"""Commands in one append at most: perdure's default for one commit."""
BATCH_MESSAGES = 256
"""Appends in one atomic batch at most; the server takes 1,000."""
PULL = 4096
"""Tells asked for in advance."""
HASH = "0" * 32
"""Stands for the hash that perdure puts into a header."""


class Account:
    """An entity, as the worker knows it. `waiting` has a reply and an ack subject each."""

    __slots__ = ("busy", "sequence", "subject", "waiting")

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.sequence: int = 0
        self.busy: bool = False
        self.waiting: list[tuple[str, str]] = []


class Append:
    """One message under way to the log, and the commands in it."""

    __slots__ = ("account", "commands")

    def __init__(self, account: Account) -> None:
        self.account = account
        self.commands = account.waiting[:COMMIT_COMMANDS]
        del account.waiting[:COMMIT_COMMANDS]


class Worker:
    """Takes commands by both ways, one append a message."""

    def __init__(self, spec: Raw) -> None:
        self.link = RawLink()
        self._spec = spec
        self._reply = b"r" * spec.sizes.reply
        self._accounts: dict[str, Account] = {}
        self._flying: dict[str, list[Append]] = {}
        self._pulled = 0
        self._pull = ""

    async def open(self) -> None:
        """Connect, make the streams, take commands."""
        link, spec = self.link, self._spec
        await link.open(spec.url, self._on_ack)
        settings = Settings.load(environ={}, url=spec.url, **spec.settings)
        commands, log = streams(settings, Subjects(spec.namespace))
        for stream in (commands, log):
            await link.call(f"STREAM.CREATE.{stream.name}", stream.config)
        await link.listen(f"{spec.namespace}.ask.account.*", self._on_ask)
        await self._open_pull(commands.name)

    async def _open_pull(self, stream: str) -> None:
        config = {"durable_name": "worker", "ack_policy": "explicit", "max_ack_pending": -1}
        await self.link.call(
            f"CONSUMER.CREATE.{stream}.worker",
            {"stream_name": stream, "config": {**config, "ack_wait": 60_000_000_000}},
        )
        self._pull = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.worker"
        inbox = self.link.client.new_inbox()
        await self.link.listen(inbox, self._on_tell)
        self._pull_inbox = inbox
        await self._ask_for(PULL)

    async def _ask_for(self, count: int) -> None:
        body = b'{"batch":%d,"expires":600000000000}' % count
        await self.link.client.publish(self._pull, body, self._pull_inbox)

    # -- commands ---------------------------------------------------------------------------------
    async def _on_ask(self, message: Any) -> None:
        await self._take(message.subject, message.reply, "")

    async def _on_tell(self, message: Any) -> None:
        if not message.reply.startswith("$JS.ACK."):
            await self._ask_for(PULL)  # the last request expired
            return
        self._pulled += 1
        if self._pulled == PULL // 2:
            self._pulled = 0
            await self._ask_for(PULL // 2)
        reply = message.data.partition(b"\n")[0].decode()
        await self._take(message.subject, reply, message.reply)

    async def _take(self, subject: str, reply: str, ack: str) -> None:
        id = subject.rpartition(".")[2]
        account = self._accounts.get(id)
        if account is None:
            account = Account(f"{self._spec.namespace}.log.account.{id}")
            self._accounts[id] = account
        account.waiting.append((reply, ack))
        if not account.busy:
            account.busy = True
            await self.start(account)

    # -- appends ----------------------------------------------------------------------------------
    async def start(self, account: Account) -> None:
        """Append what waits for an account."""
        await self._publish(Append(account), [], {})

    async def _publish(self, append: Append, before: list[Append], more: dict[str, str]) -> None:
        """Send one append; with `before` it is the last of a batch that began with those."""
        token = self.link.token()
        self._flying[token] = [*before, append]
        await self._send(append, more, self.link.inbox + token)

    async def _send(self, append: Append, more: dict[str, str], reply: str) -> None:
        sizes, account = self._spec.sizes, append.account
        body = b"c" * (sizes.commit + (len(append.commands) - 1) * sizes.outcome)
        headers = {EXPECTED: str(account.sequence), MARK: HASH, **more}
        await self.link.client.publish(account.subject, body, reply, headers)

    async def _on_ack(self, message: Any) -> None:
        appends = self._flying.pop(message.subject.rpartition(".")[2])
        ack = acks.decode(message.data)
        if ack.error is not None:
            print(f"raw worker: {ack.error}", file=sys.stderr)
        first = ack.seq - len(appends) + 1
        for number, append in enumerate(appends):
            if ack.error is None:
                append.account.sequence = first + number
            await self._answer(append, ok=ack.error is None)
        await self.landed(appends)

    async def _answer(self, append: Append, *, ok: bool) -> None:
        publish = self.link.client.publish
        for reply, ack in append.commands:
            if reply:
                await publish(reply, self._reply if ok else b"!")
            if ack and ok:
                await publish(ack, b"+ACK")

    async def landed(self, appends: list[Append]) -> None:
        """Go on with what arrived meanwhile."""
        for append in appends:
            if append.account.waiting:
                await self.start(append.account)
            else:
                append.account.busy = False


class Batched(Worker):
    """Gathers the appends of many entities: one atomic batch under way, the next one fills."""

    def __init__(self, spec: Raw) -> None:
        super().__init__(spec)
        self._next: list[Account] = []
        self._under_way = False

    async def start(self, account: Account) -> None:
        """Put an account into the next batch."""
        self._next.append(account)
        if not self._under_way:
            self._under_way = True
            await self._send_batch()

    async def landed(self, appends: list[Append]) -> None:
        """Send the next batch, with what has arrived meanwhile."""
        self._under_way = True
        await super().landed(appends)
        self._under_way = bool(self._next)
        if self._next:
            await self._send_batch()

    async def _send_batch(self) -> None:
        appends = [Append(account) for account in self._next[:BATCH_MESSAGES]]
        del self._next[:BATCH_MESSAGES]
        *before, last = appends
        if not before:
            await self._publish(last, [], {})
            return
        batch = self.link.client.new_inbox()[-22:]
        for number, append in enumerate(before, 1):
            await self._send(append, {BATCH_ID: batch, BATCH_SEQUENCE: str(number)}, "")
        end = {BATCH_ID: batch, BATCH_SEQUENCE: str(len(appends)), BATCH_COMMIT: "1"}
        await self._publish(last, before, end)


def streams(settings: Settings, subjects: Subjects) -> tuple[Stream, Stream]:
    """The command stream and the log, configured as perdure's."""
    commands = command_stream(settings, subjects, "account", Sharding(1, settings.shards))
    return commands, log_stream(settings, subjects, "account")


async def main(parent: Parent, spec: Raw) -> None:
    """Work until the parent leaves."""
    worker = Batched(spec) if spec.batched else Worker(spec)
    await worker.open()
    with collecting_seldom():
        parent.say("ready")
        await parent.leave()


if __name__ == "__main__":
    run(main, Raw)
