"""The ``kubernetes.pod`` section: what cannot be used, and what ``config check`` remarks."""

from __future__ import annotations

from typing import Any

import pytest

from containerssh.config.advice import advice
from containerssh.config.app import AppConfig
from containerssh.config.kubernetes import KubernetesConfig, KubernetesPodConfig

GOOD: dict[str, Any] = {
    "spec": {
        "automountServiceAccountToken": False,
        "containers": [{"image": "i", "resources": {"limits": {"memory": "1Gi"}}}],
    }
}


def problems(**pod: Any) -> list[str]:
    return [problem.path for problem in KubernetesConfig.model_validate({"pod": pod}).problems()]


def remarks(pod: dict[str, Any], **sections: Any) -> list[tuple[str, str]]:
    tree = {"backend": "kubernetes", "kubernetes": {"pod": pod}, **sections}
    found = advice(AppConfig.model_validate(tree))
    return [(finding.severity, finding.path) for finding in found if not finding.path.startswith("kubernetes.conn")]


@pytest.mark.parametrize(
    ("pod", "path"),
    [
        ({"createMissingPods": True}, "pod.createMissingPods"),
        ({"disableAgent": True, "agent": "injected"}, "pod.disableAgent"),
        ({"agent": "image", "agentPath": "bin/agent"}, "pod.agentPath"),
        ({"agent": "none", "agentImage": "a:1"}, "pod.agentImage"),
        ({"agentPath": "/opt/agent", "agentImage": "a:1"}, "pod.agentImage"),
        ({"agent": "none", "backgroundProcesses": "end"}, "pod.backgroundProcesses"),
        ({"exposeAuthMetadataAsEnv": {"team": "a=b"}}, "pod.exposeAuthMetadataAsEnv.team"),
        ({"exposeAuthMetadataAsLabels": {"team": "-x"}}, "pod.exposeAuthMetadataAsLabels.team"),
        ({"exposeAuthMetadataAsLabels": {"team": "A.b/x"}}, "pod.exposeAuthMetadataAsLabels.team"),
        ({"exposeAuthMetadataAsAnnotations": {"team": "x" * 64}}, "pod.exposeAuthMetadataAsAnnotations.team"),
        ({"mode": "session", "spec": {"restartPolicy": "Always"}}, "pod.spec.restartPolicy"),
        ({"metadata": {"resourceVersion": "5"}}, "pod.metadata.resourceVersion"),
        (
            {"mode": "persistent", "createMissingPods": True, "metadata": {"name": "lab", "resourceversion": 5}},
            "pod.metadata.resourceVersion",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_its_place(pod: dict[str, Any], path: str) -> None:
    assert path in problems(**pod)


@pytest.mark.parametrize(
    "pod",
    [
        {},
        {"mode": "persistent"},
        {"mode": "persistent", "metadata": {"name": "lab", "resourceVersion": "5"}},
        {"metadata": {"resourceVersion": ""}},
        {"mode": "persistent", "metadata": {"name": "lab"}, "createMissingPods": True},
        {"agent": "injected", "agentImage": "a:1"},
        {"disableAgent": True, "agentPath": ""},
        {"exposeAuthMetadataAsLabels": {"team": "example.org/team"}, "exposeAuthMetadataAsEnv": {"a": "A_B.c-d"}},
    ],
)
def test_what_can_work_is_not(pod: dict[str, Any]) -> None:
    assert problems(**pod) == []


@pytest.mark.parametrize(
    ("pod", "way"),
    [
        ({}, "auto"),
        ({"disableAgent": True}, "none"),
        ({"agentPath": "/opt/agent"}, "image"),
        ({"agentPath": "/opt/agent", "agent": "auto"}, "auto"),
    ],
)
def test_the_agent_in_use_follows_the_older_keys(pod: dict[str, Any], way: str) -> None:
    assert KubernetesPodConfig.model_validate(pod).agent_in_use == way


def test_an_idle_command_of_the_images_agent_is_the_default_wherever_that_lies() -> None:
    assert KubernetesPodConfig.model_validate({}).idles_by_default
    elsewhere = {"agentPath": "/opt/agent", "idleCommand": ["/opt/agent", "wait-signal", "--signal", "TERM"]}
    assert KubernetesPodConfig.model_validate(elsewhere).idles_by_default
    assert not KubernetesPodConfig.model_validate({"idleCommand": ["sleep", "600"]}).idles_by_default


@pytest.mark.parametrize(
    ("pod", "path"),
    [
        ({**GOOD, "mode": "persistent", "metadata": {"name": "lab"}}, "kubernetes.pod.mode"),
        ({**GOOD, "mode": "persistent"}, "kubernetes.pod.metadata"),
        ({**GOOD, "agent": "image"}, "kubernetes.pod.agent"),
        ({**GOOD, "disableAgent": True}, "kubernetes.pod.disableAgent"),
        ({"spec": {"hostPID": True}}, "kubernetes.pod.spec.hostPID"),
        ({**GOOD, "metadata": {"uid": "5f1c"}}, "kubernetes.pod.metadata.uid"),
        ({**GOOD, "metadata": {"finalizers": ["example.org/keep"]}}, "kubernetes.pod.metadata.finalizers"),
        ({"spec": {}}, "kubernetes.pod.spec.automountServiceAccountToken"),
        ({"spec": {}}, "kubernetes.pod.spec.containers.0.resources"),
        (
            {"spec": {"containers": [{"image": "i", "securityContext": {"privileged": True}}]}},
            "kubernetes.pod.spec.containers.0.securityContext.privileged",
        ),
        (
            {"spec": {"volumes": [{"name": "h", "hostPath": {"path": "/run/containerd/containerd.sock"}}]}},
            "kubernetes.pod.spec.volumes.0",
        ),
        ({"spec": {"volumes": [{"name": "h", "hostPath": {"path": "/"}}]}}, "kubernetes.pod.spec.volumes.0"),
    ],
)
def test_what_is_dangerous_is_remarked(pod: dict[str, Any], path: str) -> None:
    assert path in [where for _, where in remarks(pod)]


def test_a_careful_pod_has_no_remarks() -> None:
    assert remarks(GOOD) == remarks(GOOD | {"spec": GOOD["spec"] | {"volumes": [{"name": "e", "emptyDir": {}}]}})
    assert not [where for _, where in remarks(GOOD) if where.startswith("kubernetes")]


def test_rules_for_sftp_need_the_servers_own_agent() -> None:
    assert ("warning", "sftp") in remarks({**GOOD, "agent": "image"}, sftp={"server": "builtin"})
    assert ("warning", "sftp") not in remarks(GOOD, sftp={"server": "builtin"})


def test_forwards_in_session_mode_are_remarked() -> None:
    security = {"forwarding": {"forwardingMode": "enable"}}
    where = "security.forwarding.forwardingMode"
    assert ("warning", where) in remarks({**GOOD, "mode": "session"}, security=security)
    assert ("warning", where) not in remarks(GOOD, security=security)
