"""The caller of the flows' benchmark, in a process of its own: an ordinary client.

A command is told. What waits for a token is asked instead, since its caller gets the token, and
resumed at once: that returns when it is recorded.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

from perdure import Cluster, ClusterError, Command, Suspended, Token, connect

from .child import Parent, run
from .closed import Call, closed_loop
from .host import settings_of
from .orders import Load, Perdure, Sample
from .till import Asked, Deferred, Exclusive, Plain, Slept, Stepped, Straight, Till

CENTS = 5

Kind: TypeAlias = Literal["plain", "straight", "step", "sleep", "ask", "deferred", "exclusive"]
"""What a command does; each but `plain` is a flow."""

TOLD: dict[Kind, Command[Till, int]] = {
    "plain": Plain(CENTS),
    "straight": Straight(CENTS),
    "step": Stepped(CENTS),
    "sleep": Slept(CENTS),
    "ask": Asked(CENTS),
}


class FlowLoad(Load, frozen=True):
    """Orders a caller to send commands of a kind; `way` says nothing here."""

    kind: Kind = "plain"


async def main(parent: Parent, spec: Perdure) -> None:
    """Send what the parent orders until it leaves."""
    async with connect(settings=settings_of(spec)) as cluster:
        parent.say("ready")

        async def carry(line: bytes) -> Sample:
            load = msgspec.json.decode(line, type=FlowLoad)
            return await closed_loop(load, call_of(cluster, load.kind), (ClusterError,))

        await parent.serve(carry)


def call_of(cluster: Cluster, kind: Kind) -> Call:
    """The call that sends one command."""
    match kind:
        case "deferred":
            return lambda id: resumed(cluster, id, Deferred())
        case "exclusive":
            return lambda id: resumed(cluster, id, Exclusive())
        case _:
            command: Any = TOLD[kind]
            return lambda id: cluster.at(Till, id).tell(command)


async def resumed(cluster: Cluster, id: str, command: Command[Till, int]) -> None:
    """Ask until it waits, and give it its value. Raises RuntimeError if it doesn't wait."""
    try:
        await cluster.at(Till, id).ask(command, on_suspend="raise")
    except Suspended as suspended:
        if suspended.resume_token is None:
            raise RuntimeError(f"{id} waits for {suspended.waits_for}, without a token") from None
        await cluster.resume(Token[int](suspended.resume_token), CENTS)
    else:
        raise RuntimeError(f"{id} didn't wait")


if __name__ == "__main__":
    run(main, Perdure)
