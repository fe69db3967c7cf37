"""An entity whose tells wait: the 101st is refused, and its neighbours are served."""

from __future__ import annotations

from pathlib import Path

import pytest

from perdure import MailboxFull, Settings, connect

from .harness import NAMESPACE, world
from .test_damage import forged
from .victim import Add, Total, Victim

ADD = {"type": "add", "n": 1}


async def test_the_101st_waiting_tell_is_refused(tmp_path: Path) -> None:
    """They wait at a quarantined entity, while its runner serves all others."""
    async with world(tmp_path) as w:
        settings = Settings(url=w.server.url, namespace=NAMESPACE)
        await w.client.ask("stuck", ADD)
        await forged(w, "stuck", "a wrong hash")
        assert "error" in await w.client.ask("stuck", ADD)
        async with connect(settings=settings) as cluster:
            stuck = cluster.at(Victim, "stuck")
            for n in range(50):
                assert "seq" in await w.client.tell("stuck", ADD)
                await stuck.tell(Add(1), key=f"python-{n}")
            for _ in range(3):
                error = (await w.client.tell("stuck", ADD))["error"]
                assert error["err_code"] == 10077
                assert error["description"] == "maximum messages per subject exceeded"
                with pytest.raises(MailboxFull) as refused:
                    await stuck.tell(Add(1), key="the 101st".replace(" ", "-"))
                assert refused.value.may_have_taken_effect is False
                assert refused.value.address == "victim/stuck"
            for n in range(30):
                assert "seq" in await w.client.tell(f"n-{n}", ADD)
                neighbour = cluster.at(Victim, f"n-{n}")
                await neighbour.tell(Add(1))
                assert await neighbour.ask(Add(1)) == 3
                assert await neighbour.query(Total()) == 3
        assert await w.client.count("CMD") == 100, "all of them still wait"
        assert await w.client.count("DEAD") == 0
