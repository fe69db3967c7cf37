"""Every way to log in, on a server that knows it: a runner and a caller in, a stranger not.

User and password, and tokens, are in test_jetstream_connecting.py, TLS is in
test_jetstream_tls.py.
"""

from __future__ import annotations

import base64
import hashlib
import json
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from perdure import Entity, Settings, connect
from perdure.deploy.grants import LINE_BYTES, claims, connect_bytes, of_role
from perdure.deploy.permissions import Role
from perdure.deploy.server import EmbeddedServer
from perdure.streams.jetstream.session import open_session
from perdure.streams.port import Incompatible, Unreachable
from tests.bank import Account, Balance, Deposit, decide, evolve

from ..deploy.granted import Plain, new_key

Start = Callable[..., Awaitable[EmbeddedServer]]
account = Entity(Account(), decide, evolve)


async def works(runner: Settings, caller: Settings) -> None:
    """A runner and a caller log in; a tell and an ask, with answers in the inboxes of each."""
    async with (
        connect(settings=runner, serving=[account]),
        connect(settings=caller) as cluster,
    ):
        a1 = cluster.at(Account, "a-1")
        key = await a1.tell(Deposit(5))
        assert await a1.result(Deposit, key) == Balance(5)
        assert await a1.ask(Deposit(2)) == Balance(7)


def small(url: str, **login: Any) -> Settings:
    return Settings(url=url, shards=2, command_stream_bytes=2**24, **login)


async def refused(settings: Settings) -> None:
    with pytest.raises(Unreachable, match=r"(?i)authorization violation"):
        await open_session(settings, name="test")


# -- NKEYs --------------------------------------------------------------------------------------
async def test_nkey_seeds(own_server: Start, tmp_path: Path) -> None:
    known, stranger = new_key(), new_key()
    for name, key in (("known", known), ("stranger", stranger)):
        (tmp_path / name).write_bytes(bytes(key.seed) + b"\n")
    server = await own_server(
        extra=f"authorization {{ users: [{{ nkey: {known.public_key.decode()} }}] }}"
    )
    login = small(server.url, nkey_seed=str(tmp_path / "known"))
    await works(login, login)
    await refused(small(server.url, nkey_seed=str(tmp_path / "stranger")))
    await refused(small(server.url))
    assert known.seed.decode() not in server.log_file.read_text()


# -- JWTs ---------------------------------------------------------------------------------------
def signed(issuer: Any, subject: Any, name: str, nats: dict[str, Any], **more: Any) -> str:
    """A JWT as `nsc` makes them: by its issuer's key, with a hash of itself as its id."""

    def part(value: object) -> bytes:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    told: dict[str, Any] = {
        "iat": 1_700_000_000,
        "iss": issuer.public_key.decode(),
        "sub": subject.public_key.decode(),
        "name": name,
        "nats": {"version": 2, **nats},
        **more,
    }
    digest = hashlib.sha256(json.dumps(told).encode()).digest()
    told["jti"] = base64.b32encode(digest).rstrip(b"=").decode()
    head = part({"typ": "JWT", "alg": "ed25519-nkey"}) + b"." + part(told)
    return (head + b"." + part(bytes(issuer.sign(head)))).decode()


class Operator:
    """An operator with one account, JetStream in it, and whom it lets in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.operator, self.account, self.system = map(new_key, ("OPERATOR", "ACCOUNT", "ACCOUNT"))
        unlimited = {"subs": -1, "data": -1, "payload": -1, "conn": -1, "leaf": -1}
        unlimited |= {"imports": -1, "exports": -1, "mem_storage": -1, "disk_storage": -1}
        unlimited |= {"streams": -1, "consumer": -1}
        some = {**unlimited, "mem_storage": 0, "disk_storage": 0}
        accounts = {
            key.public_key.decode(): signed(
                self.operator,
                key,
                name,
                {"type": "account", "limits": {**limits, "wildcards": True}},
            )
            for name, key, limits in (("A", self.account, unlimited), ("SYS", self.system, some))
        }
        own = signed(self.operator, self.operator, "O", {"type": "operator"})
        preload = "\n".join(f"{key}: {jwt}" for key, jwt in accounts.items())
        self.config = (
            f"operator: {own}\nsystem_account: {self.system.public_key.decode()}\n"
            "max_control_line: 16KB\n"  # a runner's JWT is longer than the usual 4 KB
            f"resolver: MEMORY\nresolver_preload: {{\n{preload}\n}}"
        )

    def creds(self, name: str, by: Any, nats: dict[str, Any], **more: Any) -> str:
        """The path of a credentials file for a new user."""
        user = new_key()
        jwt = signed(by, user, name, nats, **more)
        file = self.folder / f"{name}.creds"
        file.write_text(
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            "************************* IMPORTANT *************************\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n"
            "------END USER NKEY SEED------\n"
        )
        return str(file)


ANYTHING = {"type": "user", "subs": -1, "data": -1, "payload": -1}


async def test_credentials_with_the_claims_that_perdure_prints(
    own_server: Start, tmp_path: Path
) -> None:
    """A JWT made with a role's claims: it can do its work, and no more."""
    o = Operator(tmp_path)
    server = await own_server(extra=o.config)

    def login(role: Role, inbox: str, *, create: bool = False) -> Settings:
        wanted = of_role(role, Settings(inbox_prefix=inbox), ["account"], create=create)
        creds = o.creds(role, o.account, claims(wanted))
        return small(server.url, credentials=creds, inbox_prefix=inbox)

    caller = login("caller", "_INBOX.c")
    made = claims(of_role("runner", Settings(), ["account"], create=True))
    assert (
        connect_bytes(made)
        > LINE_BYTES
        > connect_bytes(claims(of_role("caller", Settings(), ["account"])))
    )
    await works(login("runner", "_INBOX.r", create=True), caller)
    assert "Violation" not in server.log_file.read_text()
    plain = Plain()
    creds = caller.credentials
    await plain.nc.connect(server.url, user_credentials=creds, error_cb=plain.on_error)
    await plain.nc.publish("perdure.log.account.a-1", b"{}")
    (told,) = await plain.said()
    assert 'permissions violation for publish to "perdure.log.account.a-1"' in told
    await plain.nc.close()
    other = new_key("ACCOUNT")
    await refused(small(server.url, credentials=o.creds("forged", other, ANYTHING)))
    expired = o.creds("expired", o.account, ANYTHING, exp=1_700_000_001)
    await refused(small(server.url, credentials=expired))


# -- contexts -----------------------------------------------------------------------------------
async def test_a_nats_context(own_server: Start, tmp_path: Path) -> None:
    """What the `nats` tool keeps is enough: address, login, inbox."""
    key = new_key()
    (tmp_path / "user.nk").write_bytes(bytes(key.seed))
    allowed = 'publish: ">", subscribe: ["_INBOX.me.>", "perdure.>"]'
    user = f"{{ nkey: {key.public_key.decode()}, permissions: {{ {allowed} }} }}"
    server = await own_server(extra=f"authorization {{ users: [{user}] }}")
    folder = tmp_path / "nats" / "context"
    folder.mkdir(parents=True)
    context = {"url": server.url, "nkey": "../../user.nk", "inbox_prefix": "_INBOX.me"}
    (folder / "prod.json").write_text(json.dumps(context))
    (folder.parent / "context.txt").write_text("prod\n")
    environ = {"XDG_CONFIG_HOME": str(tmp_path), "HOME": str(tmp_path)}
    limits: dict[str, Any] = {"shards": 2, "command_stream_bytes": 2**24}
    settings = Settings.load(environ=environ, **limits)
    assert (settings.url, settings.inbox_prefix) == (server.url, "_INBOX.me")
    await works(settings, settings)
    assert "Violation" not in server.log_file.read_text()


# -- certificates -------------------------------------------------------------------------------
class Certificates:
    """An authority, a server that it vouches for, and clients."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.authority = folder, trustme.CA()
        self.ca = self._path("ca.pem")
        self.authority.cert_pem.write_to_path(self.ca)
        self.cert, self.key = self.issue("server", "127.0.0.1")

    def _path(self, name: str) -> str:
        return str(self.folder / name)

    def issue(self, name: str, identity: str) -> tuple[str, str]:
        """The paths of a certificate and its key."""
        made = self.authority.issue_cert(identity, common_name=name)
        made.cert_chain_pems[0].write_to_path(self._path(f"{name}.pem"))
        made.private_key_pem.write_to_path(self._path(f"{name}.key"))
        return self._path(f"{name}.pem"), self._path(f"{name}.key")

    def in_one_file(self, cert: str, key: str) -> str:
        """The path of a file with both."""
        both = Path(self._path("both.pem"))
        both.write_text(Path(key).read_text() + Path(cert).read_text())
        return str(both)


async def test_a_client_certificate_logs_in(own_server: Start, tmp_path: Path) -> None:
    """`verify_and_map`: the certificate is the login, and says which user's permissions count."""
    made = Certificates(tmp_path)
    cert, key = made.issue("runner", "runner@bank.example")
    both = made.in_one_file(cert, key)
    files = (f"cert_file: {json.dumps(made.cert)}", f"key_file: {json.dumps(made.key)}")
    tls = f"tls {{ {', '.join(files)}, ca_file: {json.dumps(made.ca)}, verify_and_map: true }}"
    users = "authorization { users: [{ user: 'runner@bank.example' }] }"
    server = await own_server(extra=f"{tls}\n{users}")
    url = f"tls://127.0.0.1:{server.port}"
    in_two = small(url, tls_ca=made.ca, tls_cert=cert, tls_key=key)
    await works(in_two, small(url, tls_ca=made.ca, tls_cert=both))
    stranger, its_key = made.issue("other", "other@bank.example")
    await refused(small(url, tls_ca=made.ca, tls_cert=stranger, tls_key=its_key))


async def test_without_a_certificate_nobody_gets_in(
    own_server: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure.streams.jetstream.link.DIAL_TIMEOUT_S", 1.5)
    made = Certificates(tmp_path)
    files = (f"cert_file: {json.dumps(made.cert)}", f"key_file: {json.dumps(made.key)}")
    tls = f"tls {{ {', '.join(files)}, ca_file: {json.dumps(made.ca)}, verify: true }}"
    server = await own_server(extra=tls)
    with pytest.raises(Unreachable):
        await open_session(small(f"tls://127.0.0.1:{server.port}", tls_ca=made.ca), name="test")


def test_bad_certificates_are_told_before_connecting(tmp_path: Path) -> None:
    from perdure.streams.jetstream.login import options

    made = Certificates(tmp_path)
    _, other = made.issue("other", "other@bank.example")
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        load_pem_private_key(Path(made.key).read_bytes(), None).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"sesame")
        )
    )
    for cert, key, told in (
        (made.cert, other, "tls_cert: .*MISMATCH"),
        (made.cert, str(tmp_path / "none"), "tls_key: .*No such file"),
        (str(tmp_path / "none"), made.key, "tls_cert: .*No such file"),
        (made.key, made.key, "tls_cert: "),
        (made.cert, None, "tls_cert: "),
        (made.cert, str(locked), "tls_key: it has a passphrase"),
    ):
        with pytest.raises(Incompatible, match=told):
            options(Settings(tls_cert=cert, tls_key=key))
    context = options(Settings(tls_cert=made.cert, tls_key=made.key))["tls"]
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    with pytest.raises(ValueError, match="tls_key: set without tls_cert"):
        Settings(tls_key=made.key)
