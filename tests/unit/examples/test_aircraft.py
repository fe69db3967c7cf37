"""The rules of the flights example, each by a few events and a command."""

from aircraft import (
    Aircraft,
    AircraftEvent,
    Arrive,
    Arrived,
    Cancel,
    Cancelled,
    Depart,
    Departed,
    EndedElsewhere,
    Flight,
    GetLogbook,
    InTheAir,
    Logbook,
    NotInTheAir,
    aircraft,
    logbook,
)
from hypothesis import given as forall
from hypothesis import strategies as st

from perdure import given

OUT = Departed("out", "SFO", 2565)
BACK = Departed("back", "JFK", 2565)


def test_departing_counts_a_flight_and_no_miles() -> None:
    given(aircraft).when(Depart("out", "SFO", 2565)).accepts(1, OUT)
    assert given(aircraft, OUT).state == Aircraft(flights=1, in_the_air=Flight("out", 2565))


def test_miles_count_on_arrival() -> None:
    given(aircraft, OUT).when(Arrive("out")).accepts(2565, Arrived("out", 2565))
    there: list[AircraftEvent] = [OUT, Arrived("out", 2565)]
    assert given(aircraft, *there).state == Aircraft(flights=1, arrived=1, miles=2565)
    given(aircraft, *there, BACK).when(Arrive("back")).accepts(5130, Arrived("back", 2565))


def test_cancelling_counts_a_flight() -> None:
    given(aircraft).when(Cancel("out")).accepts(1, Cancelled("out"))
    assert given(aircraft, Cancelled("out")).state == Aircraft(flights=1, cancelled=1)


def test_another_flight_may_be_cancelled_while_one_is_in_the_air() -> None:
    given(aircraft, OUT).when(Cancel("back")).accepts(1, Cancelled("back"))
    assert given(aircraft, OUT, Cancelled("back")).state.in_the_air == Flight("out", 2565)


def test_what_is_in_the_air_can_neither_depart_nor_be_cancelled() -> None:
    given(aircraft, OUT).when(Depart("out", "SFO", 2565)).rejects(InTheAir("out"))
    given(aircraft, OUT).when(Cancel("out")).rejects(InTheAir("out"))


def test_what_is_not_in_the_air_cannot_arrive() -> None:
    given(aircraft).when(Arrive("out")).rejects(NotInTheAir("out"))
    given(aircraft, BACK).when(Arrive("out")).rejects(NotInTheAir("out"))
    given(aircraft, OUT, Arrived("out", 2565)).when(Arrive("out")).rejects(NotInTheAir("out"))


def test_a_flight_that_never_arrived_ended_elsewhere_when_the_next_departs() -> None:
    given(aircraft, OUT).when(Depart("back", "JFK", 2565)).accepts(2, EndedElsewhere("out"), BACK)
    after = given(aircraft, OUT, EndedElsewhere("out"), BACK)
    assert after.state == Aircraft(flights=2, elsewhere=1, in_the_air=Flight("back", 2565))
    after.when(Arrive("out")).rejects(NotInTheAir("out"))
    after.when(Arrive("back")).accepts(2565, Arrived("back", 2565))


def test_the_logbook_counts_what_never_arrived_wherever_it_is() -> None:
    assert given(aircraft).query(GetLogbook()) == Logbook(0, 0, 0, 0, 0)
    events: list[AircraftEvent] = [OUT, Arrived("out", 2565), BACK, EndedElsewhere("back")]
    events += [Departed("out2", "SFO", 2565), Cancelled("back2")]
    told = given(aircraft, *events).query(GetLogbook())
    assert told == Logbook(flights=4, arrived=1, cancelled=1, open=2, miles=2565)


NAMES = st.sampled_from(["a", "b", "c"])
COMMANDS = st.one_of(
    st.builds(Depart, NAMES, st.just("SFO"), st.integers(0, 5_000)),
    st.builds(Arrive, NAMES),
    st.builds(Cancel, NAMES),
)


@forall(st.lists(COMMANDS, max_size=40))
def test_no_flight_goes_missing_whatever_comes(commands: list[Depart | Arrive | Cancel]) -> None:
    state = aircraft.initial
    for command in commands:
        for event in aircraft.decide(state, command).events:
            state = aircraft.evolve(state, event)
        told = logbook(state)
        assert told.flights == told.arrived + told.cancelled + told.open
        assert (state.miles > 0) <= (state.arrived > 0)
