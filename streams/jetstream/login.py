"""How to connect: nats-py's options, from the settings.

What can be known to be wrong before connecting is said here, since nats-py would go on trying for
ever: a missing file, a missing package, mixed kinds of URLs.
"""

from __future__ import annotations

import importlib
import importlib.util
import ssl
from typing import Any

from ...entities.settings import Settings
from ..port import Incompatible


def servers(settings: Settings) -> list[str]:
    """The URLs to try. Raises Incompatible for what can't work."""
    urls = [url.strip() for url in settings.url.split(",") if url.strip()]
    web = [url for url in urls if url.startswith(("ws://", "wss://"))]
    if web and len(web) != len(urls):
        raise Incompatible("WebSocket URLs and others can't be mixed")
    if web:
        _need("aiohttp", "WebSocket URLs")
    return urls


def options(settings: Settings) -> dict[str, Any]:
    """Log-in and TLS, for `nats.aio.client.Client.connect`. Raises Incompatible."""
    given: dict[str, Any] = {}
    if settings.credentials is not None:
        _need("nkeys", "credentials")
        given["user_credentials"] = _credentials(settings.credentials)
    if settings.nkey_seed is not None:
        _need("nkeys", "nkey_seed")
        given["nkeys_seed"] = _seed(settings.nkey_seed)
    if settings.user is not None:
        given["user"] = settings.user
        given["password"] = settings.password or ""
    if settings.token is not None:
        given["token"] = settings.token
    if settings.tls_ca is not None or settings.tls_cert is not None:
        given["tls"] = _tls(settings)
    if settings.inbox_prefix != Settings().inbox_prefix:
        given["inbox_prefix"] = settings.inbox_prefix
    return given


def _need(package: str, what: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise Incompatible(f"{what} need the package {package}: pip install {package}")


def _read(name: str, path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise Incompatible(f"{name}: {path}: {error.strerror or error}") from None


def _credentials(path: str) -> str:
    content = _read("credentials", path)
    if not all(part in content for part in (b"BEGIN NATS USER JWT", b"BEGIN USER NKEY SEED")):
        raise Incompatible(f"credentials: {path}: not a .creds file with a JWT and its seed")
    return path


def _seed(path: str) -> str:
    content = _read("nkey_seed", path)
    nkeys: Any = importlib.import_module("nkeys")
    try:
        nkeys.from_seed(bytearray(content.strip())).wipe()
    except Exception:  # nkeys raises many kinds; none may show the seed
        raise Incompatible(f"nkey_seed: {path}: not the seed of a user") from None
    return path


def _tls(settings: Settings) -> ssl.SSLContext:
    """Whom to trust, and who we are. An encrypted key is refused: nobody is there to be asked."""
    name, path = "tls_ca", settings.tls_ca
    try:
        if path is not None:
            _read(name, path)
        context = ssl.create_default_context(cafile=path)
        if settings.tls_cert is not None:
            name, path = "tls_cert", settings.tls_cert
            _read(name, path)
            if settings.tls_key is not None:
                _read("tls_key", settings.tls_key)
            context.load_cert_chain(path, settings.tls_key, password=_no_passphrase)
    except ssl.SSLError as error:
        raise Incompatible(f"{name}: {path}: {error}") from None
    return context


def _no_passphrase() -> str:
    raise Incompatible("tls_key: it has a passphrase; give one without")
