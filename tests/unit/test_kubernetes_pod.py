"""What the cluster is asked to create."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containerssh.backends.kubernetes.pod import (
    AGENT_VOLUME,
    Owner,
    label_text,
    label_value,
    literally,
    pod_body,
    pod_name,
    variables,
    volume_costs,
)
from containerssh.config.kubernetes import KubernetesPodConfig
from containerssh.core.errors import BackendError
from containerssh.core.metadata import Login, LoginSpan, SocketAddress, Value

LABEL = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
"""What the API takes as a label's value."""
OWNER = Owner("0123456789abcdef", "ab" * 16, "containerssh-0123456789abcdef")


def a_login(username: str = "alice", **more: Any) -> Login:
    return Login(SocketAddress("2001:db8::7", 4022), "c" * 32, username=username, **more)


def body(login: Login | None = None, owner: Owner | None = OWNER, **settings: Any) -> dict[str, Any]:
    options = {name: settings.pop(name) for name in ("idle", "described", "volume", "deadline") if name in settings}
    options = {"idle": "configured", "described": {}, "volume": False, **options}
    return pod_body(
        KubernetesPodConfig.model_validate(settings), login or a_login(), name="pod-1", owner=owner, **options
    )


@given(st.text())
def test_any_user_name_becomes_a_valid_label(name: str) -> None:
    for value in (label_value(name), label_text(name)):
        assert LABEL.fullmatch(value)
        assert len(value) <= 63


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("alice", "alice"),
        ("a.b", "a.b"),
        ("under_score", "under-score"),
        ("-dash-", "dash"),
        ("dom\\user", "dom-user"),
        ("x" * 80, "x" * 63),
    ],
)
def test_a_user_name_without_surprises_is_upstreams_label(name: str, label: str) -> None:
    assert label_value(name) == label


@given(st.text())
def test_the_cluster_sees_no_variables_in_what_is_meant_literally(text: str) -> None:
    """It makes one dollar of two, and looks for a name behind a single one only."""
    assert re.sub(r"\$\$", "$", literally(text)) == text
    assert not re.search(r"(?<!\$)(\$\$)*\$(?!\$)", literally(text))


def test_labels_by_which_servers_know_their_pods_cannot_be_configured() -> None:
    metadata = {
        "labels": {"containerssh_instance": "x", "containerssh_lease": "y", "containerssh_launch": "z", "a": "b"}
    }
    labels = body(a_login(), metadata=metadata, owner=None)["metadata"]["labels"]
    assert set(labels) == {"a", "containerssh_connection_id", "containerssh_username"}


def test_a_pod_says_whose_it_is() -> None:
    login = a_login("Alice@Example.org", authenticated_username="alice_")
    metadata = body(login, metadata={"labels": {"team": "blue"}, "annotations": {"note": "a b"}})["metadata"]
    assert metadata["labels"] == {
        "team": "blue",
        "containerssh_connection_id": "c" * 32,
        "containerssh_username": "alice",
        "containerssh_instance": OWNER.instance,
        "containerssh_launch": OWNER.launch,
        "containerssh_lease": OWNER.lease,
    }
    ours = {"containerssh_ip": "2001-db8--7", "containerssh_username": "alice_"}
    assert metadata["annotations"] == {"note": "a b", **ours}
    assert metadata["name"] == "pod-1"
    assert "generateName" not in metadata


def test_a_pod_that_stays_is_nobodys() -> None:
    labels = body(owner=None)["metadata"]["labels"]
    assert sorted(labels) == ["containerssh_connection_id", "containerssh_username"]


def test_metadata_becomes_labels_and_annotations() -> None:
    login = a_login(metadata={"team": Value("blue team!"), "mail": Value("a@b.example (A. B.)"), "other": Value("x")})
    metadata = body(
        login,
        exposeAuthMetadataAsLabels={"team": "org/team", "missing": "org/missing"},
        exposeAuthMetadataAsAnnotations={"mail": "org/mail"},
    )["metadata"]
    assert metadata["labels"]["org/team"] == "blue-team"
    assert metadata["annotations"]["org/mail"] == "a@b.example (A. B.)"
    assert "org/missing" not in metadata["labels"]


def test_sensitive_variables_stay_out_of_the_description_where_the_agent_can_bring_them() -> None:
    config = KubernetesPodConfig.model_validate({"exposeAuthMetadataAsEnv": {"team": "TEAM"}})
    login = a_login(
        metadata={"team": Value("blue")},
        environment={"TOKEN": Value("s3cret", sensitive=True), "GREETING": Value("hello"), "odd name": Value("x")},
    )
    found = variables(config, login, through_agent=True)
    assert found.described == {"TEAM": "blue", "GREETING": "hello"}
    assert found.given == {"TOKEN": "s3cret", "odd name": "x"}
    without = variables(config, login, through_agent=False)
    assert without.described == {"TEAM": "blue", "TOKEN": "s3cret", "GREETING": "hello"}
    assert without.given == {}
    assert found.all_given().given == {**found.described, **found.given}


@pytest.mark.parametrize("sensitive", [False, True])
def test_a_variable_that_no_program_can_have_is_refused_by_name(sensitive: bool) -> None:
    longest = "\N{EURO SIGN}" * ((128 * 1024 - 1 - len("BIG=")) // 3)
    login = a_login(environment={"BIG": Value(longest, sensitive=sensitive)})
    found = variables(KubernetesPodConfig(), login, through_agent=True)
    assert found.all_given().given == {"BIG": longest}
    login = a_login(environment={"BIG": Value(longest + "xxx", sensitive=sensitive)})
    with pytest.raises(BackendError, match="'BIG' has 13107"):
        variables(KubernetesPodConfig(), login, through_agent=True)


def test_variables_reach_all_containers_and_win_over_configured_ones() -> None:
    containers = [
        {"name": "side", "image": "i", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]},
        {"name": "shell", "image": "i"},
    ]
    spec = {"containers": containers, "initContainers": [{"name": "before", "image": "i"}]}
    found = body(spec=spec, consoleContainerNumber=1, described={"A": "$(B)"})["spec"]
    for container in (*found["containers"], *found["initContainers"]):
        assert {"name": "A", "value": "$$(B)"} in container["env"]
        assert sum(entry["name"] == "A" for entry in container["env"]) == 1
    assert "command" in found["containers"][1]
    assert "command" not in found["containers"][0]


def test_the_configured_idle_command_runs_as_it_is() -> None:
    container = {"name": "shell", "image": "i", "args": ["x"]}
    console = body(idleCommand=["sleep", "$(N)"], spec={"containers": [container]})["spec"]["containers"][0]
    assert (console["command"], console["args"]) == (["sleep", "$(N)"], ["x"])


def test_a_shell_that_waits_takes_the_place_of_the_default_idle_command() -> None:
    container = {"name": "shell", "image": "i", "args": ["x"]}
    console = body(idle="shell", spec={"containers": [container]})["spec"]["containers"][0]
    assert console["command"][:2] == ["sh", "-c"]
    assert "args" not in console


def test_an_init_container_brings_the_agent_from_its_image() -> None:
    spec = body(idle="agent", volume=True, agentImage="agent:1", agentImagePullPolicy="Never")["spec"]
    (init,) = spec["initContainers"]
    assert (init["image"], init["imagePullPolicy"]) == ("agent:1", "Never")
    assert init["command"] == ["/containerssh-agent", "install", "/.containerssh"]
    (console,) = spec["containers"]
    assert console["command"][0] == "/.containerssh/agent"
    assert console["volumeMounts"] == [{"name": AGENT_VOLUME, "mountPath": "/.containerssh", "readOnly": True}]
    assert [volume["name"] for volume in spec["volumes"]] == [AGENT_VOLUME]


def test_without_an_agent_image_there_is_a_folder_to_upload_to() -> None:
    spec = body(idle="shell", volume=True)["spec"]
    assert "initContainers" not in spec
    assert spec["containers"][0]["volumeMounts"] == [{"name": AGENT_VOLUME, "mountPath": "/.containerssh"}]


@pytest.mark.parametrize(
    ("spec", "costs"),
    [
        ({"automountServiceAccountToken": False}, True),
        ({"automountServiceAccountToken": False, "securityContext": {"runAsUser": 0}}, True),
        ({}, False),
        ({"automountServiceAccountToken": True}, False),
        ({"automountServiceAccountToken": False, "volumes": [{"name": "v", "emptyDir": {}}]}, False),
        ({"automountServiceAccountToken": False, "securityContext": {"runAsUser": 1000}}, False),
        ({"automountServiceAccountToken": False, "securityContext": {"runAsNonRoot": True}}, False),
    ],
)
def test_a_volume_for_the_agent_is_spared_where_it_would_be_the_only_one_and_is_hardly_needed(
    spec: dict[str, Any], costs: bool
) -> None:
    config = KubernetesPodConfig.model_validate({"spec": spec})
    assert volume_costs(config) is costs
    read_only = {"name": "shell", "securityContext": {"readOnlyRootFilesystem": True}}
    for other in ({"spec": {**spec, "containers": [read_only]}}, {"spec": spec, "agentImage": "agent:1"}):
        assert not volume_costs(KubernetesPodConfig.model_validate(other))


def test_the_cluster_itself_ends_what_outlives_its_login() -> None:
    login = a_login(span=LoginSpan.from_now(timedelta(hours=1)))
    found = body(login, deadline=3661, spec={"activeDeadlineSeconds": 60})
    assert found["spec"]["activeDeadlineSeconds"] == 60
    assert body(login, deadline=3661)["spec"]["activeDeadlineSeconds"] == 3661
    assert "containerssh_expires" in found["metadata"]["annotations"]


def test_the_configuration_is_not_changed_by_a_login() -> None:
    config = KubernetesPodConfig.model_validate({"spec": {"containers": [{"image": "i", "env": []}]}})
    before = config.model_dump_json()
    pod_body(config, a_login(), name="a", owner=OWNER, described={"A": "1"}, idle="shell", volume=True, deadline=5)
    assert config.model_dump_json() == before


def test_names_are_our_own_and_never_the_same() -> None:
    names = {pod_name({"generateName": "desk-"}) for _ in range(50)}
    assert len(names) == 50
    assert all(re.fullmatch(r"desk-[a-z0-9]{10}", name) for name in names)
    assert len(pod_name({"generateName": "x" * 100})) <= 63
    assert pod_name({"name": "fixed", "generateName": "desk-"}) == "fixed"


def test_session_mode_runs_a_pod_once() -> None:
    assert body(mode="session")["spec"]["restartPolicy"] == "Never"
    assert "restartPolicy" not in body()["spec"]
