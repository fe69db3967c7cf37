"""`perdure.containers` where no engine is needed: what is raised, and what is left behind."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from testcontainers.core.container import DockerContainer

import perdure.containers
from perdure import testing
from perdure.containers import NatsContainer, NoEngine


def late(_: DockerContainer) -> None:
    raise TimeoutError("not ready")


def test_one_that_is_not_ready_in_time_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[DockerContainer] = []

    def stop(container: DockerContainer) -> None:
        stopped.append(container)

    monkeypatch.setattr(DockerContainer, "start", late)
    monkeypatch.setattr(DockerContainer, "stop", stop)
    made = NatsContainer.__new__(NatsContainer)  # an engine would be asked for by __init__
    with pytest.raises(TimeoutError):
        made.start()
    assert stopped == [made]


@pytest.mark.parametrize("error", [NoEngine("none"), TimeoutError("not ready")])
def test_only_no_engine_is_no_server(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def raises() -> None:
        raise error

    monkeypatch.delenv(testing.REQUIRE, raising=False)
    monkeypatch.setattr(perdure.containers, "NatsContainer", raises)
    wanted = pytest.skip.Exception if isinstance(error, NoEngine) else TimeoutError
    with pytest.raises(wanted), ExitStack() as stack:
        testing._in_container(stack, "no program")  # pyright: ignore[reportPrivateUsage]
