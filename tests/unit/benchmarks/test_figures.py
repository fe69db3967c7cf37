"""The sums of the benchmarks, without running anything."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import msgspec
import pytest
from benchmarks import page
from benchmarks.chart import chart
from benchmarks.closed import Window, closed_loop, drawn, quantile
from benchmarks.cold import ACTIVATION, DIRECT_GET
from benchmarks.orders import Load
from benchmarks.profile import shares
from benchmarks.report import cells, number, time_ratio
from benchmarks.results import Cpu, Machine, Results, Row, Slice, p50, recorded
from benchmarks.scenarios import ENVIRONMENTS, points

MACHINE = Machine("Linux", "a processor", 2, "3.11", "2.15.1", "2.16.0", 0.0, 0.0)


def a_slice(rate: float, p50_ms: float = 1.0, errors: int = 0) -> Slice:
    cpu = Cpu(0.1, 0.2, 0.3)
    return Slice(rate, rate, p50_ms, 2 * p50_ms, completed=1000, cpu_s=cpu, errors=errors)


def row(contender: str, *rates: float, p50_ms: float = 1.0, errors: int = 0) -> Row:
    slices = [a_slice(rate, p50_ms, errors) for rate in rates]
    return Row("always", "ask", 256, contender, slices)


def results(*rows: Row) -> Results:
    return Results("2026-01-01T00:00:00+00:00", "abc", MACHINE, 1.0, 3, {}, {}, list(rows))


# -- the window that counts -------------------------------------------------------------------
def test_the_ramp_does_not_count() -> None:
    window = Window(Load("ask", 1, 10, seconds=1.0), 0.0)
    for now in (0.1, 0.2, 0.3, 0.8):
        window.ended(now - 0.1, now, well=True)
    window.ended(0.7, 1.3, well=True)
    assert window.over
    sample = window.sample({})
    assert sample.completed == 5
    assert sample.rate == pytest.approx(3 / 1.1)  # 0.3, 0.8 and 1.3 since 0.2
    assert sample.p50_ms == pytest.approx(100)
    assert sample.p99_ms == pytest.approx(600)


def test_a_slow_load_lasts_until_each_client_could_end_one() -> None:
    window = Window(Load("ask", 4, 10, seconds=0.1), 0.0)
    for second in range(1, 9):
        assert not window.over
        window.ended(second - 1.0, float(second), well=True)
    assert window.over
    assert window.sample({}).rate == pytest.approx(1.0)


def test_failures_end_a_load_and_count_for_nothing() -> None:
    window = Window(Load("ask", 1, 10, seconds=0.1), 0.0)
    for now in (0.3, 0.5):
        window.ended(0.0, now, well=False)
    assert window.over
    sample = window.sample({"Full": 2})
    assert (sample.completed, sample.rate, sample.errors) == (0, 0.0, {"Full": 2})


async def test_a_load_without_a_time_takes_each_entity_once() -> None:
    seen: list[str] = []

    async def call(id: str) -> None:
        seen.append(id)
        if id == "e-3":
            raise KeyError(id)

    sample = await closed_loop(Load("ask", 2, 4, first=2), call, (KeyError,))
    assert sorted(seen) == ["e-2", "e-3", "e-4", "e-5"]
    assert sample.completed == 3
    assert sample.errors == {"KeyError": 1}


def test_draws_are_the_same_for_all() -> None:
    load = Load("ask", 2, 50, seconds=1.0)
    first, second = drawn(load), drawn(load)
    ids = [next(first) for _ in range(500)]
    assert ids == [next(second) for _ in range(500)]
    assert set(ids) <= {f"e-{n}" for n in range(50)}
    assert len(set(ids)) > 40


def test_quantiles() -> None:
    ordered = [float(n) for n in range(100)]
    assert [quantile(ordered, part) for part in (0.0, 0.5, 0.99, 1.0)] == [0, 50, 99, 99]
    assert quantile([], 0.5) == 0


# -- what follows from slices -----------------------------------------------------------------
def test_ratios_are_of_the_same_round() -> None:
    """The machine was ten times slower in the last two rounds, for both."""
    mine, theirs = row("perdure", 50, 5, 4), row("raw", 100, 10, 10)
    assert mine.ratio(theirs, recorded) == 0.5
    assert mine.median(recorded) == 5
    assert mine.spread(recorded) == (4, 50)


def test_a_direct_get_is_that_of_the_same_rounds() -> None:
    rows = [
        row(f"{prefix}{name}", 1, p50_ms=p50_ms)
        for prefix, times in (("", (2.0, 8.0)), ("perdure x=1: ", (4.0, 8.0)))
        for name, p50_ms in zip((DIRECT_GET, ACTIVATION), times, strict=True)
    ]
    found = results(*rows)
    assert [time_ratio(found, one) for one in rows] == ["", "4.00", "", "2.00"]


def test_processor_time_is_of_all_slices() -> None:
    found = row("perdure", 1, 2)
    assert found.cpu_parts_ms == pytest.approx((0.1, 0.2, 0.3))
    assert found.cpu_ms == pytest.approx(0.6)


def test_a_row_shows_its_ratios() -> None:
    mine = row("perdure", 50, p50_ms=3.0, errors=1)
    found = results(mine, row("raw", 100, p50_ms=2.0), row("raw batched", 200))
    shown = cells(found, mine)
    assert shown[0] == "50.0"
    assert shown[-4:] == ["0.50", "0.25", "1.50", "1"]
    assert cells(found, found.rows[1])[-4:] == ["", "0.50", "", "0"]
    assert mine.ratio(found.rows[1], p50) == 1.5


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.123, "0.12"), (12.34, "12.3"), (123.4, "123"), (12_345.6, "12,346")],
)
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text


def test_results_survive_json() -> None:
    found = results(row("perdure", 1, 2), row("raw", 3))
    for one in (found, results()):
        assert msgspec.json.decode(one.json(), type=Results) == one


# -- what is measured -------------------------------------------------------------------------
def test_the_usual_points_have_every_kind_and_256_clients() -> None:
    for environment in ENVIRONMENTS[:2]:
        found = list(points(environment, None, None))
        assert {point.kind for point in found} == {"ask", "stream", "tell", "hot", "cold"}
        busiest = {point.kind for point in found if point.clients == 256}
        assert busiest == {"ask", "stream", "tell", "hot"}


def test_points_as_chosen() -> None:
    found = list(points(ENVIRONMENTS[2], ("tell", "hot"), (8,)))
    assert [(p.kind, p.way, p.clients) for p in found] == [("tell", "tell", 8), ("hot", "ask", 8)]


# -- what is shown ----------------------------------------------------------------------------
def test_the_chart_is_xml_with_a_bar_for_each() -> None:
    found = results(row("perdure", 50, 60), row("raw", 100, 90), row("perdure x=1", 70))
    root = ElementTree.fromstring(chart(found))
    texts = ["".join(text.itertext()) for text in root.iter() if text.tag.endswith("}text")]
    assert "one server, fsync each" in texts
    assert {"55.0", "95.0"} <= set(texts)
    assert "three servers, fsync each" not in texts


def test_profiles_are_added_up() -> None:
    folded = (
        "run (/x/python3.11/asyncio/runners.py:1);f (a.py:2);g (a.py:3) 6\n"
        "run (/x/python3.11/asyncio/runners.py:1);f (a.py:9) 3\n"
        "run (/x/python3.11/asyncio/runners.py:1) 1\n"
    )
    found = {name.split(" ")[0]: (share, alone) for name, share, alone in shares(folded)}
    assert found == {"run": (1.0, 0.1), "f": (0.9, 0.3), "g": (0.6, 0.6)}


def test_what_is_published_comes_from_the_json() -> None:
    kept = page.load(page.JSON)
    again = "publish again: python -m benchmarks.page"
    assert page.CHART.read_text() == chart(kept), again
    text = page.PAGE.read_text()
    assert page.filled(text, kept) == text, again


def test_a_page_without_a_place_is_refused() -> None:
    with pytest.raises(ValueError, match="no place"):
        page.filled("# A page\n", results())
