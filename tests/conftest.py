"""Fixtures for all tests."""

from .support.server import namespace, nats_server, own_server

__all__ = ["namespace", "nats_server", "own_server"]
