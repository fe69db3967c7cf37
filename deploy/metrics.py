"""Metrics: what a runner tells of itself, as Prometheus reads it. Needs the extra `metrics`.

A collector over the statistics that are there (durable/stats.py): nothing is counted a second
time, and nothing at all is kept between two scrapes. `FAMILIES` is the list of all metrics, which
docs/observability.md repeats; a test holds the two together.

**Cardinality.** No label has an entity's id, a key or anything else that a caller can choose. The
labels are entity types, ways, results, tags (declared failures, errors, dead-letter reasons),
reasons, states and checks: all from code. Of one type there are at most 256 different ways,
results and tags (`durable.counts.SERIES`).
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from itertools import accumulate
from typing import Literal, NamedTuple, TypeAlias

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from ..durable.counts import BOUNDS_S, SIZES, TimesTold
from ..durable.stats import RunnerStats, TypeStats
from .look import Look

Kind: TypeAlias = Literal["counter", "gauge", "histogram"]


class Family(NamedTuple):
    """One metric."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


OF_PROCESS = (
    Family("perdure_build_info", "gauge", "Always 1", ("version", "python", "nats_py")),
    Family("perdure_ready", "gauge", "1 if /readyz says 200"),
    Family("perdure_check", "gauge", "1 if this check of /readyz is passed", ("check",)),
)
"""Of each process, also before there is a runner."""

OF_RUNNER = (
    Family("perdure_runner_info", "gauge", "Always 1", ("runner", "host")),
    Family("perdure_runner_start_time_seconds", "gauge", "When it started, Unix time"),
    Family("perdure_runners_seen", "gauge", "Runners that it knows, itself included"),
    Family("perdure_draining", "gauge", "1 while it leaves"),
    Family(
        "perdure_heartbeat_age_seconds", "gauge", "Since its last stored heartbeat: the canary"
    ),
    Family("perdure_waiting_asks", "gauge", "Asks that wait in the runner"),
    Family("perdure_waiting_asks_limit", "gauge", "Beyond it asks are refused"),
    Family("perdure_waiting_bytes", "gauge", "Payloads of the asks that wait"),
    Family("perdure_waiting_bytes_limit", "gauge", "Beyond it asks are refused"),
    Family("perdure_cached_bytes", "gauge", "What entities in memory hold, about"),
    Family("perdure_cached_bytes_limit", "gauge", "Beyond it entities leave memory"),
    Family("perdure_evictions_total", "counter", "Entities that left memory for lack of room"),
    Family(
        "perdure_ledger_evictions_early_total",
        "counter",
        "Keys forgotten before dedup_window, for lack of room",
    ),
    Family(
        "perdure_timer_lateness_seconds",
        "histogram",
        "From a timer's time until it was stored as a tell, of timers that this runner relayed",
    ),
    Family("perdure_singletons", "gauge", "Singletons that it has", ("state",)),
    Family("perdure_connected", "gauge", "1 with a connection to a server"),
    Family("perdure_reconnects_total", "counter", "Connections that replaced a lost one"),
    Family("perdure_connection_waiting", "gauge", "Requests that wait for an answer"),
    Family("perdure_connection_in_flight_bytes", "gauge", "Publishes without acknowledgement"),
    Family("perdure_connection_outbox_bytes", "gauge", "Sends that wait for the socket"),
    Family("perdure_connection_dropped", "gauge", "Sends without room, on this connection"),
    Family("perdure_permission_violations", "gauge", "Permissions that its login lacked"),
)
"""Of the runner as a whole."""

OF_TYPE = (
    Family(
        "perdure_type_info",
        "gauge",
        "Always 1",
        ("type", "version", "required_label", "generation"),
    ),
    Family("perdure_shards", "gauge", "Shards of the type, wherever they are", ("type",)),
    Family("perdure_shards_owned", "gauge", "Shards that it has", ("type",)),
    Family("perdure_shards_assigned", "gauge", "Shards that it should have", ("type",)),
    Family("perdure_terms", "gauge", "Consumers of tells that run", ("type",)),
    Family("perdure_terms_begun_total", "counter", "Terms begun", ("type",)),
    Family(
        "perdure_terms_ended_total",
        "counter",
        "Terms that ended before they were given back",
        ("type", "reason"),
    ),
    Family(
        "perdure_delivery_gaps_total", "counter", "Terms that a lost delivery ended", ("type",)
    ),
    Family(
        "perdure_redeliveries_total", "counter", "Tells given again while they wait", ("type",)
    ),
    Family(
        "perdure_fencings_total", "counter", "Appends that another's commit forestalled", ("type",)
    ),
    Family("perdure_entities", "gauge", "Entities in memory", ("type",)),
    Family("perdure_entities_quarantined", "gauge", "Whose log can't be folded", ("type",)),
    Family("perdure_activations_total", "counter", "Entities folded into memory", ("type",)),
    Family("perdure_mailbox_commands", "gauge", "Commands in mailboxes", ("type", "way")),
    Family("perdure_mailbox_aside", "gauge", "Asks that wait for a tell", ("type",)),
    Family("perdure_mailbox_fullest", "gauge", "Commands in the fullest mailbox", ("type",)),
    Family("perdure_ledger_names", "gauge", "Names in ledgers in memory", ("type", "kind")),
    Family("perdure_ledger_hits_total", "counter", "Repeats that a ledger knew", ("type", "way")),
    Family(
        "perdure_commands_total",
        "counter",
        "Commands, queries and questions answered",
        ("type", "way", "result", "tag"),
    ),
    Family(
        "perdure_command_seconds",
        "histogram",
        "From taking a command or query to its answer; errors and flows aside",
        ("type", "way"),
    ),
    Family("perdure_dead_letters_total", "counter", "Tells that became dead letters", ("type",)),
    Family("perdure_flows_open", "gauge", "Open flows of entities in memory", ("type",)),
    Family("perdure_flows_parked", "gauge", "Of them, those that are parked", ("type",)),
    Family("perdure_flow_parkings_total", "counter", "Flows that were parked", ("type",)),
    Family("perdure_commits_total", "counter", "Commits appended", ("type", "how")),
    Family("perdure_batches_refused_total", "counter", "Batches refused as a whole", ("type",)),
    Family("perdure_batch_commits", "histogram", "Commits in a batch", ("type",)),
)
"""Of one entity type in the runner."""

FAMILIES: tuple[Family, ...] = (*OF_PROCESS, *OF_RUNNER, *OF_TYPE)


class Samples:
    """The metrics of one look, while they are made."""

    def __init__(self) -> None:
        self._metrics: dict[str, Metric] = {}
        for name, kind, help, labels in FAMILIES:
            of = {
                "counter": CounterMetricFamily,
                "gauge": GaugeMetricFamily,
                "histogram": HistogramMetricFamily,
            }[kind]
            self._metrics[name] = of(name.removesuffix("_total"), help, labels=labels)

    def __repr__(self) -> str:
        return f"Samples({len(self._metrics)} metrics)"

    def add(self, name: str, value: float, *labels: str) -> None:
        """One number."""
        metric = self._metrics[name]
        assert isinstance(metric, CounterMetricFamily | GaugeMetricFamily)
        metric.add_metric(labels, value)

    def spread(
        self, name: str, bounds: Iterable[float], counts: Sequence[int], sum: float, *labels: str
    ) -> None:
        """A histogram: a count for each bound, and perhaps one for what is beyond."""
        metric = self._metrics[name]
        assert isinstance(metric, HistogramMetricFamily)
        ends = [f"{bound:g}" for bound in bounds]
        found = [*counts, *[0] * (len(ends) + 1 - len(counts))]
        buckets = list(zip([*ends, "+Inf"], accumulate(found), strict=True))
        metric.add_metric(labels, buckets, sum)

    def times(self, name: str, times: TimesTold, *labels: str) -> None:
        """How long things took."""
        self.spread(name, BOUNDS_S, times.counts, times.sum_s, *labels)

    def filled(self) -> Iterator[Metric]:
        """Those that there is something of."""
        return (metric for metric in self._metrics.values() if metric.samples)


class RunnerCollector(Collector):
    """Looks at a runner whenever somebody scrapes."""

    def __init__(self, look: Callable[[], Look]) -> None:
        self._look = look

    def collect(self) -> Iterator[Metric]:
        """All metrics. Raises what `look` raises."""
        return metrics_of(self._look())


class Metrics:
    """A registry with what a runner tells and its process's own numbers."""

    def __init__(self, look: Callable[[], Look]) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._registry.register(_Undescribed(look))

    def render(self, accept: str) -> tuple[str, bytes]:
        """The content type and the text of a scrape, in the form that `accept` asks for.

        Raises what `look` raises.
        """
        encoder, content_type = choose_encoder(accept)
        return content_type, encoder(self._registry)


class _Undescribed(RunnerCollector):
    """Registered without a look: then there is nobody yet who would answer it."""

    def describe(self) -> list[Metric]:
        """Nothing: names can't clash in a registry of one's own."""
        return []


def metrics_of(look: Look) -> Iterator[Metric]:
    """One look as metrics."""
    samples = Samples()
    own = (version("perdure"), platform.python_version(), version("nats-py"))
    samples.add("perdure_build_info", 1, *own)
    samples.add("perdure_ready", all(check.ok for check in look.checks))
    for check in look.checks:
        samples.add("perdure_check", check.ok, check.name)
    if look.stats is not None:
        _runner(samples, look.stats)
        for type in look.stats.types:
            _type(samples, type)
            _commands(samples, type)
    return samples.filled()


def _runner(samples: Samples, stats: RunnerStats) -> None:
    add = samples.add
    add("perdure_runner_info", 1, stats.runner, stats.host)
    add("perdure_runner_start_time_seconds", stats.since / 1000)
    add("perdure_runners_seen", stats.sees)
    add("perdure_draining", stats.leaving)
    if stats.renewed_s is not None:
        add("perdure_heartbeat_age_seconds", stats.renewed_s)
    add("perdure_waiting_asks", stats.asks)
    add("perdure_waiting_asks_limit", stats.capacity)
    add("perdure_waiting_bytes", stats.bytes)
    add("perdure_waiting_bytes_limit", stats.bytes_capacity)
    add("perdure_cached_bytes", stats.cached)
    add("perdure_cached_bytes_limit", stats.cached_capacity)
    add("perdure_evictions_total", stats.evicted)
    add("perdure_ledger_evictions_early_total", stats.evicted_early)
    samples.times("perdure_timer_lateness_seconds", stats.lateness)
    for state, count in Counter(stats.singleton_states.values()).items():
        add("perdure_singletons", count, state)
    link = stats.connection
    if not link:  # in memory
        return
    add("perdure_connected", link["connected"])
    add("perdure_reconnects_total", max(0, link["links"] - 1))
    add("perdure_connection_waiting", link["waiting"])
    add("perdure_connection_in_flight_bytes", link["in_flight_bytes"])
    add("perdure_connection_outbox_bytes", link["outbox_bytes"])
    add("perdure_connection_dropped", link["dropped"])
    add("perdure_permission_violations", len(link["violations"]))


def _type(samples: Samples, type: TypeStats) -> None:
    add, name, counts = samples.add, type.entity, type.counts
    add("perdure_type_info", 1, name, type.version, type.label, str(type.generation))
    add("perdure_shards", type.shards, name)
    add("perdure_shards_owned", type.owned, name)
    add("perdure_shards_assigned", type.assigned, name)
    add("perdure_terms", type.terms, name)
    add("perdure_terms_begun_total", counts.terms, name)
    for reason, count in counts.ended.items():
        add("perdure_terms_ended_total", count, name, reason)
    add("perdure_delivery_gaps_total", counts.ended.get("gap", 0), name)
    add("perdure_redeliveries_total", counts.redelivered, name)
    add("perdure_fencings_total", counts.fenced, name)
    add("perdure_entities", type.entities, name)
    add("perdure_entities_quarantined", type.quarantined, name)
    add("perdure_activations_total", counts.activated, name)
    add("perdure_mailbox_commands", type.asks, name, "ask")
    add("perdure_mailbox_commands", type.tells, name, "tell")
    add("perdure_mailbox_aside", type.aside, name)
    add("perdure_mailbox_fullest", type.fullest, name)
    add("perdure_ledger_names", type.keys, name, "given")
    add("perdure_ledger_names", type.made, name, "made")
    add("perdure_flows_open", type.flows, name)
    add("perdure_flows_parked", type.parked, name)
    add("perdure_flow_parkings_total", counts.parked, name)
    add("perdure_commits_total", type.single, name, "single")
    add("perdure_commits_total", type.batched, name, "batched")
    add("perdure_batches_refused_total", type.refused, name)
    sizes, sent = counts.batch_sizes, counts.in_batches
    samples.spread("perdure_batch_commits", SIZES, sizes, sent, name)


def _commands(samples: Samples, type: TypeStats) -> None:
    hits = {"ask": 0, "tell": 0}
    dead = 0
    for told in type.counts.commands:
        labels = type.entity, told.way, told.result, told.tag
        samples.add("perdure_commands_total", told.count, *labels)
        if told.result == "repeat":
            hits[told.way] = hits.get(told.way, 0) + told.count
        elif told.result == "dead":
            dead += told.count
    for way, count in hits.items():
        samples.add("perdure_ledger_hits_total", count, type.entity, way)
    samples.add("perdure_dead_letters_total", dead, type.entity)
    for way, times in type.counts.times.items():
        samples.times("perdure_command_seconds", times, type.entity, way)
