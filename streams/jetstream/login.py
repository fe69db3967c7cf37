"""How to connect: nats-py's options, from the settings.

What can be known to be wrong before connecting is said here, since nats-py would go on trying for
ever: a missing file, a missing package, mixed kinds of URLs.
"""

from __future__ import annotations

import importlib.util
import re
import ssl
from typing import Any

from ...entities.settings import Settings
from ..port import Incompatible

_USERINFO = re.compile(r"(?<=//)[^/@\s]*@")


def servers(settings: Settings) -> list[str]:
    """The URLs to try. Raises Incompatible for what can't work."""
    urls = [url.strip() for url in settings.url.split(",") if url.strip()]
    web = [url for url in urls if url.startswith(("ws://", "wss://"))]
    if not urls:
        raise Incompatible(f"no server in the URL {shown(settings.url)!r}")
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
        given["user_credentials"] = _readable("credentials", settings.credentials)
    if settings.nkey_seed is not None:
        _need("nkeys", "nkey_seed")
        given["nkeys_seed"] = _readable("nkey_seed", settings.nkey_seed)
    if settings.user is not None:
        given["user"] = settings.user
        given["password"] = settings.password or ""
    if settings.token is not None:
        given["token"] = settings.token
    if settings.tls_ca is not None:
        given["tls"] = _trusting(_readable("tls_ca", settings.tls_ca))
    return given


def shown(url: str) -> str:
    """A URL without the password that may be in it."""
    return _USERINFO.sub("***@", url)


def _need(package: str, what: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise Incompatible(f"{what} need the package {package}: pip install {package}")


def _readable(name: str, path: str) -> str:
    try:
        with open(path, "rb"):
            return path
    except OSError as error:
        raise Incompatible(f"{name}: {path}: {error.strerror or error}") from None


def _trusting(path: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=path)
    except ssl.SSLError as error:
        raise Incompatible(f"tls_ca: {path}: {error}") from None
