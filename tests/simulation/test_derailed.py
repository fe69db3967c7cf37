"""Bugs of flows on purpose: each is caught by the rule that it breaks, at a seed that is known."""

from __future__ import annotations

import pytest

from .checker import kinds
from .derailing import OF_FLOWS
from .planting import caught, planted
from .simulate import simulate

WITHIN = 60
"""Seeds within which each must be caught, where the code has moved on from the one below."""

CAUGHT = {
    "timers_are_armed_after_the_commit": (3, "flow forgotten"),
    "an_unconfirmed_timer_counts_as_armed": (6, "flow forgotten"),
    "a_timer_fires_as_often_as_it_is_said": (0, "recorded twice"),
    "a_firing_counts_before_it_is_due": (5, "timer early"),
    "a_firing_counts_by_its_name": (5, "timer early"),
    "a_firing_is_acknowledged_before_it_is_stored": (0, "flow forgotten"),
    "a_firing_that_was_not_stored_is_acknowledged": (0, "flow forgotten"),
    "a_deadline_is_forgotten": (0, "deadline forgotten"),
    "a_token_is_not_verified": (21, "given by nobody"),
    "a_token_of_an_earlier_flow_is_good": (9, "given by nobody"),
    "an_answer_to_an_earlier_question_is_good": (11, "another answer"),
    "an_answer_of_another_flow_is_good": (3, "another answer"),
    "the_last_value_counts": (2, "recorded twice"),
    "a_token_is_given_before_it_is_recorded": (0, "token given before it was recorded"),
    "the_key_of_a_question_can_be_guessed": (1, "unjust dead letter"),
    "a_question_has_a_new_key_each_time": (0, "executed twice"),
    "a_question_is_asked_once": (3, "flow forgotten"),
    "a_begun_turn_is_not_had": (1, "flow forgotten"),
    "what_a_step_gave_is_not_recorded": (0, "parked"),
    "a_step_has_a_new_key_each_time": (1, "a step has two keys"),
    "a_sleep_ends_with_the_next_turn": (0, "went on"),
    "an_end_and_its_events_are_two_commits": (0, "torn"),
    "a_segment_sees_the_present_state": (0, "a line saw another state"),
    "a_value_that_came_late_counts": (5, "another value than came in time"),
    "a_snapshot_forgets_open_flows": (0, "flow forgotten"),
    "an_exclusive_flow_lets_others_in": (0, "let in"),
    "what_a_flow_emits_is_not_in_memory": (0, "a line saw another state"),
    "a_cancellation_is_answered_and_forgotten": (2, "answered before it was recorded"),
    "a_cancelled_flow_goes_on": (0, "cancelled and not ended so, or the other way round"),
    "what_was_done_first_is_undone_first": (1, "undone otherwise"),
    "a_cancelled_flow_is_not_undone": (0, "undone otherwise"),
    "an_undo_that_fails_is_done": (9, "undone otherwise"),
    "what_was_parked_midway_stays_there": (3, "parked"),
    "what_is_parked_cannot_be_cancelled": (
        64,
        "cancelled and not ended so, or the other way round",
    ),
    "a_dead_letter_is_copied_after_the_commit_or_never": (73, "no copy of a dead letter"),
}
"""The first seed that caught it when this was written, and the rule."""


def test_every_bug_of_flows_has_its_seed() -> None:
    assert list(CAUGHT) == list(OF_FLOWS)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", CAUGHT)
def test_a_bug_of_flows_is_caught(name: str) -> None:
    first, rule = CAUGHT[name]
    with planted(name):
        for seed in (first, *range(WITHIN)):
            violations = simulate(seed, flows=True).violations
            if caught(violations) and rule in kinds(violations):
                return
    pytest.fail(f"not caught by {rule!r} in {WITHIN} seeds")
