"""Connections that nobody can read: `tls://` and `wss://`, with an authority made for the test."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trustme

from perdure import Entity, Settings, connect
from perdure.deploy.server import EmbeddedServer
from perdure.streams.jetstream.session import open_session
from perdure.streams.port import Unreachable
from tests.bank import Account, Balance, Deposit, GetBalance, decide, evolve
from tests.support.server import fresh_namespace, nats_session

Start = Callable[..., Awaitable[EmbeddedServer]]
account = Entity(Account(), decide, evolve)


class Authority:
    """Files of a certificate authority and of a server that it vouches for."""

    def __init__(self, folder: Path, *names: str) -> None:
        authority = trustme.CA()
        certificate = authority.issue_cert(*names)
        self.ca, self.cert, self.key = (folder / n for n in ("ca.pem", "cert.pem", "key.pem"))
        authority.cert_pem.write_to_path(self.ca)
        certificate.cert_chain_pems[0].write_to_path(self.cert)
        certificate.private_key_pem.write_to_path(self.key)

    @property
    def tls(self) -> str:
        """A block of the server's configuration."""
        cert, key = (json.dumps(str(path)) for path in (self.cert, self.key))
        return f"tls {{ cert_file: {cert}, key_file: {key} }}"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "127.0.0.1")


def tls_url(server: EmbeddedServer) -> str:
    return f"tls://127.0.0.1:{server.port}"


async def test_tls(own_server: Start, authority: Authority) -> None:
    """A runner and a caller; a stored tell and an ask over it."""
    server = await own_server(extra=authority.tls)
    settings = Settings(
        url=tls_url(server),
        namespace=fresh_namespace(),
        tls_ca=str(authority.ca),
        shards=2,
        command_stream_bytes=2**24,
    )
    async with connect(settings=settings, serving=[account]) as cluster:
        a1 = cluster.at(Account, "a-1")
        await a1.tell(Deposit(5))
        assert await a1.ask(Deposit(2)) == Balance(7)
        assert await a1.query(GetBalance()) == Balance(7)


@pytest.mark.filterwarnings("ignore:parameter 'timeout' of type 'float':DeprecationWarning")
async def test_web_sockets_over_tls(own_server: Start, authority: Authority) -> None:
    server = await own_server(extra=f'websocket {{ listen: "127.0.0.1:-1", {authority.tls} }}')
    port = server.urls("websocket")[0].rpartition(":")[2]
    url, ca = f"wss://127.0.0.1:{port}", str(authority.ca)
    async with nats_session(server, fresh_namespace(), url=url, tls_ca=ca) as session:
        assert (await session.provision("account")).shards == 4


@pytest.mark.parametrize(
    "url", ["tls://bob:sekret@127.0.0.1:{}", "nats://bob:sekret@127.0.0.1:{}"]
)
async def test_no_password_goes_where_the_offer_of_tls_was_left_out(
    authority: Authority, url: str
) -> None:
    """By somebody between: by `tls://`, or by an authority to trust, it was asked for."""
    heard = bytearray()

    async def between(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        info = {"server_id": "x", "version": "2.15.1", "max_payload": 1 << 20, "headers": True}
        writer.write(b"INFO %b\r\n" % json.dumps(info).encode())
        heard.extend(await reader.read())
        writer.close()

    async with await asyncio.start_server(between, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        settings = Settings(url=url.format(port), tls_ca=str(authority.ca))
        with pytest.raises(Unreachable, match="TLS was asked for, and the server offers none"):
            await open_session(settings, name="test")
    assert bytes(heard) == b""


@pytest.mark.parametrize("trusted", [False, True])
async def test_who_it_cannot_trust_it_does_not_talk_to(
    own_server: Start,
    authority: Authority,
    tmp_path: Path,
    trusted: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another authority, or the right one for another server's name."""
    monkeypatch.setattr("perdure.streams.jetstream.link.DIAL_TIMEOUT_S", 1.5)
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other", "elsewhere.example")
    server = await own_server(extra=(other if trusted else authority).tls)
    with pytest.raises(Unreachable, match="certificate"):
        async with nats_session(
            server, fresh_namespace(), url=tls_url(server), tls_ca=str(other.ca)
        ):
            pytest.fail("it connected")
