"""Metrics: how they are rendered, and that the dashboard and the alerts name those that exist."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from perdure import Suspended
from perdure.deploy.cli.hosting import hosting
from perdure.deploy.look import Look
from perdure.deploy.metrics import FAMILIES, Metrics
from perdure.deploy.readiness import CHECKS, Check
from perdure.deploy.server import EmbeddedServer
from perdure.durable.counts import Counts, Result, Way

from ...support.server import PATIENCE_S, settings_for
from .booking import Book, Trip, hotel, trip
from .commands import plain_client
from .counter import Add, Counter, GetTotal, Take, TooFew, counter
from .probing import free_ports, until_probe
from .promql import grouped, parsed, selectors
from .told import told, told_type

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
DASHBOARD = DEPLOY / "grafana" / "perdure.json"
ALERTS = DEPLOY / "prometheus" / "alerts.yaml"
OF_SCRAPE = {"job", "instance"}
"""Labels that Prometheus gives to whatever it scrapes."""
SELDOM = {
    "perdure_singletons": "there is none",
    "perdure_terms_ended_total": "no term ended",
}
"""Metrics that a small load doesn't bring about, and why. Neither is in dashboard or alerts."""
VALUES = {"check": set(CHECKS), "result": set(get_args(Result)), "way": set(get_args(Way))}


def scraped(text: str) -> dict[str, set[str]]:
    """The series of a scrape by name, with the labels that any of them has."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def expressions() -> Iterator[tuple[str, str]]:
    """Each expression of the dashboard and of the alerts, with where it is."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", ()):
            yield f"panel {panel['title']}", target["expr"].replace("$__rate_interval", "5m")
    for rule in rules():
        yield rule["alert"], rule["expr"]


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    return list(group["rules"])


async def test_dashboard_and_alerts_name_what_a_real_runner_exports(
    nats_server: EmbeddedServer, namespace: str
) -> None:
    port = free_ports(1)
    settings = settings_for(nats_server, namespace, health_port=port)
    async with hosting([counter, trip, hotel], settings, ends=False, health=True) as cluster:
        a = cluster.at(Counter, "a")
        for _ in range(2):
            assert await a.ask(Add(1), key="k-1") == 1
        with pytest.raises(TooFew):
            await a.ask(Take(5))
        assert await a.query(GetTotal()) == 1
        with pytest.raises(Suspended):
            await cluster.at(Trip, "t").ask(Book(), key="b", on_suspend="raise")
        client = await plain_client(nats_server.url)
        await client.publish(f"{namespace}.to.counter.a", b'{"type": "unknown"}')
        await client.publish(f"{namespace}.to.counter.a", b'{"type": "add", "n": 1}')
        wanted = (
            'perdure_dead_letters_total{type="counter"} 1.0',
            'perdure_commands_total{result="reply",tag="",type="counter",way="tell"} 1.0',
            "perdure_timer_lateness_seconds_count 1.0",
            'perdure_flows_open{type="trip"} 1.0',
        )
        got = await until_probe(
            port, "/metrics", lambda got: all(line in got.text for line in wanted), PATIENCE_S
        )
        await client.close()
    for line in (
        'perdure_commands_total{result="repeat",tag="",type="counter",way="ask"} 1.0',
        'perdure_commands_total{result="failure",tag="too_few",type="counter",way="ask"} 1.0',
        'perdure_commands_total{result="dead",tag="malformed",type="counter",way="tell"} 1.0',
        'perdure_commands_total{result="suspended",tag="",type="trip",way="tell"} 1.0',
        'perdure_commands_total{result="reply",tag="",type="hotel",way="tell"} 1.0',
        'perdure_ledger_hits_total{type="counter",way="ask"} 1.0',
        'perdure_command_seconds_count{type="counter",way="query"} 1.0',
        'perdure_activations_total{type="counter"} 1.0',
        "perdure_ready 1.0",
    ):
        assert f"\n{line}\n" in got.text
    assert all(f'id="{id}"' not in got.text for id in ("a", "t", "h", "k-1"))
    found = scraped(got.text)
    for where, expression in expressions():
        tree = parsed(expression)
        named = selectors(tree)
        assert named, where
        for series, matched in named:
            assert series in found, (where, series)
            assert set(matched) <= found[series] | OF_SCRAPE, (where, series)
            for label, value in matched.items():
                assert label not in VALUES or set(value.split("|")) <= VALUES[label], where
        labels = set[str]().union(*(found[series] for series, _ in named))
        assert grouped(tree) <= labels | OF_SCRAPE, where
    ends = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
    for family in FAMILIES:
        if family.name in SELDOM:
            continue
        for end in ends[family.kind]:
            more = {"le"} if end == "_bucket" else set[str]()
            assert found[family.name + end] == set(family.labels) | more


def test_alert_rules_are_whole() -> None:
    """What Prometheus asks of a rule, and what we do: a runbook with a command to type."""
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)
    for rule in rules():
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"Perdure[A-Za-z]+", rule["alert"])
        assert re.fullmatch(r"[0-9]+[smh]", rule.get("for", "0s"))
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "runbook"}
        typed = re.search(r"type: perdure ([a-z]+)", rule["annotations"]["runbook"])
        assert typed is not None, rule["alert"]
        assert (DEPLOY / "cli" / f"{typed[1]}.py").exists(), typed[0]
        tree = parsed(rule["expr"])
        matched = {label for _, labels in selectors(tree) for label in labels}
        known = OF_SCRAPE | {"type"} | matched
        texts = " ".join(rule["annotations"].values())
        assert set(re.findall(r"\$labels\.([a-z_]+)", texts)) <= known


def test_shards_are_counted_in_each_job() -> None:
    """Of one type for all jobs, those of a job would make up for those that another lacks."""
    found = [
        (where, set(labels.replace(" ", "").split(",")))
        for where, expression in expressions()
        if {"perdure_shards", "perdure_shards_owned"}
        <= {series for series, _ in selectors(parsed(expression))}
        for labels in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression)
    ]
    assert len(found) >= 4
    assert [where for where, labels in found if labels != {"job", "type"}] == []


def test_alert_rules_do_what_they_say() -> None:
    """On made-up series, by Prometheus's own tool, where it is installed."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool isn't installed: it is in Debian's package prometheus")
    tests = [promtool, "test", "rules", str(ALERTS.with_name("alerts_test.yaml"))]
    done = subprocess.run(tests, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_is_whole() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    panels = dashboard["panels"]
    ids = [panel["id"] for panel in panels]
    assert len(set(ids)) == len(ids)
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    text = DASHBOARD.read_text()
    used = set(re.findall(r"\$\{?([a-z_]+)", text)) - {"__rate_interval"}
    assert used <= variables
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["type"] == "row" or (panel["description"] and panel["targets"])
    assert {x for x, _ in taken} == set(range(24))


# -- rendering ----------------------------------------------------------------------------------
def rendered(look: Look, accept: str = "") -> dict[str, float]:
    content_type, text = Metrics(lambda: look).render(accept)
    assert content_type.startswith("text/plain")
    return {
        f"{sample.name}{json.dumps(sample.labels, sort_keys=True)}": sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
        if sample.name.startswith("perdure_")
    }


def test_without_a_runner_there_is_little_to_tell() -> None:
    found = rendered(Look(None, (Check("loop", True), Check("hosting", False, "no"))))
    assert found.pop("perdure_ready{}") == 0
    assert found.pop('perdure_check{"check": "loop"}') == 1
    assert found.pop('perdure_check{"check": "hosting"}') == 0
    (rest,) = found
    assert rest.startswith("perdure_build_info{")


def test_what_is_counted_is_rendered() -> None:
    counts = Counts()
    for length_s in (0.0001, 0.003, 0.003, 60.0):
        counts.times["ask"].add(length_s)
    counts.answered("ask", "repeat")
    counts.answered("tell", "dead", "poison")
    counts.answered("tell", "dead", "defect")
    counts.end("gap")
    type = told_type(0, counts=msgspec.to_builtins(counts.told(9, (0, 1, 2))))
    found = rendered(Look(told("r", type, since=5000), ()))
    at = 'perdure_command_seconds_bucket{"le": "%s", "type": "counter", "way": "ask"}'
    assert [found[at % le] for le in ("0.00025", "0.002", "0.004", "32.768", "+Inf")] == (
        [1, 1, 3, 3, 4]
    )
    of = '{"type": "counter", "way": "ask"}'
    assert found[f"perdure_command_seconds_sum{of}"] == pytest.approx(60.0061)
    assert found[f"perdure_ledger_hits_total{of}"] == 1
    assert found['perdure_dead_letters_total{"type": "counter"}'] == 2
    assert found['perdure_delivery_gaps_total{"type": "counter"}'] == 1
    assert found['perdure_terms_ended_total{"reason": "gap", "type": "counter"}'] == 1
    assert found['perdure_batch_commits_bucket{"le": "2", "type": "counter"}'] == 1
    assert found['perdure_batch_commits_bucket{"le": "256", "type": "counter"}'] == 3
    assert found['perdure_batch_commits_sum{"type": "counter"}'] == 9
    assert found["perdure_runner_start_time_seconds{}"] == 5
    assert "perdure_connected{}" not in found  # in memory
