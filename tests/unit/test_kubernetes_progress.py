"""What the cluster says about a pod, and what is made of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containerssh.backends.kubernetes.progress import (
    Judgement,
    Over,
    Ready,
    Starting,
    Trouble,
    container_end,
    is_warning,
    judge,
    tell_event,
)

SCHEDULED = {"type": "PodScheduled", "status": "True"}
IMAGE = "registry.example.com/lab/shell:2"
NODE_GONE = {
    "type": "DisruptionTarget",
    "status": "True",
    "reason": "DeletionByPodGC",
    "message": "PodGC: node no longer exists",
}


def a_pod(phase: str = "Pending", *, conditions: list[Any] | None = None, **more: Any) -> dict[str, Any]:
    status = {"phase": phase, "conditions": [SCHEDULED] if conditions is None else conditions, **more}
    return {"metadata": {"name": "p"}, "status": status}


def waiting(reason: str, message: str = "", **more: Any) -> list[dict[str, Any]]:
    return [{"name": "shell", "image": IMAGE, "state": {"waiting": {"reason": reason, "message": message}}, **more}]


def ended(reason: str, code: int, message: str = "") -> list[dict[str, Any]]:
    state = {"terminated": {"reason": reason, "exitCode": code, "message": message}}
    return [{"name": "shell", "image": IMAGE, "state": state}]


def test_a_pod_that_is_ready_is_ready() -> None:
    ready = {"type": "Ready", "status": "True"}
    running = [{"name": "shell", "state": {"running": {}}}]
    assert judge(a_pod("Running", conditions=[SCHEDULED, ready], containerStatuses=running), "shell") == Ready()
    not_yet = a_pod("Running", containerStatuses=running)
    assert judge(not_yet, "shell") == Starting("Waiting until the pod is ready")


@pytest.mark.parametrize(
    ("pod", "text"),
    [
        (a_pod(conditions=[]), "Waiting for a node"),
        (a_pod(), "Starting the pod"),
        (a_pod(containerStatuses=waiting("ContainerCreating")), "Starting the pod"),
        (a_pod(initContainerStatuses=waiting("PodInitializing")), "Starting the pod"),
    ],
)
def test_what_goes_well_is_waited_for(pod: dict[str, Any], text: str) -> None:
    assert judge(pod, "shell") == Starting(text)


def test_a_pod_without_a_node_is_in_trouble_with_the_schedulers_words() -> None:
    words = "0/1 nodes are available: 1 Insufficient memory."
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words}
    found = judge(a_pod(conditions=[condition]), "shell")
    assert found == Trouble("Unschedulable", words, "No node can take the pod: Insufficient memory")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            "0/3 nodes are available: 1 Insufficient cpu, 2 Insufficient nvidia.com/gpu. preemption: not helpful.",
            ": Insufficient cpu; Insufficient nvidia.com/gpu",
        ),
        (
            "1 node(s) had untolerated taint {team: blue}, 1 node(s) didn't match Pod's node affinity/selector.",
            ": had untolerated taint; didn't match Pod's node affinity/selector",
        ),
        ("node-7.internal is cordoned by alice", "."),
        ('persistentvolumeclaim "payroll" not found', "."),
        ("Insufficient \x1b[31mred\u202e", "."),
        ("", "."),
    ],
)
def test_users_hear_what_their_pod_lacks_and_no_names(words: str, told: str) -> None:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words}
    found = judge(a_pod(conditions=[condition]), "shell")
    assert isinstance(found, Trouble)
    assert found.user == f"No node can take the pod{told}"
    assert tell_event({"reason": "FailedScheduling", "message": words}) == found.user


@given(
    st.text(max_size=200),
    st.sampled_from(["Insufficient ", "didn't match Pod's ", "{", "node(s) had untolerated taint "]),
)
def test_what_users_hear_of_the_scheduler_is_short_and_of_known_letters(words: str, begin: str) -> None:
    told = tell_event({"reason": "FailedScheduling", "message": begin + words + begin + words})
    assert told.isprintable()
    assert told.isascii()
    assert len(told) < 400


def test_an_endless_list_of_wishes_is_cut() -> None:
    words = ", ".join(f"1 Insufficient example.com/thing-{number}" for number in range(100))
    assert len(tell_event({"reason": "FailedScheduling", "message": words})) < 400


@pytest.mark.parametrize(
    ("reason", "lasting", "user"),
    [
        ("ErrImagePull", False, f"The image {IMAGE} cannot be pulled (ErrImagePull)."),
        ("ImagePullBackOff", False, f"The image {IMAGE} cannot be pulled (ImagePullBackOff)."),
        ("ErrImageNeverPull", True, f"The image {IMAGE} is not available."),
        ("InvalidImageName", True, f"The image {IMAGE} cannot be pulled (InvalidImageName)."),
        ("CreateContainerConfigError", False, "The container shell does not start: CreateContainerConfigError"),
    ],
)
def test_a_container_that_cannot_start_is_told(reason: str, lasting: bool, user: str) -> None:
    found = judge(a_pod(containerStatuses=waiting(reason, "dial tcp 192.0.2.1: refused")), "shell")
    assert isinstance(found, Trouble)
    assert (found.reason, found.lasting, found.user) == (reason, lasting, user)
    assert "192.0.2.1" in found.words
    assert "192.0.2.1" not in found.user


def test_a_container_that_ends_again_and_again_says_with_which_status() -> None:
    last = {"terminated": {"reason": "Error", "exitCode": 7}}
    found = judge(a_pod("Running", containerStatuses=waiting("CrashLoopBackOff", lastState=last)), "shell")
    assert isinstance(found, Trouble)
    assert "status 7" in found.words
    assert not found.lasting
    assert found.repeats
    assert found.user == "The container shell keeps failing (Error, status 7)."


@pytest.mark.parametrize("kind", ["containerStatuses", "initContainerStatuses"])
def test_a_container_that_has_just_failed_is_told_with_its_last_words(kind: str) -> None:
    statuses: dict[str, Any] = {kind: ended("Error", 3, "no database at 192.0.2.1")}
    found = judge(a_pod(**statuses), "shell")
    assert isinstance(found, Trouble)
    assert found.words == "shell (it ended with Error, status 3: no database at 192.0.2.1)"
    assert found.user == "The container shell keeps failing (Error, status 3)."
    assert found.repeats


def test_a_container_that_fails_for_want_of_memory_says_so() -> None:
    found = judge(a_pod("Running", containerStatuses=ended("OOMKilled", 137)), "shell")
    assert isinstance(found, Trouble)
    assert found.user == "The container shell uses more memory than it may."


def test_an_init_container_that_has_done_its_work_is_no_trouble() -> None:
    assert judge(a_pod(initContainerStatuses=ended("Completed", 0)), "shell") == Starting("Starting the pod")


@pytest.mark.parametrize("phase", ["Running", "Failed"])
def test_a_console_without_the_program_that_waits_is_recognised(phase: str) -> None:
    statuses = ended("StartError", 128, 'exec: "sh": executable file not found in $PATH')
    found = judge(a_pod(phase, containerStatuses=statuses), "shell")
    assert isinstance(found, Trouble | Over)
    assert found.reason == "StartError"
    assert "executable file not found" in found.words


def test_a_console_that_is_tried_again_without_its_program_is_recognised_too() -> None:
    words = 'exec: "sh": executable file not found in $PATH'
    last = {"terminated": {"reason": "StartError", "exitCode": 128, "message": words}}
    found = judge(a_pod("Running", containerStatuses=waiting("RunContainerError", words, lastState=last)), "shell")
    assert isinstance(found, Trouble)
    assert (found.reason, found.lasting) == ("StartError", True)


@pytest.mark.parametrize(
    ("pod", "user"),
    [
        (a_pod("Failed", reason="Evicted", message="low on memory: node-7"), "The cluster has evicted the pod."),
        (a_pod("Failed", reason="DeadlineExceeded"), "The pod has reached its longest time."),
        (
            a_pod("Failed", containerStatuses=ended("OOMKilled", 137)),
            "The container has used more memory than it may.",
        ),
        (a_pod("Succeeded", containerStatuses=ended("Completed", 0)), "The container has ended."),
        (a_pod("Failed"), "The pod has ended."),
        ({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {}}, "The pod was deleted."),
        (a_pod("Failed", conditions=[NODE_GONE]), "The pod's node is gone."),
    ],
)
def test_a_pod_that_has_ended_says_why_without_names(pod: dict[str, Any], user: str) -> None:
    found = judge(pod, "shell")
    assert isinstance(found, Over)
    assert found.user == user


@pytest.mark.parametrize(
    ("reason", "user"),
    [
        ("DeletionByTaintManager", "The pod had to leave its node."),
        ("EvictionByEvictionAPI", "The cluster has evicted the pod."),
        ("PreemptionByScheduler", "The pod had to make room for a more important one."),
        ("TerminationByKubelet", "The pod's node has ended the pod."),
        ("SomethingNew", "The pod was deleted."),
    ],
)
def test_a_pod_that_the_cluster_takes_away_says_why_without_names(reason: str, user: str) -> None:
    why = {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": "by node-7 for prod/payroll"}
    leaving = {**a_pod("Running", conditions=[why]), "metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}
    found = judge(leaving, "shell")
    assert isinstance(found, Over)
    assert found.user == user
    assert found.words == f"the pod is being deleted ({reason}: by node-7 for prod/payroll)"
    ended_by_it = judge(a_pod("Failed", conditions=[why]), "shell")
    assert isinstance(ended_by_it, Over)
    assert ended_by_it.user == user.replace("The pod was deleted.", "The pod has ended.")


def test_an_eviction_that_did_not_happen_is_not_the_reason_of_a_later_end() -> None:
    why = {"type": "DisruptionTarget", "status": "False", "reason": "EvictionByEvictionAPI"}
    found = judge(a_pod("Failed", conditions=[why], containerStatuses=ended("Error", 1)), "shell")
    assert isinstance(found, Over)
    assert found.user == "The container has ended."
    assert "Evict" not in found.words


def test_why_a_pod_was_disturbed_is_in_the_log() -> None:
    found = judge(a_pod("Failed", conditions=[NODE_GONE]), "shell")
    assert isinstance(found, Over)
    assert found.words == "the pod has ended (DeletionByPodGC: PodGC: node no longer exists)"


@pytest.mark.parametrize(
    ("event", "text"),
    [
        ({"reason": "Pulling", "message": f'Pulling image "{IMAGE}"'}, f"Pulling image {IMAGE}"),
        ({"reason": "Scheduled", "message": "assigned lab/p to node-7"}, "The pod has a node"),
        ({"reason": "Pulled", "message": "Container image already present on machine"}, ""),
        (
            {"reason": "FailedMount", "message": "MountVolume.SetUp failed on node-7"},
            "A volume of the pod cannot be mounted yet",
        ),
        ({"reason": "Created", "message": "Created container"}, ""),
    ],
)
def test_events_are_told_in_words_of_our_own(event: dict[str, Any], text: str) -> None:
    assert tell_event(event) == text


def test_a_warning_keeps_the_clusters_words_on_one_line() -> None:
    event = {"type": "Warning", "reason": "FailedMount", "message": "secret\n\x1b[31mnot found"}
    assert is_warning(event) == "FailedMount: secret [31mnot found"
    assert is_warning({"type": "Normal", "reason": "Pulling"}) == ""


@pytest.mark.parametrize(
    ("container", "words"),
    [
        ({"state": {"running": {}}, "restartCount": 1}, None),
        ({"state": {"terminated": {"reason": "Error", "exitCode": 143}}}, "Error with status 143"),
        ({"state": {"waiting": {}}, "restartCount": 2}, "OOMKilled with status 137"),
        ({"state": {"waiting": {}}, "restartCount": "2"}, None),
    ],
)
def test_a_container_has_ended_that_is_started_anew(container: dict[str, Any], words: str | None) -> None:
    last = {"terminated": {"reason": "OOMKilled", "exitCode": 137}}
    pod = a_pod("Running", containerStatuses=[{"name": "shell", "lastState": last, **container}])
    end = container_end(pod, "shell", 1)
    assert end == (None if words is None else Over(f"the container shell has ended ({words})", end.user if end else ""))
    assert container_end(pod, "other", 0) is None


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(
    [
        *(
            "status",
            "metadata",
            "phase",
            "conditions",
            "containerStatuses",
            "initContainerStatuses",
            "state",
            "waiting",
        ),
        *("terminated", "lastState", "reason", "message", "type", "name", "exitCode", "deletionTimestamp", "image"),
    ]
)
SHAPED: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from(["Failed", "Running", "StartError", "CrashLoopBackOff", "False", 0, None]) | JSON,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=20,
)


@given(st.dictionaries(NAMES, SHAPED, max_size=4))
def test_nothing_that_the_cluster_may_send_is_more_than_a_judgement(found: dict[str, Any]) -> None:
    judgement: Judgement = judge({"metadata": {}, **found}, "shell")
    end = container_end(found, "shell", 0)
    assert end is None or (end.words.isprintable() and len(end.words) < 4000)
    texts = [text for name in ("words", "user", "text") if (text := getattr(judgement, name, None)) is not None]
    assert all(text.isprintable() and len(text) < 4000 for text in (*texts, tell_event(found), is_warning(found)))
