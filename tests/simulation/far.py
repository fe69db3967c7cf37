"""The far end of every simulated port: the world, as the ports see it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from perdure.streams.port import Append, AppendAnswer, Delivery

from .loop import Process
from .staging import Staging


class Broker(Protocol):
    """The world at the other end: what its nemesis breaks for everybody, and what it watches."""

    log_refuses: bool
    dead_letters_full: bool
    tells_refused: bool
    older_snapshots: dict[tuple[str, str | None], list[bytes]]
    staging: Staging

    def appended(
        self, process: Process, answer: AppendAnswer, appends: Sequence[Append]
    ) -> None: ...

    def met(self, situation: str) -> None: ...

    def delivered(self, delivery: Delivery) -> None: ...

    def sent(self, data: bytes) -> None: ...
