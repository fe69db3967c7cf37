"""Fixtures for all tests, and how hypothesis behaves in all of them."""

import hypothesis

from .support.server import namespace, nats_server, own_server

__all__ = ["namespace", "nats_server", "own_server"]

# A busy machine is no failure: how long an example takes says nothing here.
hypothesis.settings.register_profile(
    "perdure",
    deadline=None,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("perdure")
