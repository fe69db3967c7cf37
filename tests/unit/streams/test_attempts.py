"""What a caller does on each answer: pure, so every short run of events is tried."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure import (
    AlreadyProcessingMessage,
    ClusterError,
    EntityNotAssignedToRunner,
    MailboxFull,
    MalformedMessage,
    PersistenceError,
    Retry,
    RpcClientError,
    RunnerNotRegistered,
    RunnerUnavailable,
    SendTimeout,
    SerializationError,
    Suspended,
)
from perdure.entities.errors import REASONS
from perdure.streams.attempts import (
    BUSY_GROWTH,
    ELSEWHERE_S,
    GROWTH,
    IGNORE,
    LONGEST_S,
    NO_LEADER_S,
    OWNERS_LOST,
    Attempts,
    Effect,
    Fail,
    Policy,
    Publishes,
    Repeat,
    Standing,
    Step,
    cut,
    expired,
    may,
    nobody,
    published,
    refused,
    sent,
    unknown_type,
    unpublished,
)
from perdure.streams.port import Appended, Full, NoAck, NoStream, PublishAnswer, Refused

TRANSIENT = Retry(attempts=3, base=0.05, factor=1.0)
ASK = Policy(effect=Effect.COMMAND, repeat_after_s=0.25, transient=TRANSIENT)
STORED = Policy(effect=Effect.COMMAND, repeat_after_s=3.0, transient=TRANSIENT, stored=True)
RESULT = Policy(effect=Effect.RESULT, repeat_after_s=0.25, transient=TRANSIENT)
READ = Policy(effect=Effect.NONE, repeat_after_s=0.25, transient=TRANSIENT)
ATTACHED = Attempts(open=frozenset({0}), answered=False)
MIDDLE = 0.5  # jitter that changes nothing


def state_of(step: Step) -> Attempts:
    return step[0]


def repeat(step: Step) -> Repeat:
    assert isinstance(step[1], Repeat)
    return step[1]


def failed(step: Step) -> ClusterError:
    assert isinstance(step[1], Fail)
    return step[1].error


def after_sends(count: int, policy: Policy = ASK) -> Attempts:
    state = Attempts()
    for _ in range(count):
        state = state_of(sent(state, policy, MIDDLE))
    return state


# -- waiting ----------------------------------------------------------------------------------
def test_each_silence_is_longer_up_to_a_bound() -> None:
    state, waits = Attempts(), list[float]()
    for _ in range(12):
        state, action = sent(state, ASK, MIDDLE)
        assert isinstance(action, Repeat)
        assert not action.refresh
        waits.append(action.after_s)
    assert waits[0] == 0.25
    assert waits[1] == pytest.approx(0.25 * GROWTH)
    assert waits[-1] == LONGEST_S
    assert waits == sorted(waits)


@given(st.floats(0, 1))
def test_jitter_moves_a_wait_by_a_tenth(jitter: float) -> None:
    after_s = repeat(sent(Attempts(), ASK, jitter)).after_s
    assert 0.25 * 0.9 <= after_s <= 0.25 * 1.1000001


def test_a_busy_owner_is_asked_more_and_more_seldom() -> None:
    state, waits = after_sends(1), list[float]()
    for _ in range(4):
        state, action = refused(state, ASK, state.number, AlreadyProcessingMessage(), MIDDLE)
        assert isinstance(action, Repeat)
        waits.append(action.after_s)
        state = state_of(sent(state, ASK, MIDDLE))
    assert waits == pytest.approx([0.25 * BUSY_GROWTH**n for n in range(1, 5)])


def test_nobody_and_elsewhere_are_tried_again_soon_with_a_new_route() -> None:
    for step in (
        nobody(after_sends(1), ASK, 1, MIDDLE),
        refused(after_sends(1), ASK, 1, EntityNotAssignedToRunner(), MIDDLE),
    ):
        assert repeat(step) == Repeat(ELSEWHERE_S, refresh=True)


def test_the_search_for_an_owner_slows_down_to_the_first_repeat() -> None:
    state, waits = Attempts(), list[float]()
    for _ in range(8):
        state = state_of(sent(state, ASK, MIDDLE))
        state, action = nobody(state, ASK, state.number, MIDDLE)
        assert isinstance(action, Repeat)
        waits.append(action.after_s)
    assert waits == sorted(waits)
    assert waits[-1] == ASK.repeat_after_s


def test_an_owner_that_was_found_is_given_the_first_wait_again() -> None:
    state = after_sends(5)
    state = state_of(nobody(state, ASK, 5, MIDDLE))
    assert repeat(sent(state, ASK, MIDDLE)).after_s == 0.25


# -- refusals ---------------------------------------------------------------------------------
def test_mailbox_full_is_retried_twice_then_told_as_perhaps_done() -> None:
    state, seen = Attempts(), list[object]()
    for _ in range(3):
        state = state_of(sent(state, ASK, MIDDLE))
        state, action = refused(state, ASK, state.number, MailboxFull(capacity=100), 1.0)
        seen.append(action)
    assert seen == [
        Repeat(0.05),
        Repeat(0.05),
        Fail(MailboxFull(capacity=100, may_have_taken_effect=True)),
    ]


@pytest.mark.parametrize("reason", REASONS)
def test_an_error_of_an_older_attempt_changes_nothing(reason: type[ClusterError]) -> None:
    state = after_sends(2)
    after, action = refused(state, ASK, 1, reason(may_have_taken_effect=True), MIDDLE)
    assert action is IGNORE
    assert after == state


FINAL = [
    r
    for r in REASONS
    if r not in (AlreadyProcessingMessage, EntityNotAssignedToRunner, MailboxFull, Suspended)
]


@pytest.mark.parametrize("reason", FINAL)
@pytest.mark.parametrize("sure", [True, False])
def test_any_other_error_ends_the_call(reason: type[ClusterError], sure: bool) -> None:
    given_error = reason(cause="why", may_have_taken_effect=not sure)
    told = failed(refused(after_sends(1), ASK, 1, given_error, MIDDLE))
    assert type(told) is reason
    assert told.cause == "why"
    assert told.may_have_taken_effect is not sure


@pytest.mark.parametrize("reason", FINAL)
def test_an_open_attempt_makes_every_error_say_may(reason: type[ClusterError]) -> None:
    given_error = reason(may_have_taken_effect=False)
    told = failed(refused(after_sends(2), ASK, 2, given_error, MIDDLE))
    assert told.may_have_taken_effect


@pytest.mark.parametrize("reason", FINAL)
def test_a_read_never_takes_effect(reason: type[ClusterError]) -> None:
    told = failed(refused(after_sends(2, READ), READ, 2, reason(), MIDDLE))
    assert not told.may_have_taken_effect


@pytest.mark.parametrize("sure", [True, False])
def test_a_result_claims_what_the_owner_claims(sure: bool) -> None:
    given_error = SendTimeout(may_have_taken_effect=not sure)
    told = failed(refused(after_sends(2, RESULT), RESULT, 2, given_error, MIDDLE))
    assert told.may_have_taken_effect is not sure


def test_a_suspended_flow_is_waited_for_or_told() -> None:
    given_error = Suspended(waits_for=("approval",))
    waiting = refused(after_sends(1), ASK, 1, given_error, MIDDLE)
    assert repeat(waiting).after_s == pytest.approx(0.25 * BUSY_GROWTH)
    over = expired(state_of(sent(state_of(waiting), ASK, MIDDLE)), ASK, "account", 30)
    assert over == given_error
    impatient = Policy(
        effect=Effect.COMMAND, repeat_after_s=0.25, transient=TRANSIENT, wait_suspended=False
    )
    assert failed(refused(after_sends(1), impatient, 1, given_error, MIDDLE)) == given_error


# -- owners that go away ----------------------------------------------------------------------
def lose_owners(policy: Policy, count: int) -> Step:
    """Each owner takes the command, says nothing, and is gone at the next attempt."""
    state = Attempts()
    step: Step = state, IGNORE
    for _ in range(count):
        state = state_of(sent(state, policy, MIDDLE))
        state = state_of(sent(state, policy, MIDDLE))
        step = nobody(state, policy, state.number, MIDDLE)
        state = state_of(step)
    return step


def test_a_command_that_seems_to_kill_its_owners_is_given_up() -> None:
    assert isinstance(lose_owners(ASK, OWNERS_LOST - 1)[1], Repeat)
    told = failed(lose_owners(ASK, OWNERS_LOST))
    assert isinstance(told, RunnerUnavailable)
    assert told.may_have_taken_effect


def test_a_query_that_seems_to_kill_its_owners_too() -> None:
    told = failed(lose_owners(READ, OWNERS_LOST))
    assert isinstance(told, RunnerUnavailable)
    assert not told.may_have_taken_effect


@pytest.mark.parametrize("policy", [RESULT, STORED])
def test_asking_for_a_result_kills_nobody(policy: Policy) -> None:
    assert isinstance(lose_owners(policy, OWNERS_LOST + 2)[1], Repeat)


def test_an_absent_owner_is_no_lost_owner() -> None:
    state = Attempts()
    for _ in range(20):
        state = state_of(sent(state, ASK, MIDDLE))
        state, action = nobody(state, ASK, state.number, MIDDLE)
        assert isinstance(action, Repeat)
    assert state.owners_lost == 0


def test_a_busy_owner_that_goes_away_is_a_lost_one() -> None:
    state = after_sends(1)
    state = state_of(refused(state, ASK, 1, AlreadyProcessingMessage(), MIDDLE))
    state = state_of(sent(state, ASK, MIDDLE))
    assert state_of(nobody(state, ASK, 2, MIDDLE)).owners_lost == 1


# -- no way -----------------------------------------------------------------------------------
def test_a_type_that_nobody_hosts_is_told_after_three_questions() -> None:
    state, seen = Attempts(), list[object]()
    for _ in range(3):
        state, action = unknown_type(state, ASK, "account", 1.0)
        seen.append(action)
    error = RunnerNotRegistered(entity="account", may_have_taken_effect=False)
    assert seen == [Repeat(0.05, refresh=True), Repeat(0.05, refresh=True), Fail(error)]


def test_a_stored_command_waits_for_a_runner() -> None:
    state = ATTACHED
    for _ in range(10):
        state, action = unknown_type(state, STORED, "account", MIDDLE)
        assert action == Repeat(3.0, refresh=True)
    over = expired(state, STORED, "account", 30)
    assert over == RunnerNotRegistered(entity="account", may_have_taken_effect=True)


def test_without_a_connection_it_waits_and_sends_nothing() -> None:
    state, action = cut(Attempts(), ASK, "no connection", MIDDLE)
    assert action == Repeat(ELSEWHERE_S)
    assert state.number == 0
    over = expired(state, ASK, "account", 30)
    assert over == RpcClientError(cause="no connection", may_have_taken_effect=False)


# -- the time is up ---------------------------------------------------------------------------
def test_silence_ends_in_send_timeout() -> None:
    assert expired(after_sends(3), ASK, "account", 30) == SendTimeout(after_s=30)
    nothing_sent = SendTimeout(after_s=0, may_have_taken_effect=False)
    assert expired(Attempts(), ASK, "account", 0) == nothing_sent
    read = SendTimeout(after_s=30, may_have_taken_effect=False)
    assert expired(after_sends(3, READ), READ, "account", 30) == read
    assert expired(after_sends(3, RESULT), RESULT, "account", 30) == SendTimeout(after_s=30)


def test_nobody_ends_in_runner_unavailable() -> None:
    state = state_of(nobody(after_sends(1), ASK, 1, MIDDLE))
    over = expired(state, ASK, "account", 30)
    assert isinstance(over, RunnerUnavailable)
    assert not over.may_have_taken_effect
    state = state_of(nobody(after_sends(2), ASK, 2, MIDDLE))
    assert expired(state, ASK, "account", 30).may_have_taken_effect


def test_elsewhere_ends_in_what_the_runner_said() -> None:
    error = EntityNotAssignedToRunner(runner="r1", may_have_taken_effect=False)
    state = state_of(refused(after_sends(1), ASK, 1, error, MIDDLE))
    over = expired(state, ASK, "account", 30)
    assert over == EntityNotAssignedToRunner(runner="r1", may_have_taken_effect=True)


def test_busy_says_so_in_its_timeout() -> None:
    state = state_of(refused(after_sends(1), ASK, 1, AlreadyProcessingMessage(), MIDDLE))
    over = expired(state_of(sent(state, ASK, MIDDLE)), ASK, "account", 30)
    assert isinstance(over, SendTimeout)
    assert over.cause == "the owner is still at work on it"
    assert over.may_have_taken_effect


# -- every short run of events ----------------------------------------------------------------
@dataclass(frozen=True)
class Event:
    """What may happen to the newest attempt, or to the one before it."""

    kind: str
    back: int = 0
    error: ClusterError | None = None


EVENTS = [
    Event("sent"),
    Event("nobody"),
    Event("nobody", 1),
    *(Event("refused", 0, r(may_have_taken_effect=m)) for r in REASONS for m in (True, False)),
    Event("refused", 1, MalformedMessage()),
    Event("refused", 1, PersistenceError()),
    Event("cut"),
]
HARMLESS = {MailboxFull, EntityNotAssignedToRunner}


def apply(state: Attempts, policy: Policy, event: Event) -> Step:
    number = state.number - event.back
    match event.kind:
        case "sent":
            return sent(state, policy, MIDDLE)
        case "nobody":
            return nobody(state, policy, number, MIDDLE)
        case "cut":
            return cut(state, policy, "cut", MIDDLE)
        case _:
            assert event.error is not None
            return refused(state, policy, number, event.error, MIDDLE)


@pytest.mark.parametrize(
    "policy", [ASK, STORED, RESULT, READ], ids=["ask", "stored", "result", "read"]
)
def test_every_run_of_four_events_keeps_the_rules(policy: Policy) -> None:
    """The reference says in its own words which attempts are open."""
    first = ATTACHED if policy.stored else Attempts()
    for run in itertools.product(EVENTS, repeat=3):
        state, unanswered = state_of(sent(first, policy, MIDDLE)), {1}
        for event in run:
            number = state.number - event.back
            if number < 1:
                break
            if event.kind == "sent":
                unanswered.add(state.number + 1)
            elif event.kind == "nobody" or (
                event.error is not None
                and not event.error.may_have_taken_effect
                and type(event.error) not in HARMLESS
            ):
                unanswered.discard(number)
            state, action = apply(state, policy, event)
            unsure = {
                Effect.COMMAND: bool(unanswered) or policy.stored,
                Effect.RESULT: True,
                Effect.NONE: False,
            }[policy.effect]
            assert may(state, policy) is unsure, run
            over = expired(state, policy, "account", 1.0)
            assert over.may_have_taken_effect is unsure, run
            if isinstance(action, Repeat):
                assert 0 < action.after_s <= LONGEST_S * 1.1, run
            elif isinstance(action, Fail):
                assert event.back == 0, run
                if policy.effect is not Effect.RESULT:
                    assert action.error.may_have_taken_effect is unsure, run
                break


@pytest.mark.parametrize("standing", list(Standing))
def test_every_standing_has_an_error_at_the_deadline(standing: Standing) -> None:
    error = Suspended() if standing is Standing.SUSPENDED else RpcClientError(cause="x")
    over = expired(Attempts(standing=standing, error=error), ASK, "account", 2.0)
    assert over.reason.tag in {r.tag for r in REASONS}
    assert not over.may_have_taken_effect


# -- storing a tell ---------------------------------------------------------------------------
def publishes(*answers: PublishAnswer) -> list[object]:
    state, actions = Publishes(), list[object]()
    for answer in answers:
        state, action = published(state, ASK, answer, "account", 1.0)
        actions.append(action)
    return actions


def test_a_stored_tell_gives_its_sequence() -> None:
    assert publishes(Appended(7)) == [7]
    assert publishes(NoAck("lost"), Full(), Appended(8))[-1] == 8


def test_an_unacknowledged_tell_is_sent_until_the_time_is_up() -> None:
    """A stream whose leader died has none for up to eight seconds."""
    actions = publishes(*[NoAck("lost")] * 100)
    assert actions[:3] == [Repeat(0.05), Repeat(0.05 * 1.5), Repeat(0.05 * 1.5**2)]
    assert actions[-1] == Repeat(NO_LEADER_S)
    late = unpublished(Publishes(unsure=True, why="lost"), 3.0)
    assert late == SendTimeout(after_s=3.0, cause="lost", may_have_taken_effect=True)


def test_who_was_not_heard_may_be_refused_as_often_as_others() -> None:
    unheard = [NoAck("lost")] * 5
    assert publishes(*unheard, Full(), Full())[-2:] == [Repeat(0.05), Repeat(0.05)]


def test_a_full_mailbox_is_tried_three_times() -> None:
    sure, unsure = (MailboxFull(may_have_taken_effect=m) for m in (False, True))
    assert publishes(Full(), Full(), Full()) == [Repeat(0.05), Repeat(0.05), Fail(sure)]
    assert publishes(Full(), NoAck("lost"), Full(), Full())[-1] == Fail(unsure)


def test_a_type_without_a_stream_is_told_soon() -> None:
    sure, unsure = (
        RunnerNotRegistered(entity="account", may_have_taken_effect=m) for m in (False, True)
    )
    nowhere = [NoStream()] * ASK.transient.attempts
    assert publishes(*nowhere)[-1] == Fail(sure)
    assert publishes(NoAck("lost"), *nowhere)[-1] == Fail(unsure)
    assert all(isinstance(action, Repeat) for action in publishes(*nowhere)[:-1])


def test_a_stream_that_is_known_is_waited_for() -> None:
    state = Publishes()
    for _ in range(100):
        state, action = published(state, ASK, NoStream(), "account", 1.0, hosted=True)
        assert isinstance(action, Repeat)
        assert action.after_s <= NO_LEADER_S
    assert isinstance(unpublished(state, 3.0), SendTimeout)


def test_another_refusal_is_a_persistence_error() -> None:
    cause = "the command stream refused it: maximum bytes exceeded (10077)"
    for answers, unsure in (([], False), ([NoAck("lost")], True)):
        told = publishes(*answers, Refused(10077, "maximum bytes exceeded"))[-1]
        assert told == Fail(PersistenceError(cause=cause, may_have_taken_effect=unsure))


def test_the_errors_that_end_a_call_cover_all_that_is_left() -> None:
    assert SerializationError in FINAL
    assert len(FINAL) == 7
