"""Fixtures for all tests, and how hypothesis behaves in all of them."""

import os
import signal
from pathlib import Path

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

# For processes that tests start: see there.
SLIM = str(Path(__file__).parent / "support" / "slim")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (SLIM, os.environ.get("PYTHONPATH"))))

# Started in the background or by nohup, all processes of the tests would ignore these, and those
# that are ended by one would never end.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
