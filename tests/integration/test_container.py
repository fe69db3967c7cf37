"""The container helper itself: what it stores survives a kill, and a new container."""

from __future__ import annotations

from nats.js.api import StreamConfig

from .container import NatsServer
from .plain import plain


async def test_the_volume_outlives_the_server_and_its_container(server: NatsServer) -> None:
    client = await plain(server.url)
    stream = client.jetstream()
    await stream.add_stream(StreamConfig(name="KEPT", subjects=["kept"]))
    await stream.publish("kept", b"1")
    await client.close()

    server.kill()
    server.start_again()
    assert await _stored(server) == 1

    server.remove()
    server.start()
    assert await _stored(server) == 1


async def _stored(server: NatsServer) -> int:
    client = await plain(server.url)
    info = await client.jetstream().stream_info("KEPT")
    await client.close()
    return int(info.state.messages)
