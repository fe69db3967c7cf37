"""Whether histories of concurrent clients are linearizable, and keep the other promises.

The entity is the journal: a list to which each op is appended once. Its log gives the order of the
ops, so nothing has to be searched for: what is left is whether that order, the replies and the
reads agree with real time, in O(n log n). The rules, each with the kind of its violations:

- the log is what the model makes of its ops, each at most once (`wrong outcome`, `doubled`), and
  each was sent to this entity (`out of nowhere`), under its key (`another key`);
- what succeeded is in it, tells included (`lost`); what had for certain no effect isn't (`took
  effect`); every answer to an op is the recorded one (`another reply`);
- an op that completed before another began comes before it (`order`). It takes effect after the
  first call that may have caused it began, and before the first answer came. One of unknown
  outcome may be there or not, once, also much later;
- a fresh query shows all that completed before it began, and nothing that began after it ended,
  and so for two of them (`stale read`, `read from the future`, `reads go back`); a query that
  isn't fresh shows what its client has seen, or something newer (`behind its client`);
- each state that was shown is one that was (`never was`);
- one client's ops, each sent after the success of the one before, are in that order, whichever way
  they went (`client order`); tells are in the order in which the stream has them, and was told
  that it has them (`tell order`).

Nothing of perdure is imported: what is checked must not check itself. Times are nanoseconds of one
clock, which all processes of a machine share.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Literal, TypeAlias

from msgspec import Struct

Way: TypeAlias = Literal["ask", "tell", "result", "query", "fresh"]
Result: TypeAlias = Literal["ok", "none", "unknown"]
"""`none`: for certain without effect. `unknown`: may have had one, or may still get it."""

MODULUS = 1_000_003
NEVER = 2**63
"""After all times."""


class Seen(Struct, frozen=True):
    """What an answer shows: how long the list is, its hash, and whether the op was declined."""

    n: int = 0
    digest: int = 0
    declined: bool = False


class Call(Struct, frozen=True):
    """One call, as its client saw it. A client's calls never overlap."""

    client: str
    entity: str
    way: Way
    begin: int
    end: int
    result: Result
    op: int = 0  # what it appends; unique among all, the same in each repetition; of queries 0
    key: str | None = None  # the op's key, if its client gave one
    seen: Seen | None = None  # the answer to an ask, a result or a query
    since: int = 0  # when the first of the tries began that this one belongs to
    error: str = ""


class Recorded(Struct, frozen=True):
    """One outcome in an entity's log."""

    op: int
    name: str
    seen: Seen
    place: tuple[int, int, int] | None = None  # of a tell: where the command stream had it


class Item(Struct, frozen=True):
    """Something with a place in the order, and the times between which it happened."""

    group: int
    begin: int
    end: int
    what: str
    read: bool = False


def check(calls: Iterable[Call], logs: Mapping[str, Sequence[Recorded]]) -> list[str]:
    """Everything that is wrong, one line each, which begins with its kind."""
    by_entity: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        by_entity[call.entity].append(call)
    found: list[str] = []
    for entity in sorted(by_entity.keys() | logs.keys()):
        history = History(by_entity.get(entity, []), logs.get(entity, ()))
        found += [f"{violation} [{entity}]" for violation in history.violations()]
    return found


def kinds(found: Iterable[str]) -> set[str]:
    """The kinds of some violations."""
    return {text.partition(":")[0] for text in found}


class History:
    """One entity: its calls, and its log."""

    def __init__(self, calls: Iterable[Call], log: Sequence[Recorded]) -> None:
        self._calls = sorted(calls, key=lambda call: call.begin)
        self._log = log
        self._position = {recorded.op: n for n, recorded in reversed(list(enumerate(log)))}
        self._by_op: dict[int, list[Call]] = defaultdict(list)
        for call in self._calls:
            if call.way in ("ask", "tell", "result"):
                self._by_op[call.op].append(call)
        self._states = _states(log)
        self._times = {op: _times(calls) for op, calls in self._by_op.items()}

    def violations(self) -> Iterator[str]:
        """Everything that is wrong with it."""
        yield from self._model()
        for op, calls in self._by_op.items():
            yield from self._op(op, calls)
        yield from self._log_order()
        yield from self._real_time()
        yield from self._cached_reads()
        yield from self._client_order()
        yield from self._tell_order()

    # -- what the log says --------------------------------------------------------------------
    def _model(self) -> Iterator[str]:
        state, done = Seen(), set[int]()
        for recorded in self._log:
            op = recorded.op
            if op in done:
                yield f"doubled: op {op} is in the log twice"
            done.add(op)
            expected = outcome(state, op)
            if recorded.seen != expected:
                yield f"wrong outcome: op {op} has {recorded.seen}, not {expected}"
            if not expected.declined:
                state = expected
            if op not in self._by_op:
                yield f"out of nowhere: op {op} is in the log, but nobody sent it here"

    # -- what the callers heard ---------------------------------------------------------------
    def _op(self, op: int, calls: list[Call]) -> Iterator[str]:
        position = self._position.get(op)
        answers = {call.seen for call in calls if call.seen is not None}
        if len(answers) > 1:
            yield f"another reply: op {op} got {sorted(map(str, answers))}"
        if position is None:
            heard = [call for call in calls if call.result == "ok"]
            if heard:
                yield f"lost: {_shown(heard[0])} isn't in the log"
            return
        recorded = self._log[position]
        if answers and answers != {recorded.seen}:
            yield f"another reply: op {op} got {answers}, the log has {recorded.seen}"
        if not any(_may_cause(call) for call in calls):
            yield f"took effect: op {op} is in the log, but no call of it may have had an effect"
        begin, end = self._times[op]
        if end < begin:
            yield f"order: op {op} was answered {(begin - end) / 1e6:.3f} ms before it was sent"
        key = next((call.key for call in calls if call.key is not None), None)
        if key is not None and recorded.name != key:
            yield f"another key: op {op} was sent as {key}, and is recorded as {recorded.name}"

    # -- the order ----------------------------------------------------------------------------
    def _log_order(self) -> Iterator[str]:
        """The log's own order respects real time."""
        items = [
            Item(n, *self._times.get(recorded.op, (0, NEVER)), f"op {recorded.op}")
            for n, recorded in enumerate(self._log)
        ]
        yield from _against_time(items)

    def _real_time(self) -> Iterator[str]:
        """Fresh reads have a place among the ops.

        Between two accepted ops those that leave the list alone may change places: reads, and
        declined ops. (Their order among themselves is `_log_order`'s.)
        """
        items: list[Item] = []
        for recorded in self._log:
            group = 2 * recorded.seen.n - (not recorded.seen.declined)
            times = self._times.get(recorded.op, (0, NEVER))
            items.append(Item(group, *times, f"op {recorded.op}"))
        for call in self._calls:
            if call.way == "fresh" and call.seen is not None:
                yield from self._was(call)
                what = f"{_shown(call)} of length {call.seen.n}"
                items.append(Item(2 * call.seen.n, call.begin, call.end, what, read=True))
        items.sort(key=lambda item: item.group)
        yield from (text for text in _against_time(items) if not text.startswith("order"))

    def _was(self, call: Call) -> Iterator[str]:
        assert call.seen is not None
        if self._states.get(call.seen.n) != call.seen.digest:
            yield f"never was: {_shown(call)} shows {call.seen}"

    def _cached_reads(self) -> Iterator[str]:
        """Reads that aren't fresh: not from the future, and not behind what their client saw."""
        newest, began = 0, [0]  # by length: when the last of the ops up to it began
        for recorded in self._log:
            if not recorded.seen.declined:
                newest = max(newest, self._times.get(recorded.op, (0, 0))[0])
                began.append(newest)
        seen: dict[str, int] = defaultdict(int)
        for call in self._calls:  # a client's calls don't overlap, so this is their order
            if call.seen is None:
                continue
            n = call.seen.n
            if call.way == "query":
                yield from self._was(call)
                if n < len(began) and began[n] > call.end:
                    yield f"read from the future: {_shown(call)} of length {n}"
                if n < seen[call.client]:
                    yield f"behind its client: {_shown(call)}: {n} after {seen[call.client]}"
            seen[call.client] = max(seen[call.client], n)

    def _client_order(self) -> Iterator[str]:
        newest: dict[str, tuple[int, Call]] = {}
        for call in self._calls:
            position = self._position.get(call.op)
            if call.way not in ("ask", "tell", "result") or position is None:
                continue
            before = newest.get(call.client)
            first = call is self._by_op[call.op][0]
            if first and call.way != "result" and before is not None and position < before[0]:
                yield f"client order: {_shown(call)} comes before {_shown(before[1])}"
            if call.result == "ok" and (before is None or position > before[0]):
                newest[call.client] = position, call

    def _tell_order(self) -> Iterator[str]:
        newest = (0, 0, 0)
        items: list[Item] = []
        for n, recorded in enumerate(self._log):
            if recorded.place is None:
                continue
            if recorded.place <= newest:
                yield f"tell order: op {recorded.op} at {recorded.place} comes after {newest}"
            newest = max(newest, recorded.place)
            calls = self._by_op.get(recorded.op, [])
            if calls and all(call.way != "ask" for call in calls):  # no copy by another way
                ends = [call.end for call in calls if call.way == "tell" and call.result == "ok"]
                begin = self._times[recorded.op][0]
                items.append(Item(n, begin, min(ends, default=NEVER), f"tell of {recorded.op}"))
        yield from (f"tell {text}" for text in _against_time(items))


def outcome(state: Seen, op: int) -> Seen:
    """What the journal makes of an op."""
    if (op + state.n) % 7 == 0:
        return Seen(state.n, state.digest, declined=True)
    return Seen(state.n + 1, (state.digest * 31 + op) % MODULUS)


def _states(log: Sequence[Recorded]) -> dict[int, int]:
    """The hash at each length that the list had."""
    return {0: 0} | {r.seen.n: r.seen.digest for r in log if not r.seen.declined}


def _times(calls: list[Call]) -> tuple[int, int]:
    """Between which times an op took effect, if it did."""
    begin = min((call.begin for call in calls if _may_cause(call)), default=0)
    answered = (call.end for call in calls if call.way != "tell" and call.result == "ok")
    return begin, min(answered, default=NEVER)


def _may_cause(call: Call) -> bool:
    return call.way in ("ask", "tell") and call.result != "none"


def _against_time(items: list[Item]) -> Iterator[str]:
    """Items in their order, of which one ended before one of an earlier group began."""
    latest: dict[bool, Item] = {}  # of the groups before, the op and the read that began last
    for _, group in groupby(items, key=lambda item: item.group):
        together = list(group)
        for item in together:
            for last in latest.values():
                if item.end < last.begin:
                    late_ms = (last.begin - item.end) / 1e6
                    yield (
                        f"{_kind(last, item)}: {item.what} comes after {last.what}, "
                        f"which began {late_ms:.3f} ms after its end"
                    )
        for item in together:
            if item.read not in latest or item.begin > latest[item.read].begin:
                latest[item.read] = item


def _kind(earlier: Item, later: Item) -> str:
    if earlier.read:
        return "reads go back" if later.read else "stale read"
    return "read from the future" if later.read else "order"


def _shown(call: Call) -> str:
    what = f" of op {call.op}" if call.op else ""
    return f"{call.way}{what} by {call.client}"
