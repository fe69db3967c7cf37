"""Policies about perdure and NATS themselves: settings, draining, storage, replicas, scaling."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import msgspec

from perdure import Settings

from .policies import HEALTH_PORT, Policy, each_container
from .rendering import Object, called, containers, of_kind, pod_of

NAMES = frozenset(field.name for field in msgspec.structs.fields(Settings))
SECRET = frozenset({"password", "token", "resume_secrets"})
"""Settings whose values are secrets themselves: from Secrets only."""
DRAIN_MARGIN_S = 10
"""How much longer than `drain_timeout` a runner's pod must have, in seconds: what isn't finished
is given away, its record in the members bucket is removed, and the connection is closed."""
UNITS = {"Mi": 2**20, "Gi": 2**30, "MB": 10**6, "GB": 10**9}


def environment(objects: list[Object], container: Object) -> dict[str, str]:
    """The literal variables of a container, its ConfigMaps' included."""
    configs = {item["metadata"]["name"]: item["data"] for item in of_kind(objects, "ConfigMap")}
    found: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        found |= configs.get(source.get("configMapRef", {}).get("name"), {})
    return found | {v["name"]: v["value"] for v in container.get("env", ()) if "value" in v}


def settings_of(objects: list[Object], container: Object) -> Settings:
    """The settings that a container of ours gets, but for its secrets.

    The defaults if a value is bad, which `settings_exist` tells.
    """
    try:
        return Settings.load(environ=environment(objects, container))
    except ValueError:
        return Settings()


def seconds(value: float | timedelta) -> float:
    """A duration of the settings, in seconds."""
    return value.total_seconds() if isinstance(value, timedelta) else value


def ours(objects: list[Object]) -> Iterator[tuple[str, Object, Object]]:
    """The containers that run perdure."""
    for name, container, workload in each_container(objects):
        if workload["metadata"]["name"] != "nats":
            yield name, container, workload


def settings_exist(objects: list[Object]) -> Iterator[str]:
    """Every PERDURE_ variable is a setting with a good value; secrets come from Secrets."""
    for name, container, _ in ours(objects):
        values = environment(objects, container)
        referred = {v["name"] for v in container.get("env", ()) if "valueFrom" in v}
        for variable in sorted({*values, *referred}):
            setting = variable.removeprefix("PERDURE_").lower()
            if not variable.startswith("PERDURE_") or setting not in NAMES:
                yield f"{name}: {variable} is no setting of perdure"
            if setting in SECRET and variable in values:
                yield f"{name}: {variable} is a secret in plain sight"
        try:
            Settings.load(environ=values)
        except ValueError as error:
            yield f"{name}: {error}"
        if not {"PERDURE_USER", "PERDURE_PASSWORD"} <= referred:
            yield f"{name} has no login"


def health_is_served(objects: list[Object]) -> Iterator[str]:
    """The runner's probes are perdure's paths, on the port that the setting names."""
    for name, container, workload in ours(objects):
        if workload["kind"] != "Deployment":
            continue
        told = environment(objects, container).get("PERDURE_HEALTH_PORT")
        ports = {port["name"]: port["containerPort"] for port in container.get("ports", ())}
        if ports != {"health": HEALTH_PORT} or told != str(HEALTH_PORT):
            yield f"{name}: port health is {ports.get('health')}, the setting says {told}"
        paths = {"startupProbe": "/livez", "readinessProbe": "/readyz", "livenessProbe": "/livez"}
        for kind, path in paths.items():
            if container.get(kind, {}).get("httpGet", {}).get("path") != path:
                yield f"{name}: {kind} doesn't ask {path}"
        probe = container.get("livenessProbe", {})
        patience = probe.get("periodSeconds", 10) * probe.get("failureThreshold", 3)
        if patience < 10 * seconds(settings_of(objects, container).frozen_after):
            yield f"{name} is killed after {patience} s, before the cluster has done its part"


def grace_is_enough(objects: list[Object]) -> Iterator[str]:
    """A pod has the time that its drain takes, and a hook before it."""
    for workload in of_kind(objects, "Deployment", "StatefulSet"):
        spec = pod_of(workload)["spec"]
        grace = spec.get("terminationGracePeriodSeconds", 30)
        if workload["metadata"]["name"] == "nats":
            needed = _seconds(_config(objects), "lame_duck_duration") + DRAIN_MARGIN_S
        else:
            (container,) = containers(workload)
            needed = seconds(settings_of(objects, container).drain_timeout) + DRAIN_MARGIN_S
            hook = container.get("lifecycle", {}).get("preStop", {})
            needed += hook.get("sleep", {}).get("seconds", 0)
        if grace < needed:
            yield f"{called(workload)} has {grace} s of grace, and needs {needed:g}"


def rollout_keeps_runners(objects: list[Object]) -> Iterator[str]:
    """A new runner is there before an old one goes."""
    for workload in of_kind(objects, "Deployment"):
        how = workload["spec"].get("strategy", {})
        rolling = how.get("rollingUpdate", {})
        if (how.get("type"), rolling.get("maxUnavailable")) != ("RollingUpdate", 0):
            yield f"{called(workload)} takes runners away before others are there"
        if rolling.get("maxSurge") != 1:
            yield f"{called(workload)} moves the shards of several runners at once"


def nats_keeps_what_it_took(objects: list[Object]) -> Iterator[str]:
    """Synced writes, room on the volume, volumes that stay, servers apart."""
    for nats in _nats(objects):
        config = _config(objects)
        if not re.search(r"^\s*sync_interval: always$", config, re.MULTILINE):
            yield "NATS doesn't sync each write"
        (claim,) = nats["spec"].get("volumeClaimTemplates") or [None]
        if claim is None:
            yield "NATS has no volume"
            continue
        volume = _bytes(claim["spec"]["resources"]["requests"]["storage"])
        if _bytes(_value(config, "max_file_store")) > 0.75 * volume:
            yield "NATS may fill its volume"
        keep = nats["spec"].get("persistentVolumeClaimRetentionPolicy", {})
        if set(keep.values()) != {"Retain"}:
            yield "NATS's volumes go with it"
        (container,) = containers(nats)
        if {"name": "data", "mountPath": _value(config, "store_dir")} not in container[
            "volumeMounts"
        ]:
            yield "NATS stores beside its volume"


def nats_has_a_majority(objects: list[Object]) -> Iterator[str]:
    """As many servers as replicas, each with its route, each on its own machine."""
    for nats in _nats(objects):
        replicas = nats["spec"]["replicas"]
        routes = re.findall(r"nats://nats-(\d+)\.nats-headless:6222", _config(objects))
        wanted = [str(n) for n in range(replicas)] if replicas > 1 else []
        if routes != wanted:
            yield f"NATS has {replicas} servers and routes to {routes}"
        for name, container, _ in ours(objects):
            asked = settings_of(objects, container).replicas
            if asked > replicas or asked != (3 if replicas >= 3 else 1):
                yield f"{name} wants {asked} replicas of {replicas} servers"
        if replicas == 1:
            continue
        if replicas % 2 == 0:
            yield f"{replicas} NATS servers survive no more than {replicas - 1}"
        rules = pod_of(nats)["spec"].get("affinity", {}).get("podAntiAffinity", {})
        required: list[Any] = rules.get("requiredDuringSchedulingIgnoredDuringExecution", [])
        if [rule["topologyKey"] for rule in required] != ["kubernetes.io/hostname"]:
            yield "two NATS servers may share a machine"
        if nats["spec"].get("podManagementPolicy") != "Parallel":
            yield "the first NATS server waits for a majority that isn't started"


def jobs_are_apart(objects: list[Object]) -> Iterator[str]:
    """What is scraped in a namespace has a job of its own, which alerts and the dashboard need."""
    wanted = {
        "sourceLabels": ["__meta_kubernetes_namespace", "__meta_kubernetes_service_name"],
        "separator": "/",
        "targetLabel": "job",
    }
    for monitor in of_kind(objects, "ServiceMonitor"):
        for endpoint in monitor["spec"]["endpoints"]:
            if wanted not in endpoint.get("relabelings", ()):
                yield f"{called(monitor)} has the job of other namespaces"


def scaler_fits(objects: list[Object]) -> Iterator[str]:
    """Never more runners than shards; who scales says how many; what it asks is scraped."""
    for scaler in of_kind(objects, "ScaledObject"):
        spec = scaler["spec"]
        target = spec["scaleTargetRef"]["name"]
        found = [w for w in of_kind(objects, "Deployment") if w["metadata"]["name"] == target]
        if not found:
            yield f"{called(scaler)} scales nothing"
            continue
        (workload,) = found
        (container,) = containers(workload)
        shards = settings_of(objects, container).shards
        most = max(spec["maxReplicaCount"], spec.get("fallback", {}).get("replicas", 0))
        if most > shards:
            yield f"{called(scaler)} starts {most} runners for {shards} shards"
        if not 1 <= spec["minReplicaCount"] <= spec["maxReplicaCount"]:
            yield f"{called(scaler)} may leave no runner"
        if "replicas" in workload["spec"]:
            yield f"{called(workload)} says how many there are, and so does {called(scaler)}"
        for trigger in spec["triggers"]:
            query = trigger["metadata"].get("query", "")
            if trigger["type"] != "prometheus" or not of_kind(objects, "ServiceMonitor"):
                yield f"{called(scaler)} asks what nobody measures"
            if f'namespace="{workload["metadata"]["namespace"]}"' not in query:
                yield f"{called(scaler)} counts the runners of other namespaces"
        if not any(_notices_silence(trigger["metadata"]) for trigger in spec["triggers"]):
            yield f"{called(scaler)} takes runners that nobody scrapes for idle ones"
    if not of_kind(objects, "ScaledObject"):
        for workload in of_kind(objects, "Deployment"):
            (container,) = containers(workload)
            if workload["spec"].get("replicas", 1) > settings_of(objects, container).shards:
                yield f"{called(workload)} has more runners than shards"


def _notices_silence(metadata: Object) -> bool:
    """Whether an empty answer to a query that never has one is an error, and not 0."""
    always = re.fullmatch(r"sum\(perdure_waiting_asks\{[^}]*\}\)", metadata.get("query", ""))
    return always is not None and metadata.get("ignoreNullValues") == "false"


def _nats(objects: list[Object]) -> list[Object]:
    return [w for w in of_kind(objects, "StatefulSet") if w["metadata"]["name"] == "nats"]


def _config(objects: list[Object]) -> str:
    """NATS's configuration, by the reference of its pod."""
    (nats,) = _nats(objects)
    (sources,) = (
        volume["projected"]["sources"]
        for volume in pod_of(nats)["spec"]["volumes"]
        if "projected" in volume
    )
    names = {source["configMap"]["name"] for source in sources if "configMap" in source}
    return "".join(
        item["data"]["nats.conf"]
        for item in of_kind(objects, "ConfigMap")
        if item["metadata"]["name"] in names
    )


def _value(config: str, name: str) -> str:
    found = re.search(rf"^\s*{name}: (\S+)$", config, re.MULTILINE)
    assert found is not None, f"nats.conf has no {name}"
    return found[1]


def _seconds(config: str, name: str) -> float:
    value = _value(config, name)
    assert value.endswith("s"), f"{name} isn't in seconds"
    return float(value[:-1])


def _bytes(text: str) -> int:
    return int(text[:-2]) * UNITS[text[-2:]]


POLICIES: tuple[Policy, ...] = (
    settings_exist,
    health_is_served,
    grace_is_enough,
    rollout_keeps_runners,
    nats_keeps_what_it_took,
    nats_has_a_majority,
    jobs_are_apart,
    scaler_fits,
)
