"""Resume tokens: capabilities that name what they resume, and that only a cluster's runners make.

A token is a body (whom it is for, which flow and which deferred, a nonce, when it expires) and an
HMAC over that with a secret which no log holds. The nonce is in the log, so that the owner can
show the same token again; without the secret it is worth nothing. Two secrets may be alive: the
first one signs, all verify.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Sequence
from hashlib import sha256

import msgspec

from ..entities.address import Address, is_type
from ..entities.record import Asked, Opened

ASK = "ask "
"""Before the name of a question that one entity asks another, in the place of a deferred's: so it
can be taken for none, as no name begins with it."""

FORMAT = 1
TOKEN_CHARS = 2_048
"""Of a token at most: an id, a key and a name of full length take half of that."""
MAC_BYTES = 16
"""128 bits: it can be tried against a live cluster only, one request a guess."""

_SHAPE = re.compile(r"lw[A-Za-z0-9_-]{20,}\.[A-Za-z0-9_-]{22,}")
"""What a token looks like in a text: its body is a list of seven, and so it begins alike."""
HIDDEN = "(token)"


class BadToken(Exception):
    """Not a token of this cluster; the text says why, without the token."""


class Body(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a token says."""

    v: int
    entity: str
    id: str
    flow: str
    deferred: str
    nonce: str
    expires_ms: int | None = None


_bodies = msgspec.msgpack.Decoder(Body)


class Tokens:
    """Makes and verifies the tokens of one namespace."""

    def __init__(self, secrets: Sequence[bytes], namespace: str) -> None:
        """The first of `secrets` signs, all verify."""
        self._secrets, self._namespace = tuple(secrets), namespace

    def __repr__(self) -> str:
        return f"Tokens({self._namespace!r}, {len(self._secrets)} secrets)"

    def of(self, address: Address, flow: str, opened: Opened) -> str:
        """The token of a deferred."""
        return make_token(
            self._secrets,
            self._namespace,
            Body(
                *(FORMAT, address.entity, address.id, flow),
                *(opened.name, opened.nonce, opened.expires_ms),
            ),
        )

    def of_ask(self, address: Address, flow: str, asked: Asked) -> str:
        """What shows that an answer is to that very question."""
        return self.of(address, flow, Opened(f"{ASK}{asked.name}", asked.nonce))

    def signed(self, head: str) -> str:
        """The token of which only the body is known. Raises BadToken."""
        return make_token(self._secrets, self._namespace, read_body(head))

    def genuine(self, text: str) -> Body:
        """What a token of any entity here says, expired or not. Raises BadToken."""
        return verify_token(self._secrets, self._namespace, text, 0)

    def verify(self, text: str, address: Address, now_ms: int) -> Body:
        """What a token of that entity says. Raises BadToken."""
        body = verify_token(self._secrets, self._namespace, text, now_ms)
        if (body.entity, body.id) != (address.entity, address.id):
            raise BadToken("it is of another entity")
        return body


def make_token(secrets: Sequence[bytes], namespace: str, body: Body) -> str:
    """The token of that body."""
    data = msgspec.msgpack.encode(body)
    return f"{_text(data)}.{_text(_mac(secrets[0], namespace, data))}"


def read_body(head: str) -> Body:
    """What the part of a token says that is before the dot. Raises BadToken."""
    return read_token(f"{head}.{_text(bytes(MAC_BYTES))}")


def read_token(text: str) -> Body:
    """What a token says, whoever made it. Raises BadToken."""
    return _split(text)[0]


def without_tokens(text: str) -> str:
    """The text, for whoever may read it and not decide a flow: its tokens are hidden."""
    return _SHAPE.sub(HIDDEN, text)


def verify_token(secrets: Sequence[bytes], namespace: str, text: str, now_ms: int) -> Body:
    """What a genuine token says. Raises BadToken."""
    body, data, mac = _split(text)
    if not any(hmac.compare_digest(mac, _mac(s, namespace, data)) for s in secrets):
        raise BadToken("it isn't genuine: forged, damaged, or of another cluster or secret")
    if body.expires_ms is not None and now_ms >= body.expires_ms:
        raise BadToken("it has expired")
    return body


def _split(text: str) -> tuple[Body, bytes, bytes]:
    if len(text) > TOKEN_CHARS:
        raise BadToken(f"it has over {TOKEN_CHARS} characters")
    head, dot, tail = text.partition(".")
    try:
        data, mac = _bytes(head), _bytes(tail)
        body = _bodies.decode(data)
    except (ValueError, binascii.Error, msgspec.MsgspecError, RecursionError):
        raise BadToken("it isn't whole") from None
    if not dot or body.v != FORMAT or len(mac) != MAC_BYTES:
        raise BadToken("it isn't whole")
    if not is_type(body.entity):  # whoever sends it makes a subject of that
        raise BadToken("it is of no entity type")
    return body, data, mac


def _mac(secret: bytes, namespace: str, data: bytes) -> bytes:
    said = b"perdure resume\0" + namespace.encode() + b"\0" + data
    return hmac.digest(secret, said, sha256)[:MAC_BYTES]


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    if not text.isascii():
        raise ValueError("not base64")
    data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if _text(data) != text:  # one token has one text
        raise ValueError("not as it would be written")
    return data
