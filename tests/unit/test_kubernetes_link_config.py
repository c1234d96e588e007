"""The ``kubernetes.agentLink`` section: what cannot be used, and what ``config check`` remarks."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from containerssh.config.kubernetes import KubernetesConfig
from containerssh.config.kubernetes_link import ADVERTISE, KubernetesAgentLinkConfig
from containerssh.config.link_advice import link_advice

GOOD: dict[str, Any] = {"mode": "auto", "advertise": "192.0.2.1"}


def remarks(**link: Any) -> list[tuple[str, str, str]]:
    found = link_advice(KubernetesAgentLinkConfig.model_validate(link))
    return [(finding.severity, finding.path.removeprefix("kubernetes."), finding.message) for finding in found]


@pytest.mark.parametrize(
    ("listen", "place"),
    [
        ("0.0.0.0:0", ("0.0.0.0", range(1))),
        ("10.0.0.1:7000-7003", ("10.0.0.1", range(7000, 7004))),
        ("[::]:7000", ("::", range(7000, 7001))),
    ],
)
def test_where_to_listen(listen: str, place: tuple[str, range]) -> None:
    assert KubernetesAgentLinkConfig(listen=listen).place == place


@pytest.mark.parametrize("listen", ["7000", "host:7000", "0.0.0.0:70000", "0.0.0.0:9-8", "0.0.0.0:0-5", "::1:7"])
def test_where_nobody_can_listen(listen: str) -> None:
    (problem,) = KubernetesAgentLinkConfig(listen=listen).problems()
    assert problem.path == "listen"


@pytest.mark.parametrize(
    ("section", "path"),
    [
        ({"agentLink": {"mode": "auto", "advertise": "192.0.2.1:7000"}}, "agentLink.advertise"),
        ({"agentLink": {"mode": "auto", "advertise": "gateway/x"}}, "agentLink.advertise"),
        ({"agentLink": {"mode": "auto", "timeout": "2m"}}, "agentLink.timeout"),
        ({"agentLink": {"mode": "auto"}, "pod": {"agent": "none"}}, "agentLink.mode"),
        ({"agentLink": {"mode": "direct"}, "pod": {"agentPath": "/opt/agent"}}, "agentLink.mode"),
        ({"agentLink": {"mode": "exec"}, "pod": {"agent": "none"}}, None),
    ],
)
def test_what_cannot_work_is_refused(section: dict[str, Any], path: str | None) -> None:
    found = [problem.path for problem in KubernetesConfig.model_validate(section).problems()]
    assert found == ([path] if path else [])


def test_nothing_is_remarked_where_nothing_or_all_is_set() -> None:
    assert remarks() == []
    assert remarks(**GOOD) == []


def test_keys_without_effect_are_remarked() -> None:
    (found,) = remarks(advertise="192.0.2.1")
    assert found[:2] == ("info", "agentLink")


def test_outside_of_a_cluster_somebody_has_to_know_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.delenv(ADVERTISE, raising=False)
    (found,) = remarks(mode="auto")
    assert found[:2] == ("warning", "agentLink.advertise")
    monkeypatch.setenv(ADVERTISE, "192.0.2.1")
    assert remarks(mode="auto") == []
    monkeypatch.delenv(ADVERTISE)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    assert remarks(mode="auto") == []


@pytest.mark.parametrize(("key", "value"), [("advertise", "127.0.0.1"), ("listen", "127.0.0.1:0")])
def test_pods_cannot_come_to_a_loopback_address(key: str, value: str) -> None:
    (found,) = remarks(**{**GOOD, key: value})
    assert found[:2] == ("warning", f"agentLink.{key}")


def test_whether_this_machine_can_listen_there_is_tried() -> None:
    (found,) = remarks(**GOOD, listen="192.0.2.1:0")
    assert found[:2] == ("warning", "agentLink.listen")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = remarks(**GOOD, listen=f"127.0.0.1:{port}")[-1]
        assert found[:2] == ("info", "agentLink.listen")
        assert found[2].startswith("1 of 1 ports are in use")
