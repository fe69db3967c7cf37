"""Asking a process for its probes and metrics, as Kubernetes and Prometheus do."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from ...support.server import PATIENCE_S


class Got(NamedTuple):
    """An answer."""

    status: int
    text: str

    @property
    def failed(self) -> dict[str, str]:
        """The checks that aren't passed, and why."""
        found = msgspec.json.decode(self.text)
        assert found["ok"] == (self.status == 200)
        return {check["name"]: check["why"] for check in found["checks"] if not check["ok"]}


def free_ports(count: int) -> int:
    """The first of so many ports in a row that nobody listens on right now."""
    while True:
        with contextlib.ExitStack() as stack:
            first = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
            try:
                for port in range(first + 1, first + count):
                    stack.enter_context(socket.create_server(("127.0.0.1", port)))
            except (OSError, OverflowError):
                continue
            return int(first)


def get(port: int, path: str, **headers: str) -> Got:
    """One GET; it holds the thread meanwhile."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return Got(answer.status, answer.read().decode())
    except urllib.error.HTTPError as error:
        with error:
            return Got(error.code, error.read().decode())


async def probe(port: int, path: str, **headers: str) -> Got:
    """The same without holding the loop."""
    return await asyncio.to_thread(lambda: get(port, path, **headers))


async def until_probe(port: int, path: str, wanted: Callable[[Got], Any], within_s: float) -> Got:
    """Probe until the answer is so."""
    async with asyncio.timeout(within_s):
        while True:
            with contextlib.suppress(urllib.error.URLError):  # nobody listens yet
                if wanted(found := await probe(port, path)):
                    return found
            await asyncio.sleep(0.02)
