"""What we hold every rendered overlay to, pods first. Each policy gives what is wrong, in words.

`workloads.py` has those about perdure and NATS themselves. Validation against the schemas of
Kubernetes is apart: these say what the schemas can't.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from .reach import Pod, may_speak, selects
from .rendering import JOBS, Object, called, containers, of_kind, pod_of

Policy: TypeAlias = Callable[[list[Object]], Iterator[str]]

WORKLOADS = ("Deployment", "StatefulSet", "Job")
SERVING = ("Deployment", "StatefulSet")
FOREIGN_SECRETS = {
    "nats-authorization": {"authorization.conf"},
    "perdure-runner-login": {"user", "password"},
    "perdure-creator-login": {"user", "password"},
}
"""Secrets with their keys that may come from elsewhere: docs/kubernetes.md says how."""
CLIENT = {"perdure-client": "true"}
CLIENT_PORT, CLUSTER_PORT, MONITOR_PORT, HEALTH_PORT = 4222, 6222, 8222, 9090


def each_container(objects: list[Object]) -> Iterator[tuple[str, Object, Object]]:
    """How a problem names it, the container, and its workload."""
    for workload in of_kind(objects, *WORKLOADS):
        for container in containers(workload):
            yield f"{called(workload)} {container['name']}", container, workload


def no_privilege(objects: list[Object]) -> Iterator[str]:
    """The restricted Pod Security Standard, a read-only root, and a user by its number."""
    for workload in of_kind(objects, *WORKLOADS):
        spec = pod_of(workload)["spec"]
        secure = spec.get("securityContext", {})
        if secure.get("runAsNonRoot") is not True or not secure.get("runAsUser"):
            yield f"{called(workload)} may run as root"
        if secure.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{called(workload)} has no seccomp profile"
        for shared in ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"):
            if spec.get(shared):
                yield f"{called(workload)} has {shared}"
        for volume in spec.get("volumes", ()):
            kind = set(volume) - {"name"}
            if not kind <= {"projected", "configMap", "secret", "emptyDir"}:
                yield f"{called(workload)} mounts {kind}"
            if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
                yield f"{called(workload)} has a folder {volume['name']} without a size limit"
    for name, container, _ in each_container(objects):
        own = container.get("securityContext", {})
        if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
            yield f"{name} may gain privileges"
        if own.get("capabilities") != {"drop": ["ALL"]}:
            yield f"{name} has capabilities"
        if own.get("readOnlyRootFilesystem") is not True:
            yield f"{name} may write its root file system"
        if {"runAsUser", "runAsNonRoot", "seccompProfile"} & set(own):
            yield f"{name} has another user or profile than its pod"


def no_way_to_the_api(objects: list[Object]) -> Iterator[str]:
    """No service account token, and no variables made of the namespace's Services."""
    for workload in of_kind(objects, *WORKLOADS):
        spec = pod_of(workload)["spec"]
        if spec.get("automountServiceAccountToken") is not False:
            yield f"{called(workload)} has a service account token"
        if spec.get("enableServiceLinks") is not False:
            yield f"{called(workload)} gets service links as variables"
    for item in of_kind(objects, "Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"):
        yield f"{called(item)}: nothing here needs rights in the cluster"


def bounded(objects: list[Object]) -> Iterator[str]:
    """Requests and limits of both kinds; memory isn't overcommitted."""
    for name, container, _ in each_container(objects):
        resources = container.get("resources", {})
        for which in ("requests", "limits"):
            for what in ("cpu", "memory"):
                if what not in resources.get(which, {}):
                    yield f"{name} has no {which} of {what}"
        memory = {resources.get(which, {}).get("memory") for which in ("requests", "limits")}
        if len(memory) != 1:
            yield f"{name} overcommits memory"


def images_are_named(objects: list[Object]) -> Iterator[str]:
    """By a digest, or a tag that says which."""
    for name, container, _ in each_container(objects):
        image = container["image"]
        pinned = re.fullmatch(r".+@sha256:[0-9a-f]{64}", image)
        tag = re.fullmatch(r"(?:[^:@]+(?::\d+/[^:@]+)?):([\w][\w.-]{0,127})", image)
        if not pinned and (tag is None or tag[1] in ("latest", "stable", "main", "edge")):
            yield f"{name}: which image is {image}?"
        if not pinned and container.get("imagePullPolicy") == "Never":
            yield f"{name} never pulls {image}"


def probes_are_answered(objects: list[Object]) -> Iterator[str]:
    """All three in what serves, on a named port of the same container; no shell in hooks."""
    for name, container, workload in each_container(objects):
        ports = {port["name"] for port in container.get("ports", ())}
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            probe = container.get(kind)
            if probe is None:
                if workload["kind"] in SERVING:
                    yield f"{name} has no {kind}"
                continue
            if probe.get("httpGet", {}).get("port") not in ports:
                yield f"{name}: {kind} asks a port that isn't there"
        words: list[str] = list(container.get("command", ()))
        for hook in container.get("lifecycle", {}).values():
            words += hook.get("exec", {}).get("command", ())
        if any(word.rpartition("/")[2] in ("sh", "bash", "sleep") for word in words):
            yield f"{name} needs a shell"


def budgets_fit(objects: list[Object]) -> Iterator[str]:
    """Each serving workload has one budget, which lets a node be emptied."""
    budgets = of_kind(objects, "PodDisruptionBudget")
    serving = of_kind(objects, *SERVING)
    for workload in serving:
        labels = pod_of(workload)["metadata"]["labels"]
        mine = [b for b in budgets if selects(b["spec"]["selector"], labels)]
        if len(mine) != 1:
            yield f"{called(workload)} has {len(mine)} disruption budgets"
    for budget in budgets:
        selector = budget["spec"]["selector"]
        if not any(selects(selector, pod_of(w)["metadata"]["labels"]) for w in serving):
            yield f"{called(budget)} is about no pod"
        if budget["spec"].get("maxUnavailable") != 1:
            yield f"{called(budget)} doesn't say that one may be away"


def selectors_find_pods(objects: list[Object]) -> Iterator[str]:
    """Of workloads, Services, ServiceMonitors, spreads and network policies; with their ports."""
    pods = [pod_of(workload) for workload in of_kind(objects, *WORKLOADS)]
    for workload in of_kind(objects, *SERVING):
        labels = pod_of(workload)["metadata"]["labels"]
        if not selects(workload["spec"]["selector"], labels):
            yield f"{called(workload)} doesn't select its own pods"
        for rule in pod_of(workload)["spec"].get("topologySpreadConstraints", ()):
            if not selects(rule["labelSelector"], labels):
                yield f"{called(workload)} spreads other pods"
    for service in of_kind(objects, "Service"):
        selector = {"matchLabels": service["spec"]["selector"]}
        found = [pod for pod in pods if selects(selector, pod["metadata"]["labels"])]
        if not found:
            yield f"{called(service)} finds no pod"
        for port in service["spec"]["ports"]:
            if any(port["targetPort"] not in _ports(pod) for pod in found):
                yield f"{called(service)}: port {port['name']} isn't there"
    for monitor in of_kind(objects, "ServiceMonitor"):
        found = [
            service
            for service in of_kind(objects, "Service")
            if selects(monitor["spec"]["selector"], service["metadata"].get("labels", {}))
        ]
        ports = {port["name"] for service in found for port in service["spec"]["ports"]}
        if not ports or any(end["port"] not in ports for end in monitor["spec"]["endpoints"]):
            yield f"{called(monitor)} finds no port to scrape"
    for policy in of_kind(objects, "NetworkPolicy"):
        selector = policy["spec"]["podSelector"]
        if selector.get("matchLabels") == CLIENT:
            continue  # callers, who aren't ours
        if not any(selects(selector, pod["metadata"]["labels"]) for pod in pods):
            yield f"{called(policy)} is about no pod"


def only_needed_connections(objects: list[Object]) -> Iterator[str]:
    """Who may speak to whom, both what must and what mustn't be possible."""
    ours = {w["metadata"]["name"]: _seen(pod_of(w)) for w in of_kind(objects, *WORKLOADS)}
    inside = Pod({"app": "stranger"})
    stranger = Pod({"app": "stranger"}, namespace="attic")  # whom nothing else holds back
    caller = Pod(CLIENT)
    abroad = Pod(CLIENT, namespace="shop", namespace_labels=CLIENT)
    disguised = Pod(CLIENT, namespace="attic")
    prometheus = Pod({}, namespace="monitoring", namespace_labels={"perdure-monitoring": "true"})
    monitored = bool(of_kind(objects, "ServiceMonitor"))
    wanted: list[tuple[str, Pod, str, Pod, int, bool]] = []
    if nats := ours.get("nats"):
        wanted += [
            ("a caller", caller, "NATS", nats, CLIENT_PORT, True),
            ("a caller of another namespace", abroad, "NATS", nats, CLIENT_PORT, True),
            ("NATS", nats, "NATS", nats, CLUSTER_PORT, True),
            ("a neighbour", inside, "NATS", nats, CLIENT_PORT, False),
            ("a stranger", stranger, "NATS", nats, CLIENT_PORT, False),
            ("a caller of an unknown namespace", disguised, "NATS", nats, CLIENT_PORT, False),
            ("a caller of another namespace", abroad, "NATS", nats, CLUSTER_PORT, False),
            ("a caller of another namespace", abroad, "NATS", nats, MONITOR_PORT, False),
            ("NATS", nats, "a stranger", stranger, 443, False),
        ]
    if runner := ours.get("perdure-runner"):
        wanted += [
            ("a runner", runner, "a stranger", stranger, 443, False),
            ("a caller of another namespace", abroad, "a runner", runner, HEALTH_PORT, False),
            ("Prometheus", prometheus, "a runner", runner, HEALTH_PORT, monitored),
        ]
        if nats:
            wanted.append(("a runner", runner, "NATS", nats, CLIENT_PORT, True))
            wanted.append(("a runner", runner, "NATS", nats, CLUSTER_PORT, False))
    for job in JOBS:
        if pod := ours.get(f"perdure-{job}"):
            wanted.append((f"the {job}", pod, "a stranger", stranger, 443, False))
            if nats:
                wanted.append((f"the {job}", pod, "NATS", nats, CLIENT_PORT, True))
    for who, source, whom, target, port, may in wanted:
        if may_speak(objects, source, target, port) is not may:
            yield f"{who} {'cannot' if may else 'can'} reach {whom} on port {port}"


def references_exist(objects: list[Object]) -> Iterator[str]:
    """What a pod names (ConfigMaps, Secrets, keys) is here, or is known to come from elsewhere."""
    configs = {c["metadata"]["name"]: set(c["data"]) for c in of_kind(objects, "ConfigMap")}
    secrets = FOREIGN_SECRETS | {
        s["metadata"]["name"]: set(s["data"]) for s in of_kind(objects, "Secret")
    }
    for workload in of_kind(objects, *WORKLOADS):
        for kind, name, key in _referred(pod_of(workload)["spec"]):
            there = configs if kind == "configMap" else secrets
            if name not in there:
                yield f"{called(workload)} wants a {kind} {name}, which isn't there"
            elif key is not None and key not in there[name]:
                yield f"{called(workload)} wants {key} of the {kind} {name}, which has none"
        account = pod_of(workload)["spec"].get("serviceAccountName")
        if account and account not in {
            item["metadata"]["name"] for item in of_kind(objects, "ServiceAccount")
        }:
            yield f"{called(workload)} wants a service account {account}, which isn't there"
        spec = pod_of(workload)["spec"]
        volumes = {volume["name"] for volume in spec.get("volumes", ())}
        claims = workload["spec"].get("volumeClaimTemplates", ())
        volumes |= {claim["metadata"]["name"] for claim in claims}
        for container in containers(workload):
            for mount in container.get("volumeMounts", ()):
                if mount["name"] not in volumes:
                    yield f"{called(workload)} mounts {mount['name']}, which isn't there"


def one_namespace(objects: list[Object]) -> Iterator[str]:
    """All in the namespace that is made here, which admits restricted pods only."""
    made = of_kind(objects, "Namespace")
    for item in made:
        labels = item["metadata"].get("labels", {})
        if labels.get("pod-security.kubernetes.io/enforce") != "restricted":
            yield f"{called(item)} admits more than restricted pods"
    names = {item["metadata"]["name"] for item in made}
    used = {item["metadata"].get("namespace") for item in objects if item["kind"] != "Namespace"}
    if len(used) != 1 or (made and used != names):
        yield f"the objects are in {sorted(map(str, used))}, not in {sorted(names)}"


def _ports(pod: Object) -> dict[str, int]:
    return {
        port["name"]: port["containerPort"]
        for container in pod["spec"]["containers"]
        for port in container.get("ports", ())
    }


def _seen(pod: Object) -> Pod:
    return Pod(pod["metadata"]["labels"], ports=_ports(pod))


def _referred(spec: Object) -> Iterator[tuple[str, str, str | None]]:
    """Each ConfigMap and Secret that a pod names, with the key."""
    for container in [*spec.get("initContainers", ()), *spec["containers"]]:
        for source in container.get("envFrom", ()):
            for kind in ("configMap", "secret"):
                if ref := source.get(f"{kind}Ref"):
                    yield kind, ref["name"], None
        for variable in container.get("env", ()):
            for kind in ("configMap", "secret"):
                if ref := variable.get("valueFrom", {}).get(f"{kind}KeyRef"):
                    yield kind, ref["name"], ref["key"]
    for volume in spec.get("volumes", ()):
        if "projected" in volume:
            sources: list[Any] = volume["projected"]["sources"]
        else:
            sources = [volume]
        for source in sources:
            for kind, name in (("configMap", "name"), ("secret", "secretName")):
                ref = source.get(kind)
                if ref is None:
                    continue
                for item in ref.get("items", [{"key": None}]):
                    yield kind, ref.get(name) or ref["name"], item["key"]


POLICIES: tuple[Policy, ...] = (
    no_privilege,
    no_way_to_the_api,
    bounded,
    images_are_named,
    probes_are_answered,
    budgets_fit,
    selectors_find_pods,
    only_needed_connections,
    references_exist,
    one_namespace,
)
