"""Logging: one line a record, for people and for programs."""

from __future__ import annotations

import json
import logging
import sys
import threading

from perdure.deploy.logs import HumanFormatter, JsonFormatter, OfWorker, Unblocked


def record(**extra: object) -> logging.LogRecord:
    log = logging.getLogger("perdure.test")
    made = log.makeRecord(log.name, logging.WARNING, "f", 1, "took %d ms", (5,), None, extra=extra)
    made.created = 0.25
    return made


def test_json_is_one_line_with_the_extra() -> None:
    text = JsonFormatter().format(record(action="slow", entity="account\nx", odd={1, 2}.__class__))
    assert "\n" not in text
    assert json.loads(text) == {
        "time": "1970-01-01T00:00:00.250000Z",
        "level": "warning",
        "logger": "perdure.test",
        "message": "took 5 ms",
        "action": "slow",
        "entity": "account\nx",
        "odd": "<class 'set'>",
    }


def test_json_has_the_traceback() -> None:
    made = record()
    try:
        raise ValueError("x")
    except ValueError:
        made.exc_info = sys.exc_info()
    assert "ValueError: x" in json.loads(JsonFormatter().format(made))["traceback"]


def test_an_extra_never_hides_what_every_record_has() -> None:
    assert json.loads(JsonFormatter().format(record(level="high")))["level"] == "warning"


def test_people_see_the_extra_behind_the_text() -> None:
    text = HumanFormatter().format(record(action="slow", shard=3))
    assert text.endswith("WARNING perdure.test: took 5 ms action=slow shard=3")


def test_a_record_tells_its_worker_unless_it_tells_of_another() -> None:
    of_third = OfWorker(3)
    for made, worker in ((record(), 3), (record(worker=0), 0)):
        assert of_third.filter(made)
        assert json.loads(JsonFormatter().format(made))["worker"] == worker


class Stuck(logging.Handler):
    """Writes nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        assert self.go.wait(30)
        self.texts.append(record.getMessage())


def test_a_handler_that_waits_stops_nobody_and_drops_are_told() -> None:
    stuck = Stuck()
    handler = Unblocked(stuck, waiting=3)
    changing = ["first"]
    made = record()
    made.msg, made.args = "%s", (changing,)
    handler.handle(made)
    changing[0] = "later"
    for number in range(20):
        made = record()
        made.msg, made.args = "record %d", (number,)
        handler.handle(made)
    stuck.go.set()
    handler.flush()
    assert stuck.texts[0] == "['first']"
    assert 3 <= len(stuck.texts) <= 4  # one was in the thread's hand, or not yet
    last = record()
    handler.handle(last)
    handler.flush()
    dropped = 21 - len(stuck.texts[:-2])
    assert stuck.texts[-2:] == [
        f"{dropped} records were dropped: standard error was not read",
        "took 5 ms",
    ]
