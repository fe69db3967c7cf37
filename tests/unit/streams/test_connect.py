"""Which backend a URL means."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys

import pytest

from perdure import RpcClientError, Settings
from perdure.streams.connect import open_session
from perdure.streams.memory.registry import forget
from perdure.streams.memory.session import MemorySession
from tests.unit.streams.virtual import run


def test_memory_is_private_and_a_named_one_is_shared() -> None:
    async def main() -> None:
        private, other = [await open_session(Settings(url="memory:"), "x") for _ in range(2)]
        settings = Settings(url="memory:test-connect", namespace="bank")
        named, same = [await open_session(settings, "x") for _ in range(2)]
        assert isinstance(named, MemorySession)
        assert named.subjects.namespace == "bank"
        await named.provision("account")
        await private.provision("account")
        assert await same.sharding("account") is not None
        assert await other.sharding("account") is None
        for session in (private, other, named, same):
            await session.close()
            assert not session.connected

    try:
        run(main())
    finally:
        forget("test-connect")


@pytest.mark.parametrize("url", ["http://127.0.0.1", "nats://a,ftp://b", "redis://x"])
def test_another_kind_of_url(url: str) -> None:
    with pytest.raises(ValueError, match="isn't one of"):
        Settings(url=url)


def test_where_nothing_answers(unused_port: int) -> None:
    async def main() -> None:
        with pytest.raises(RpcClientError) as caught:
            await open_session(Settings(url=f"nats://127.0.0.1:{unused_port}"), "x")
        assert not caught.value.may_have_taken_effect

    asyncio.run(main())


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_memory_cluster_needs_no_nats() -> None:
    code = (
        "import asyncio, sys\n"
        "from perdure import Settings\n"
        "from perdure.streams.connect import open_session\n"
        "asyncio.run(open_session(Settings(url='memory:'), 'x'))\n"
        "assert 'nats' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
