"""Who may speak to whom: NetworkPolicies as Kubernetes understands them, for pods in one cluster.

A pod that no policy of a direction selects may do everything in that direction; one that some
select, what any of them allows. A connection needs both: egress at one end, ingress at the other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .rendering import Object, of_kind


@dataclass(frozen=True)
class Pod:
    """A pod, as policies see it."""

    labels: dict[str, str]
    namespace: str = "here"
    """`here` is the namespace of the policies."""
    namespace_labels: dict[str, str] = field(default_factory=dict[str, str])
    ports: dict[str, int] = field(default_factory=dict[str, int])
    """Its named ports."""


def selects(selector: Object, labels: dict[str, str]) -> bool:
    """Whether a selector is one for these labels. Only `matchLabels` is known here."""
    unknown = set(selector) - {"matchLabels"}
    assert not unknown, f"a selector with {unknown}: teach reach.py"
    return all(labels.get(k) == v for k, v in selector.get("matchLabels", {}).items())


def may_speak(objects: list[Object], source: Pod, target: Pod, port: int) -> bool:
    """Whether `source` can open a TCP connection to that port of `target`."""
    policies = of_kind(objects, "NetworkPolicy")
    return _allowed(policies, "Egress", source, target, target, port) and _allowed(
        policies, "Ingress", target, source, target, port
    )


def _allowed(
    policies: list[Object], way: str, subject: Pod, peer: Pod, target: Pod, port: int
) -> bool:
    if subject.namespace != "here":
        return True  # other policies
    mine = [
        policy["spec"]
        for policy in policies
        if way in policy["spec"]["policyTypes"]
        and selects(policy["spec"]["podSelector"], subject.labels)
    ]
    peers = {"Egress": "to", "Ingress": "from"}[way]
    return not mine or any(
        _peer(rule.get(peers), peer) and _port(rule.get("ports"), target, port)
        for spec in mine
        for rule in spec.get(way.lower(), ())
    )


def _peer(peers: list[Object] | None, pod: Pod) -> bool:
    return not peers or any(_is(peer, pod) for peer in peers)


def _is(peer: Object, pod: Pod) -> bool:
    unknown = set(peer) - {"podSelector", "namespaceSelector"}
    assert not unknown, f"a peer with {unknown}: teach reach.py"
    if "namespaceSelector" not in peer:
        if pod.namespace != "here":
            return False
    elif not selects(peer["namespaceSelector"], pod.namespace_labels):
        return False
    return selects(peer.get("podSelector", {}), pod.labels)


def _port(ports: list[Any] | None, target: Pod, port: int) -> bool:
    return not ports or any(
        rule.get("protocol", "TCP") == "TCP"
        and target.ports.get(rule["port"], rule["port"]) == port
        for rule in ports
    )
