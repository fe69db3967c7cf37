"""Clocks: whether this machine's agrees with the server's, asked when a runner starts.

No guarantee rests on a clock, but two limits do: made keys are remembered by the time of commits,
and deadlines are told in the runners' time. A runner whose clock is minutes ahead makes healthy
clients look too late, until real time has caught up with what it wrote. So a clock that is that
wrong is refused before it writes anything, and a smaller difference is told.
"""

from __future__ import annotations

import logging
from typing import Literal

from ..entities.duration import seconds
from ..entities.settings import Settings
from ..streams.port import Incompatible, Session

logger: logging.Logger = logging.getLogger("perdure.clocks")

NOTICEABLE_S = 1.0
"""A difference beyond this is told: machines that keep time are milliseconds apart."""

MEND = "keep time on it (chrony, systemd-timesyncd)"

Verdict = Literal["good", "odd", "bad"]


def verdict(ahead_s: float, settings: Settings) -> Verdict:
    """What a clock is worth that is ahead of the server's by so much (behind: negative).

    Beyond half of `made_window` a commit's time could end what is still remembered.
    """
    apart_s = abs(ahead_s)
    if apart_s > seconds(settings.made_window) / 2:
        return "bad"
    return "odd" if apart_s > NOTICEABLE_S else "good"


def told(ahead_s: float) -> str:
    """The difference in words."""
    if abs(ahead_s) < NOTICEABLE_S:
        return "less than a second from the server's"
    return f"{abs(ahead_s):.1f} s {'ahead of' if ahead_s > 0 else 'behind'} the server's"


async def check_clock(session: Session, settings: Settings) -> None:
    """Compare the clocks, once the streams are there. Raises Incompatible, Unreachable."""
    ahead_s = await session.clock_ahead_s()
    match verdict(ahead_s, settings):
        case "bad":
            raise Incompatible(f"this machine's clock is {told(ahead_s)}: {MEND}")
        case "odd":
            logger.warning(
                "this machine's clock is %s: %s",
                told(ahead_s),
                MEND,
                extra={"action": "clock.off"},
            )
        case "good":
            pass
