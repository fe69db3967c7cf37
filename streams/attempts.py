"""Attempts: what a caller does on each answer, each silence and each refusal. Pure.

One call may be sent several times, with one name, so that it takes effect once whatever happens
to messages and runners. `streams/call.py` and `streams/publish.py` do the I/O; here a frozen state
and what happened go in, a new state and an action come out.

The rules that are easy to get wrong:
- A recorded outcome beats everything, whichever attempt it answers. An error counts only from the
  newest attempt: an older one may have met an owner that is gone by now.
- `may_have_taken_effect` is sticky. An attempt that reached somebody is *open* until it is
  answered by a definite "none"; one open attempt makes every error of the call say "may".
- MailboxFull and EntityNotAssignedToRunner are no definite "none" for an ask: another owner may
  hold a copy of it.
"""

from __future__ import annotations

from enum import Enum
from functools import lru_cache
from typing import TypeAlias

import msgspec

from ..entities.errors import (
    AlreadyProcessingMessage,
    ClusterError,
    EntityNotAssignedToRunner,
    MailboxFull,
    PersistenceError,
    RpcClientError,
    RunnerNotRegistered,
    RunnerUnavailable,
    SendTimeout,
    Suspended,
    with_details,
)
from ..entities.retry import Retry, delay_s
from .port import DENIED, Appended, Full, NoAck, NoStream, PublishAnswer, Refused

GROWTH = 1.7
"""By what the wait for an answer grows from attempt to attempt: 0.25 s reaches 10 s in 7."""
BUSY_GROWTH = 2.0
"""The same while the owner says that it is at work: it has the command, so haste is useless."""
LONGEST_S = 10.0
"""The wait never grows beyond this, so that a call of hours still finds a new owner soon."""
JITTER = 0.1
"""How much of a wait is random, to either side, so that callers don't repeat in step."""
ELSEWHERE_S = 0.05
"""The first wait for a new owner, where a runner or the server said at once that this one isn't
it: failover takes tenths of a second, and such an attempt costs next to nothing."""
ELSEWHERE_GROWTH = 1.5
"""By what that wait grows, up to the policy's `repeat_after_s`."""
NO_LEADER_S = 0.5
"""The longest wait for a stream without a leader: it takes seconds, so this costs a tenth more."""
LEADERLESS = Retry(base=ELSEWHERE_S, factor=ELSEWHERE_GROWTH, longest=NO_LEADER_S)
"""Between tries of a publish that nobody acknowledges, as long as the call has time. Most cost two
seconds of silence besides."""
OWNERS_LOST = 3
"""How many owners may vanish with an ask in hand before its caller gives up: it may be what kills
them, and nobody but its caller knows that they had it."""


class Effect(Enum):
    """What a call can do, and so what its errors may claim."""

    COMMAND = "command"
    RESULT = "result"  # asks for an outcome: the command itself was sent by an earlier call
    NONE = "none"  # reads


class Standing(Enum):
    """What the newest attempt has come to, for the error at the deadline."""

    SILENT = "silent"  # no answer yet
    BUSY = "busy"  # the owner is at work on it
    SUSPENDED = "suspended"
    ELSEWHERE = "elsewhere"  # a runner said that it isn't the owner
    NOBODY = "nobody"  # the server said that nobody listens
    UNKNOWN_TYPE = "unknown type"  # nobody ever told how the type is cut
    UNHEARD = "unheard"  # the type's runners don't answer, though the server does
    CUT = "cut"  # there is no way to the server
    DENIED = "denied"  # the server lets this login not ask


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """How one call behaves."""

    effect: Effect
    repeat_after_s: float
    transient: Retry  # for MailboxFull, and an unknown type
    stored: bool = False  # the command is in its stream: attempts only ask for its outcome
    wait_suspended: bool = True  # a suspended flow's outcome is waited for, not raised


class Attempts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about the attempts of one call."""

    number: int = 0  # of the newest attempt; 0: none was sent
    open: frozenset[int] = frozenset()  # reached somebody, not answered by a definite "none"
    answered: bool = True  # the newest attempt, by anybody
    held: bool = False  # somebody seems to have it, since the server last said "nobody"
    owners_lost: int = 0
    refusals: int = 0  # MailboxFull
    unrouted: int = 0  # nobody told how the type is cut
    silence_s: float = 0.0  # the next wait for an answer; 0: the policy's first
    elsewhere_s: float = ELSEWHERE_S  # the next wait for a new owner
    standing: Standing = Standing.SILENT
    error: ClusterError | None = None  # what the standing was told by


FIRST = Attempts()
"""Before anything was sent."""


class Repeat(msgspec.Struct, frozen=True):
    """Go on listening; unless something comes first, send again after this."""

    after_s: float
    refresh: bool = False  # ask first how the type is cut, and where


class Ignore(msgspec.Struct, frozen=True):
    """It changes nothing; the wait goes on."""


class Fail(msgspec.Struct, frozen=True):
    """The call ends with this error."""

    error: ClusterError


Action: TypeAlias = Repeat | Ignore | Fail
Step: TypeAlias = tuple[Attempts, Action]

IGNORE = Ignore()


def may(state: Attempts, policy: Policy) -> bool:
    """Whether the command may have had, or may still get, its effect, as this call knows it."""
    if policy.effect is Effect.COMMAND:
        return bool(state.open)
    return policy.effect is Effect.RESULT


def sent(state: Attempts, policy: Policy, jitter: float) -> Step:
    """An attempt was handed to the connection. `jitter` is from 0 to 1."""
    acts = policy.effect is Effect.COMMAND and not policy.stored
    wait_s = state.silence_s or policy.repeat_after_s
    after = _first_sent(acts, wait_s) if state is FIRST else _next_sent(state, acts, wait_s)
    return after, Repeat(_spread(wait_s, jitter))


def _next_sent(state: Attempts, acts: bool, wait_s: float) -> Attempts:
    """The state after one more attempt, whose answer is waited for so long."""
    number = state.number + 1
    waits = state.standing in (Standing.BUSY, Standing.SUSPENDED, Standing.DENIED)
    return msgspec.structs.replace(
        state,
        number=number,
        open=state.open | {number} if acts else state.open,
        held=state.held or not state.answered,
        answered=False,
        silence_s=min(wait_s * GROWTH, LONGEST_S),
        standing=state.standing if waits else Standing.SILENT,
        error=state.error if waits else None,
    )


@lru_cache(maxsize=64)
def _first_sent(acts: bool, wait_s: float) -> Attempts:
    """The same of FIRST: nearly all calls need no other, and a client has few policies."""
    return _next_sent(FIRST, acts, wait_s)


def nobody(state: Attempts, policy: Policy, number: int, jitter: float) -> Step:
    """The server's word that nobody listened to an attempt."""
    state = msgspec.structs.replace(state, open=state.open - {number})
    if number != state.number:
        return state, IGNORE
    lost = state.owners_lost + state.held
    state = msgspec.structs.replace(
        state, answered=True, held=False, owners_lost=lost, standing=Standing.NOBODY, error=None
    )
    if lost >= OWNERS_LOST and policy.effect is not Effect.RESULT and not policy.stored:
        why = f"{lost} owners went away while they had it"
        unsure = may(state, policy)
        return state, Fail(RunnerUnavailable(cause=why, may_have_taken_effect=unsure))
    return _elsewhere(state, policy, jitter)


def costs(state: Attempts) -> bool:
    """Whether the next attempt is a repeat that could make an overload worse."""
    return not state.answered or state.standing in (Standing.BUSY, Standing.SUSPENDED)


def put_off(state: Attempts, policy: Policy, jitter: float) -> Step:
    """A repeat is due, but its client may send no more now: it waits for its next interval."""
    wait_s = state.silence_s or policy.repeat_after_s
    state = msgspec.structs.replace(state, silence_s=min(wait_s * GROWTH, LONGEST_S))
    return state, Repeat(_spread(wait_s, jitter))


def refused(
    state: Attempts,
    policy: Policy,
    number: int,
    error: ClusterError,
    jitter: float,
    *,
    may_repeat: bool = True,
) -> Step:
    """An attempt was answered by a cluster error. `may_repeat`: the client can pay for another."""
    if _is_none(error):
        state = msgspec.structs.replace(state, open=state.open - {number})
    if number != state.number:
        return state, IGNORE
    state = msgspec.structs.replace(state, answered=True)
    match error:
        case AlreadyProcessingMessage():
            return _slower(state, policy, Standing.BUSY, error, jitter)
        case Suspended() if policy.wait_suspended:
            return _slower(state, policy, Standing.SUSPENDED, error, jitter)
        case EntityNotAssignedToRunner():
            state = msgspec.structs.replace(state, standing=Standing.ELSEWHERE, error=error)
            return _elsewhere(state, policy, jitter)
        case MailboxFull():
            state = msgspec.structs.replace(state, refusals=state.refusals + 1)
            if may_repeat and state.refusals < policy.transient.attempts:
                return state, Repeat(delay_s(policy.transient, state.refusals, jitter))
        case _:
            pass
    return state, Fail(_told(state, policy, error))


def unknown_type(state: Attempts, policy: Policy, entity: str, jitter: float) -> Step:
    """Nobody answers for the type, and nobody ever did: an attempt can't be addressed."""
    state = msgspec.structs.replace(
        state, unrouted=state.unrouted + 1, standing=Standing.UNKNOWN_TYPE, error=None
    )
    if policy.stored:
        return state, Repeat(_spread(policy.repeat_after_s, jitter), refresh=True)
    if state.unrouted < policy.transient.attempts:
        after_s = delay_s(policy.transient, state.unrouted, jitter)
        return state, Repeat(after_s, refresh=True)
    error = RunnerNotRegistered(entity=entity, may_have_taken_effect=may(state, policy))
    return state, Fail(error)


def cut(state: Attempts, policy: Policy, why: str, jitter: float) -> Step:
    """There is no way to the server right now, so nothing was sent."""
    error = RpcClientError(cause=why)
    state = msgspec.structs.replace(state, standing=Standing.CUT, error=error)
    return state, Repeat(_spread(min(ELSEWHERE_S, policy.repeat_after_s), jitter))


def unheard(state: Attempts, policy: Policy, why: str, jitter: float) -> Step:
    """Nobody answered in time how the type is cut: its runner is frozen, or starts."""
    error = RunnerUnavailable(cause=f"nobody told how the type is cut: {why}")
    state = msgspec.structs.replace(state, standing=Standing.UNHEARD, error=error)
    return state, Repeat(_spread(policy.repeat_after_s, jitter), refresh=True)


def forbidden(
    state: Attempts,
    policy: Policy,
    why: str,
    jitter: float,
    lost: frozenset[int] = frozenset(),
) -> Step:
    """The server lets this login not ask: how the type is cut, or for what it sent.

    `lost` are the attempts that nobody got, for certain. The outcome of a stored command comes
    without being asked for, so it is waited for.
    """
    state = msgspec.structs.replace(state, open=state.open - lost)
    error = RpcClientError(cause=why, may_have_taken_effect=may(state, policy), advice="fix")
    if not policy.stored:
        return state, Fail(error)
    state = msgspec.structs.replace(state, standing=Standing.DENIED, error=error)
    return state, Repeat(_spread(policy.repeat_after_s, jitter))


def expired(state: Attempts, policy: Policy, entity: str, after_s: float) -> ClusterError:
    """The error of a call whose time is up; `after_s` is that time."""
    unsure = may(state, policy)
    match state.standing:
        case (
            Standing.SUSPENDED
            | Standing.ELSEWHERE
            | Standing.CUT
            | Standing.UNHEARD
            | Standing.DENIED
        ) if state.error is not None:
            return with_details(state.error, may_have_taken_effect=unsure)
        case Standing.NOBODY:
            why = "nobody listens for the entity's shard"
            return RunnerUnavailable(cause=why, may_have_taken_effect=unsure)
        case Standing.UNKNOWN_TYPE:
            return RunnerNotRegistered(entity=entity, may_have_taken_effect=unsure)
        case Standing.BUSY:
            why = "the owner is still at work on it"
            return SendTimeout(after_s=after_s, cause=why, may_have_taken_effect=unsure)
        case _:
            return SendTimeout(after_s=after_s, may_have_taken_effect=unsure)


# -- storing a tell ---------------------------------------------------------------------------
class Publishes(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about the attempts to store one tell."""

    refusals: int = 0  # a full mailbox, or no stream
    unheard: int = 0  # tries that nobody took, or acknowledged in time
    unsure: bool = False  # one of them was not acknowledged: it may be stored
    full: bool = False  # the newest met a full mailbox
    why: str | None = None  # the newest was not acknowledged


def published(
    state: Publishes,
    policy: Policy,
    answer: PublishAnswer,
    entity: str,
    jitter: float,
    *,
    hosted: bool = False,
) -> tuple[Publishes, Repeat | Fail | int]:
    """What to do about an answer to a publish; the stream sequence when it is stored.

    `hosted`: the type has a stream, as somebody told. While a server starts, or a stream has no
    leader, nobody takes a publish or acknowledges it: it is tried until the call's time is up,
    which is longer than that takes. A refusal is an answer, and not repeated for as long.
    """
    match answer:
        case Appended(sequence):
            return state, sequence
        case NoAck(why):
            return _unheard(state, why, jitter, unsure=True)
        case NoStream() if hosted:
            why = "nobody takes it: the server starts, or the stream has no leader"
            return _unheard(state, why, jitter, unsure=state.unsure)
        case Full():
            error: ClusterError = MailboxFull(may_have_taken_effect=state.unsure)
        case NoStream():
            error = RunnerNotRegistered(entity=entity, may_have_taken_effect=state.unsure)
        case Refused(code, why) if code == DENIED:
            denied = RpcClientError(cause=why, may_have_taken_effect=state.unsure, advice="fix")
            return state, Fail(denied)
        case Refused(code, why):
            cause = f"the command stream refused it: {why} ({code})"
            return state, Fail(PersistenceError(cause=cause, may_have_taken_effect=state.unsure))
    state = msgspec.structs.replace(
        state, refusals=state.refusals + 1, full=isinstance(answer, Full), why=None
    )
    if state.refusals >= policy.transient.attempts:
        return state, Fail(error)
    return state, Repeat(delay_s(policy.transient, state.refusals, jitter))


def _unheard(
    state: Publishes, why: str, jitter: float, *, unsure: bool
) -> tuple[Publishes, Repeat]:
    unheard = state.unheard + 1
    state = msgspec.structs.replace(state, unheard=unheard, unsure=unsure, full=False, why=why)
    return state, Repeat(delay_s(LEADERLESS, unheard, jitter))


def unpublished(state: Publishes, after_s: float | None = None) -> ClusterError:
    """The error of a tell that is given up; after a time, if that is why."""
    if state.full:
        return MailboxFull(may_have_taken_effect=state.unsure)
    return SendTimeout(after_s=after_s, cause=state.why, may_have_taken_effect=state.unsure)


# -- leaves -----------------------------------------------------------------------------------
def _is_none(error: ClusterError) -> bool:
    """Whether the error says for certain that its attempt has had no effect."""
    elsewhere = isinstance(error, MailboxFull | EntityNotAssignedToRunner)
    return not (error.may_have_taken_effect or elsewhere)


def _told(state: Attempts, policy: Policy, error: ClusterError) -> ClusterError:
    """The runner's error as the caller gets it: it may know of more attempts than the runner."""
    if policy.effect is Effect.NONE:
        return with_details(error, may_have_taken_effect=False)
    unsure = error.may_have_taken_effect if policy.effect is Effect.RESULT else bool(state.open)
    return with_details(error, may_have_taken_effect=unsure)


def _slower(
    state: Attempts, policy: Policy, standing: Standing, error: ClusterError, jitter: float
) -> Step:
    """Somebody has the command: wait for the outcome, longer each time."""
    wait_s = min((state.silence_s or policy.repeat_after_s) / GROWTH * BUSY_GROWTH, LONGEST_S)
    state = msgspec.structs.replace(
        state, held=True, silence_s=wait_s, standing=standing, error=error
    )
    return state, Repeat(_spread(wait_s, jitter))


def _elsewhere(state: Attempts, policy: Policy, jitter: float) -> Step:
    """Somebody else is, or will be, the owner: find out who, and send again soon."""
    longest = max(policy.repeat_after_s, ELSEWHERE_S)
    wait_s = state.elsewhere_s
    state = msgspec.structs.replace(
        state, elsewhere_s=min(wait_s * ELSEWHERE_GROWTH, longest), silence_s=0.0
    )
    return state, Repeat(_spread(wait_s, jitter), refresh=True)


def _spread(wait_s: float, jitter: float) -> float:
    return wait_s * (1 - JITTER + 2 * JITTER * jitter)
