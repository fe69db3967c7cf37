"""Wrong timers."""

from __future__ import annotations

from typing import Any

from perdure.entities.address import Address
from perdure.streams.memory.schedules import MemorySchedules
from perdure.streams.memory.timers import Relayer, Timers
from perdure.streams.port import Pending

from ..backend import TYPE
from .plant import Patch, nothing, noticed_by

_arm = Timers.arm
_attach = Timers.attach
_fire = Timers.fire
_pending = Timers.pending


@noticed_by("a_timer_fires_at_its_time_and_not_before", "the_far_future_is_no_reason_to_fire")
def a_timer_fires_at_once(patch: Patch) -> None:
    def arm(self: Timers, entity: str, token: str, timer: str, due_ms: int, data: bytes) -> None:
        _arm(self, entity, token, timer, self.now_ms(), data)

    patch.setattr(Timers, "arm", arm)


@noticed_by("what_is_due_already_fires_at_once")
def what_is_due_already_is_forgotten(patch: Patch) -> None:
    def arm(self: Timers, entity: str, token: str, timer: str, due_ms: int, data: bytes) -> None:
        if due_ms > self.now_ms():
            _arm(self, entity, token, timer, due_ms, data)

    patch.setattr(Timers, "arm", arm)


@noticed_by("a_disarmed_timer_never_fires")
def nothing_is_disarmed(patch: Patch) -> None:
    patch.setattr(Timers, "disarm", nothing)


@noticed_by("a_firing_waits_for_credit")
def credit_is_without_end(patch: Patch) -> None:
    def attach(self: Timers, relayer: Relayer) -> None:
        relayer.credit = 1_000
        _attach(self, relayer)

    patch.setattr(Timers, "attach", attach)


@noticed_by("each_firing_goes_to_one_of_those_who_relay")
def all_are_given_everything(patch: Patch) -> None:
    def give(self: Any) -> None:
        while self._due and any(relayer.credit > 0 for relayer in self._relayers):
            firing = self._due.popleft()
            for relayer in self._relayers:
                relayer.connection.post(relayer.on_firing, firing)

    patch.setattr(Timers, "_give", give)


@noticed_by("who_stopped_is_given_nothing")
def nobody_stops(patch: Patch) -> None:
    patch.setattr(Timers, "detach", nothing)


@noticed_by("without_a_connection_nothing_is_armed")
def a_lost_timer_is_confirmed(patch: Patch) -> None:
    async def arm(
        self: MemorySchedules, address: Address, timer: str, due_ms: int, data: bytes
    ) -> bool:
        return True

    patch.setattr(MemorySchedules, "arm", arm)


@noticed_by("those_that_wait_are_listed_in_the_order_of_their_arming")
def one_armed_anew_keeps_its_place(patch: Patch) -> None:
    def arm(self: Any, entity: str, token: str, timer: str, due_ms: int, data: bytes) -> None:
        before = self._armed.get((entity, token, timer))
        _arm(self, entity, token, timer, due_ms, data)
        if before is not None:
            self._armed[entity, token, timer] = before

    patch.setattr(Timers, "arm", arm)


@noticed_by("those_that_wait_are_listed_in_the_order_of_their_arming")
def a_listing_ends_with_its_first_page(patch: Patch) -> None:
    def pending(self: Timers, entity: str, after: int) -> list[Pending]:
        return [] if after else _pending(self, entity, after)

    patch.setattr(Timers, "pending", pending)


@noticed_by("one_that_has_fired_waits_no_more")
def what_has_fired_is_still_listed(patch: Patch) -> None:
    fired: list[Pending] = []

    def fire(self: Timers) -> None:
        before = _pending(self, TYPE, 0)
        _fire(self)
        fired.extend(one for one in before if one not in _pending(self, TYPE, 0))

    def pending(self: Timers, entity: str, after: int) -> list[Pending]:
        return [one for one in [*fired, *_pending(self, entity, after)] if one.place > after]

    patch.setattr(Timers, "fire", fire)
    patch.setattr(Timers, "pending", pending)
