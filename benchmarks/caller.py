"""perdure's caller in a process of its own: an ordinary client."""

from __future__ import annotations

import msgspec

from perdure import Cluster, ClusterError, connect

from .account import Account, Deposit
from .child import Parent, run
from .closed import Call, closed_loop
from .host import settings_of
from .orders import Load, Perdure, Sample, Way

DEPOSIT = Deposit(5)


async def main(parent: Parent, spec: Perdure) -> None:
    """Send what the parent orders until it leaves."""
    async with connect(settings=settings_of(spec)) as cluster:
        parent.say("ready")

        async def carry(line: bytes) -> Sample:
            load = msgspec.json.decode(line, type=Load)
            return await closed_loop(load, way(cluster, load.way), (ClusterError,))

        await parent.serve(carry)


def way(cluster: Cluster, name: Way) -> Call:
    """The call that sends one command."""
    match name:
        case "ask":
            return lambda id: cluster.at(Account, id).ask(DEPOSIT)
        case "stream":
            return lambda id: cluster.at(Account, id).ask(DEPOSIT, durable=True)
        case "tell":
            return lambda id: cluster.at(Account, id).tell(DEPOSIT)
        case "get":
            raise ValueError("only the raw caller reads the log")


if __name__ == "__main__":
    run(main, Perdure)
