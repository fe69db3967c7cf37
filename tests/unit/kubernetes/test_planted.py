"""The policies fail on mistakes: each is planted into what production renders to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

from . import policies, workloads
from .rendering import Object, containers, of_kind, one, pod_of, render

Mistake: TypeAlias = Callable[[list[Object]], Any]

ALL = (*policies.POLICIES, *workloads.POLICIES)


def problems(objects: list[Object]) -> list[str]:
    return [problem for policy in ALL for problem in policy(objects)]


def runner(objects: list[Object]) -> Object:
    return one(objects, "Deployment", "perdure-runner")


def nats(objects: list[Object]) -> Object:
    return one(objects, "StatefulSet", "nats")


def policy(objects: list[Object], name: str) -> Object:
    (found,) = (
        item for item in of_kind(objects, "NetworkPolicy") if item["metadata"]["name"] == name
    )
    spec: Object = found["spec"]
    return spec


def container(workload: Object) -> Object:
    (found,) = containers(workload)
    return found


def secure(workload: Object) -> Object:
    found: Object = container(workload)["securityContext"]
    return found


def settings(objects: list[Object]) -> Object:
    data: Object = one(objects, "ConfigMap", "perdure-settings")["data"]
    return data


def without(objects: list[Object], kind: str, name: str) -> None:
    objects.remove(
        next(item for item in of_kind(objects, kind) if item["metadata"]["name"] == name)
    )


def config(objects: list[Object], old: str, new: str) -> None:
    data = one(objects, "ConfigMap", "nats-config")["data"]
    assert old in data["nats.conf"]
    data["nats.conf"] = data["nats.conf"].replace(old, new)


def scaler(objects: list[Object]) -> Object:
    spec: Object = one(objects, "ScaledObject", "perdure-runner")["spec"]
    return spec


MISTAKES: dict[str, tuple[str, Mistake]] = {
    "root": ("may run as root", lambda o: pod_of(runner(o))["spec"].pop("securityContext")),
    "user 0": (
        "may run as root",
        lambda o: pod_of(nats(o))["spec"]["securityContext"].update(runAsUser=0),
    ),
    "seccomp": (
        "no seccomp profile",
        lambda o: pod_of(nats(o))["spec"]["securityContext"].pop("seccompProfile"),
    ),
    "privileged": ("may gain privileges", lambda o: secure(runner(o)).update(privileged=True)),
    "escalation": (
        "may gain privileges",
        lambda o: secure(nats(o)).pop("allowPrivilegeEscalation"),
    ),
    "capability": (
        "has capabilities",
        lambda o: secure(nats(o))["capabilities"].update(add=["NET_ADMIN"]),
    ),
    "writable root": (
        "may write its root",
        lambda o: secure(runner(o)).update(readOnlyRootFilesystem=False),
    ),
    "container's user": (
        "another user",
        lambda o: secure(runner(o)).update(runAsUser=0),
    ),
    "host network": (
        "has hostNetwork",
        lambda o: pod_of(nats(o))["spec"].update(hostNetwork=True),
    ),
    "host path": (
        "mounts {'hostPath'}",
        lambda o: pod_of(nats(o))["spec"]["volumes"].append(
            {"name": "host", "hostPath": {"path": "/"}}
        ),
    ),
    "boundless folder": (
        "without a size limit",
        lambda o: pod_of(runner(o))["spec"].update(volumes=[{"name": "tmp", "emptyDir": {}}]),
    ),
    "token": (
        "service account token",
        lambda o: pod_of(runner(o))["spec"].update(automountServiceAccountToken=True),
    ),
    "service links": (
        "service links",
        lambda o: pod_of(nats(o))["spec"].pop("enableServiceLinks"),
    ),
    "rights": (
        "needs rights",
        lambda o: o.append({"kind": "Role", "metadata": {"name": "r", "namespace": "perdure"}}),
    ),
    "no limits": (
        "no limits of memory",
        lambda o: container(runner(o))["resources"].pop("limits"),
    ),
    "no requests": (
        "no requests of cpu",
        lambda o: container(nats(o))["resources"]["requests"].pop("cpu"),
    ),
    "overcommitted": (
        "overcommits memory",
        lambda o: container(nats(o))["resources"]["limits"].update(memory="8Gi"),
    ),
    "latest": (
        "which image is",
        lambda o: container(runner(o)).update(image="registry.example.com/bank:latest"),
    ),
    "no tag": (
        "which image is",
        lambda o: container(runner(o)).update(image="registry.example.com:5000/bank"),
    ),
    "short digest": (
        "which image is",
        lambda o: container(runner(o)).update(image="bank@sha256:abc"),
    ),
    "no probe": ("has no livenessProbe", lambda o: container(nats(o)).pop("livenessProbe")),
    "probe's port": (
        "a port that isn't there",
        lambda o: container(nats(o))["readinessProbe"]["httpGet"].update(port="health"),
    ),
    "probe's path": (
        "doesn't ask /readyz",
        lambda o: container(runner(o))["readinessProbe"]["httpGet"].update(path="/healthz"),
    ),
    "hasty probe": (
        "before the cluster has done its part",
        lambda o: container(runner(o))["livenessProbe"].update(periodSeconds=1),
    ),
    "health port": (
        "port health is 8080",
        lambda o: container(runner(o))["ports"][0].update(containerPort=8080),
    ),
    "shell": (
        "needs a shell",
        lambda o: container(runner(o)).update(
            lifecycle={"preStop": {"exec": {"command": ["/bin/sh", "-c", "sleep 5"]}}}
        ),
    ),
    "no budget": (
        "has 0 disruption budgets",
        lambda o: without(o, "PodDisruptionBudget", "perdure-runner"),
    ),
    "budget of nobody": (
        "is about no pod",
        lambda o: one(o, "PodDisruptionBudget", "nats")["spec"]["selector"].update(
            matchLabels={"app": "nats"}
        ),
    ),
    "budget of two": (
        "doesn't say that one may be away",
        lambda o: one(o, "PodDisruptionBudget", "nats")["spec"].update(maxUnavailable=2),
    ),
    "service of nobody": (
        "Service/nats finds no pod",
        lambda o: one(o, "Service", "nats")["spec"].update(selector={"app": "nats"}),
    ),
    "service's port": (
        "port client isn't there",
        lambda o: one(o, "Service", "nats")["spec"]["ports"][0].update(targetPort="clients"),
    ),
    "spread of others": (
        "spreads other pods",
        lambda o: pod_of(runner(o))["spec"]["topologySpreadConstraints"][0][
            "labelSelector"
        ].update(matchLabels={"app": "x"}),
    ),
    "nothing to scrape": (
        "finds no port to scrape",
        lambda o: one(o, "ServiceMonitor", "perdure-runner")["spec"]["endpoints"][0].update(
            port="metrics"
        ),
    ),
    "one job for all": (
        "has the job of other namespaces",
        lambda o: one(o, "ServiceMonitor", "perdure-runner")["spec"]["endpoints"][0].pop(
            "relabelings"
        ),
    ),
    "policy of nobody": (
        "NetworkPolicy/nats is about no pod",
        lambda o: policy(o, "nats")["podSelector"].update(matchLabels={"app": "nats"}),
    ),
    "no default": (
        "a runner can reach a stranger",
        lambda o: policy(o, "perdure-runner")["egress"].append({}),
    ),
    "open to all": (
        "a stranger can reach NATS",
        lambda o: policy(o, "nats")["ingress"].append({"ports": [{"port": "client"}]}),
    ),
    "callers in the cluster's port": (
        "can reach NATS on port 6222",
        lambda o: policy(o, "nats")["ingress"][0].pop("ports"),
    ),
    "closed to runners": (
        "a runner cannot reach NATS",
        lambda o: policy(o, "nats")["ingress"][0]["from"].pop(0),
    ),
    "runner without a way": (
        "a runner cannot reach NATS",
        lambda o: policy(o, "perdure-runner").pop("egress"),
    ),
    "servers apart": (
        "NATS cannot reach NATS",
        lambda o: policy(o, "nats")["ingress"].pop(1),
    ),
    "unscraped": (
        "Prometheus cannot reach a runner",
        lambda o: without(o, "NetworkPolicy", "perdure-monitoring"),
    ),
    "unknown secret": (
        "wants a secret somebody, which isn't there",
        lambda o: container(runner(o))["env"][0]["valueFrom"]["secretKeyRef"].update(
            name="somebody"
        ),
    ),
    "unknown key": (
        "which has none",
        lambda o: container(runner(o))["env"][0]["valueFrom"]["secretKeyRef"].update(key="login"),
    ),
    "unknown config": (
        "wants a configMap elsewhere",
        lambda o: container(runner(o))["envFrom"].append({"configMapRef": {"name": "elsewhere"}}),
    ),
    "unknown volume": (
        "mounts scratch, which isn't there",
        lambda o: container(nats(o))["volumeMounts"].append(
            {"name": "scratch", "mountPath": "/scratch"}
        ),
    ),
    "unknown account": (
        "wants a service account",
        lambda o: pod_of(runner(o))["spec"].update(serviceAccountName="admin"),
    ),
    "lax namespace": (
        "admits more than restricted pods",
        lambda o: one(o, "Namespace", "perdure")["metadata"].pop("labels"),
    ),
    "elsewhere": (
        "the objects are in",
        lambda o: one(o, "Service", "nats")["metadata"].update(namespace="default"),
    ),
    "no setting": (
        "PERDURE_SHARD is no setting",
        lambda o: settings(o).update(PERDURE_SHARD="4"),
    ),
    "bad value": (
        "PERDURE_SHARDS",
        lambda o: settings(o).update(PERDURE_SHARDS="many"),
    ),
    "open secret": (
        "PERDURE_PASSWORD is a secret in plain sight",
        lambda o: settings(o).update(PERDURE_PASSWORD="hunter2"),
    ),
    "no login": ("has no login", lambda o: container(runner(o)).pop("env")),
    "short grace": (
        "has 20 s of grace",
        lambda o: pod_of(runner(o))["spec"].update(terminationGracePeriodSeconds=20),
    ),
    "long drain": (
        "has 45 s of grace, and needs 70",
        lambda o: settings(o).update(PERDURE_DRAIN_TIMEOUT="PT1M"),
    ),
    "sleep before the drain": (
        "needs 50",
        lambda o: container(runner(o)).update(lifecycle={"preStop": {"sleep": {"seconds": 20}}}),
    ),
    "lame duck": (
        "has 60 s of grace",
        lambda o: config(o, "lame_duck_duration: 30s", "lame_duck_duration: 120s"),
    ),
    "gap in a rollout": (
        "takes runners away",
        lambda o: runner(o)["spec"]["strategy"]["rollingUpdate"].update(maxUnavailable=1),
    ),
    "recreated": (
        "takes runners away",
        lambda o: runner(o)["spec"].update(strategy={"type": "Recreate"}),
    ),
    "all at once": (
        "of several runners at once",
        lambda o: runner(o)["spec"]["strategy"]["rollingUpdate"].update(maxSurge="100%"),
    ),
    "unsynced": (
        "doesn't sync each write",
        lambda o: config(o, "sync_interval: always", "sync_interval: 2m"),
    ),
    "full disk": (
        "may fill its volume",
        lambda o: config(o, "max_file_store: 70GB", "max_file_store: 100GB"),
    ),
    "no volume": ("has no volume", lambda o: nats(o)["spec"].pop("volumeClaimTemplates")),
    "volumes that go": (
        "volumes go with it",
        lambda o: nats(o)["spec"]["persistentVolumeClaimRetentionPolicy"].update(
            whenDeleted="Delete"
        ),
    ),
    "beside the volume": (
        "stores beside its volume",
        lambda o: config(o, "store_dir: /data", "store_dir: /run/nats"),
    ),
    "routes": ("and routes to", lambda o: nats(o)["spec"].update(replicas=5)),
    "two servers": ("2 NATS servers", lambda o: nats(o)["spec"].update(replicas=2)),
    "too many replicas": (
        "wants 5 replicas of 3 servers",
        lambda o: settings(o).update(PERDURE_REPLICAS="5"),
    ),
    "one replica": (
        "wants 1 replicas of 3 servers",
        lambda o: settings(o).update(PERDURE_REPLICAS="1"),
    ),
    "same machine": (
        "may share a machine",
        lambda o: pod_of(nats(o))["spec"].pop("affinity"),
    ),
    "one after another": (
        "waits for a majority",
        lambda o: nats(o)["spec"].pop("podManagementPolicy"),
    ),
    "more runners than shards": (
        "starts 20 runners for 16 shards",
        lambda o: scaler(o).update(maxReplicaCount=20),
    ),
    "blind and many": (
        "starts 17 runners",
        lambda o: scaler(o)["fallback"].update(replicas=17),
    ),
    "fewer shards": (
        "starts 8 runners for 4 shards",
        lambda o: settings(o).update(PERDURE_SHARDS="4"),
    ),
    "to zero": ("may leave no runner", lambda o: scaler(o).update(minReplicaCount=0)),
    "two masters": (
        "and so does ScaledObject",
        lambda o: runner(o)["spec"].update(replicas=3),
    ),
    "nothing to scale": (
        "scales nothing",
        lambda o: scaler(o)["scaleTargetRef"].update(name="runner"),
    ),
    "unmeasured": (
        "asks what nobody measures",
        lambda o: without(o, "ServiceMonitor", "perdure-runner"),
    ),
    "another namespace": (
        "counts the runners of other namespaces",
        lambda o: runner(o)["metadata"].update(namespace="perdure-eu"),
    ),
    "silence": (
        "takes runners that nobody scrapes for idle ones",
        lambda o: scaler(o)["triggers"][1]["metadata"].pop("ignoreNullValues"),
    ),
    "everybody's": (
        "counts the runners of other namespaces",
        lambda o: scaler(o)["triggers"][0]["metadata"].update(query="sum(perdure_commands_total)"),
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_found(name: str) -> None:
    told, plant = MISTAKES[name]
    objects = render("production")
    plant(objects)
    assert any(told in problem for problem in problems(objects)), problems(objects)


def test_every_policy_finds_a_mistake() -> None:
    """One that no mistake reaches would be a policy that can't fail."""
    found: set[str] = set()
    for _, plant in MISTAKES.values():
        objects = render("production")
        plant(objects)
        found |= {policy.__name__ for policy in ALL if list(policy(objects))}
    assert found == {policy.__name__ for policy in ALL}


def test_without_a_scaler_the_deployment_is_held_to_the_shards() -> None:
    objects = render("dev")
    runner(objects)["spec"]["replicas"] = 5
    assert any("more runners than shards" in problem for problem in problems(objects))
