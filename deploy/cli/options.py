"""Options that every command has, and the settings that they make.

An option beats `PERDURE_*`, NATS contexts and `perdure.toml`, in the order of `Settings.load`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from ...entities.settings import Settings
from .output import Output
from .trouble import UsageError


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Common:
    """Options of every command."""

    url: str | None = None
    """The NATS servers, divided by commas. Default: PERDURE_URL, NATS_URL, the NATS context,
    perdure.toml, nats://127.0.0.1:4222."""

    namespace: str | None = None
    """The namespace, for several systems on one server."""

    json: Annotated[bool, Parameter(negative="")] = False
    """One JSON value a line on standard output, refusals and errors included."""

    def settings(
        self,
        *,
        url: str | None = None,
        timeout: float | None = None,
        health_port: int | None = None,
    ) -> Settings:
        """The settings with these options; `timeout`, in seconds, is that of one ask.

        Raises UsageError for a bad one.
        """
        if timeout is not None:
            _check_timeout(timeout)
        try:
            return Settings.load(
                url=url or self.url,
                namespace=self.namespace,
                ask_timeout=timeout,
                health_port=health_port,
            )
        except ValueError as error:
            raise UsageError(f"settings: {error}", "correct it where the line says") from None

    def output(self) -> Output:
        """Where to print, in the form that was asked for."""
        return Output(json=self.json)


def _check_timeout(timeout: float) -> None:
    """That it may be one, told by its option's name. Raises UsageError."""
    try:
        Settings(ask_timeout=timeout)
    except ValueError:
        raise UsageError(f"--timeout {timeout:g}", "give seconds, 0.001 to 86400") from None


NO_OPTIONS = Common()
