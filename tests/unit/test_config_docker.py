"""The docker section: spellings, defaults, and what is refused."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from containerssh.config.docker import DEFAULT_IMAGE, DockerConfig, settle_docker
from containerssh.config.docker_structures import STRUCTURES, known, settled


def config(**sections: Any) -> DockerConfig:
    return DockerConfig.model_validate(sections)


def execution(**keys: Any) -> DockerConfig:
    return config(execution=keys)


def test_the_defaults_are_upstreams() -> None:
    made = DockerConfig()
    assert made.connection.host == "unix:///var/run/docker.sock"
    assert made.execution.image == DEFAULT_IMAGE
    assert made.execution.idle_command[:2] == ("/usr/bin/containerssh-agent", "wait-signal")
    assert made.execution.shell_command == ("/bin/bash",)
    assert made.execution.subsystems == {"sftp": "/usr/lib/openssh/sftp-server"}
    assert made.timeouts.container_start == timedelta(seconds=60)
    assert made.timeouts.http == timedelta(seconds=15)


def test_yaml_names_and_engine_names_mean_the_same() -> None:
    yaml = execution(
        container={"image": "a", "workingdir": "/w", "exposedports": {"80/tcp": {}}, "healthcheck": {"interval": "2s"}},
        host={
            "capdrop": ["ALL"],
            "portbindings": {"80/tcp": [{"hostip": "::1", "hostport": "8080"}]},
            "resources": {"nanocpus": 5, "devices": [{"pathonhost": "/dev/null", "cgrouppermissions": "r"}]},
            "mounts": [{"type": "tmpfs", "target": "/t", "tmpfsoptions": {"sizebytes": 4096}}],
        },
        network={"endpointsconfig": {"lab": {"ipamconfig": {"ipv4address": "10.0.0.2"}}}},
        platform={"architecture": "arm64", "os": "linux", "osversion": "1"},
    )
    engine = execution(
        container={
            "Image": "a",
            "WorkingDir": "/w",
            "ExposedPorts": {"80/tcp": {}},
            "Healthcheck": {"Interval": 2_000_000_000},
        },
        host={
            "CapDrop": ["ALL"],
            "PortBindings": {"80/tcp": [{"HostIp": "::1", "HostPort": "8080"}]},
            "NanoCpus": 5,
            "Devices": [{"PathOnHost": "/dev/null", "CgroupPermissions": "r"}],
            "Mounts": [{"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 4096}}],
        },
        network={"EndpointsConfig": {"lab": {"IPAMConfig": {"IPv4Address": "10.0.0.2"}}}},
        platform={"architecture": "arm64", "os": "linux", "os.version": "1"},
    )
    assert yaml == engine


def test_the_image_stays_when_only_other_things_of_the_container_are_set() -> None:
    assert execution(container={"env": ["A=1"]}).execution.image == DEFAULT_IMAGE


def test_an_empty_image_name_is_a_mistake() -> None:
    with pytest.raises(ValidationError, match="no image name provided"):
        execution(container={"image": ""})


def test_null_leaves_a_setting_alone() -> None:
    made = execution(container={"image": "a", "volumes": None, "entrypoint": None}, host=None)
    assert made.execution.container == {"Image": "a"}
    assert made.execution.host == {}


def test_a_command_may_be_one_text() -> None:
    assert execution(container={"Entrypoint": "/start"}).execution.container["Entrypoint"] == ["/start"]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("host", {"resources": {"memory": "64m"}}, "resources.memory: a whole number is expected"),
        ("host", {"binds": "/a:/b"}, "binds: a list is expected"),
        ("host", {"privileged": "maybe"}, "privileged: true or false is expected"),
        ("host", {"mounts": [{"readonly": 1}]}, "mounts[0].readonly: true or false is expected"),
        ("host", {"memory": 2**70}, "memory: the number is too large"),
        ("host", [], "a map is expected"),
        ("host", {"memory": 1, "resources": {"Memory": 2}}, "Memory is given twice"),
        ("container", {"labels": ["a=b"]}, "labels: a map is expected"),
        ("container", {"env": [["A"]]}, "env[0]: a string is expected"),
        ("container", {"healthcheck": {"interval": "soon"}}, "healthcheck.interval: 'soon' is not a duration"),
    ],
)
def test_a_wrong_value_is_refused_with_its_path(key: str, value: object, words: str) -> None:
    with pytest.raises(ValidationError) as refused:
        execution(**{key: value})
    assert f"execution.{key}" in str(refused.value)
    assert words in str(refused.value)


def test_keys_without_effect_are_accepted_and_reported() -> None:
    made = execution(container={"imagge": "a"}, host={"memry": 4, "resources": {"pidlimit": 3}}, network={"x": 1})
    assert made.ignored_keys() == [
        "execution.container.imagge (did you mean image?)",
        "execution.host.memry (did you mean memory?)",
        "execution.host.pidlimit (did you mean pidslimit?)",
        "execution.network.x",
    ]


def test_keys_without_effect_do_not_reach_the_engine() -> None:
    """The API merges HostConfig into the container's object: a key of that name must not get through."""
    made = execution(container={"HostConfig": {"Privileged": True}, "image": "a"})
    assert made.execution.engine_structures()[0] == {"Image": "a"}


def test_the_engines_structures_are_copies() -> None:
    made = execution(container={"labels": {"a": "b"}})
    made.execution.engine_structures()[0]["Labels"]["c"] = "d"
    assert made.execution.container["Labels"] == {"a": "b"}


@pytest.mark.parametrize(
    ("host", "meant"),
    [
        ("unix:///run/podman.sock", "unix:///run/podman.sock"),
        ("127.0.0.1:2375", "tcp://127.0.0.1:2375"),
        ("engine.lab:2376", "tcp://engine.lab:2376"),
        ("tcp://[::1]:2375", "tcp://[::1]:2375"),
        ("https://engine/prefix", "https://engine/prefix"),
        ("", "unix:///var/run/docker.sock"),
    ],
)
def test_the_engines_address_is_understood(host: str, meant: str) -> None:
    assert config(connection={"host": host}).connection.host == meant


@pytest.mark.parametrize(
    "host",
    [
        "npipe:////./pipe/docker_engine",
        "ssh://root@engine",
        "unix://run/docker.sock",
        "tcp://",
        "tcp://engine:x",
        "tcp://engine:99999",
        "tcp://engine:0",
        "https://user@engine",
        "https://engine?x=1",
    ],
)
def test_an_address_that_cannot_be_used_is_refused(host: str) -> None:
    with pytest.raises(ValidationError, match=r"connection\.host"):
        config(connection={"host": host})


def test_half_a_key_pair_is_refused() -> None:
    with pytest.raises(ValidationError, match="belong together"):
        config(connection={"host": "tcp://engine:2376", "cert": "x"})


def test_certificates_for_a_unix_socket_are_refused() -> None:
    with pytest.raises(ValidationError, match="need a tcp"):
        config(connection={"cacert": "x"})


def test_a_restart_policy_is_refused_in_session_mode_alone() -> None:
    policy = {"restartpolicy": {"name": "always"}}
    execution(host=policy)
    execution(mode="session", host={"restartpolicy": {"name": "no"}})
    with pytest.raises(ValidationError, match="restartPolicy"):
        execution(mode="session", host=policy)


@pytest.mark.parametrize("key", ["idleCommand", "shellCommand"])
def test_connection_mode_needs_its_commands(key: str) -> None:
    execution(mode="session", **{key: []})
    with pytest.raises(ValidationError, match=key):
        execution(**{key: []})


@pytest.mark.parametrize(
    "wrong",
    [{"mode": "pod"}, {"imagePullPolicy": "Sometimes"}, {"agentTransport": "pigeon"}, {"shellCommand": "/bin/sh"}],
)
def test_values_outside_of_the_choice_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        execution(**wrong)


@pytest.mark.parametrize("key", ["containername", "containerName"])
def test_both_spellings_of_the_containers_name_work(key: str) -> None:
    assert execution(**{key: "fixed"}).execution.container_name == "fixed"


def test_timeouts_are_texts_or_nanoseconds_and_zero_is_the_default() -> None:
    made = config(timeouts={"containerStart": "1m30s", "containerStop": 5_000_000_000, "signal": 0, "window": None})
    assert made.timeouts.container_start == timedelta(seconds=90)
    assert made.timeouts.container_stop == timedelta(seconds=5)
    assert made.timeouts.signal == made.timeouts.window == timedelta(seconds=60)
    with pytest.raises(ValidationError, match="negative"):
        config(timeouts={"http": "-1s"})


@pytest.mark.parametrize(
    ("platform", "text"),
    [
        ({}, ""),
        ({"architecture": "arm64"}, "linux/arm64"),
        ({"os": "linux", "architecture": "arm", "variant": "v7"}, "linux/arm/v7"),
        ({"os": "", "architecture": ""}, ""),
    ],
)
def test_the_platform_is_written_as_the_engine_wants_it(platform: dict[str, str], text: str) -> None:
    assert execution(platform=platform).execution.platform_text == text


def test_credentials_do_not_show() -> None:
    made = execution(auth={"username": "u", "password": "hush", "serverAddress": "r"})
    assert made.execution.auth is not None
    assert made.execution.auth.serveraddress == "r"
    assert "hush" not in repr(made)


def test_a_section_can_be_settled_before_it_is_merged() -> None:
    raw = {"execution": {"container": {"image": "a", "LABELS": {"x": 1}}, "mode": "session"}, "timeouts": {}}
    assert settle_docker(raw) == {
        "execution": {"container": {"Image": "a", "Labels": {"x": "1"}}, "mode": "session"},
        "timeouts": {},
    }
    with pytest.raises(ValueError, match=r"docker\.execution\.host: binds"):
        settle_docker({"execution": {"host": {"binds": "x"}}})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    sorted({name for structure in STRUCTURES.values() for name in structure.fields} | {"resources"})
)
FOLDED = st.one_of(NAMES, NAMES.map(str.lower), st.text(max_size=4))


@given(st.sampled_from(sorted(STRUCTURES)), st.dictionaries(FOLDED, JSON, max_size=4))
def test_any_structure_is_settled_once_and_for_all_or_refused(name: str, value: dict[str, Any]) -> None:
    try:
        once = settled(STRUCTURES[name], value)
    except ValueError:
        return
    assert settled(STRUCTURES[name], once) == once
    assert set(known(STRUCTURES[name], once)) <= set(STRUCTURES[name].fields)


@pytest.mark.parametrize(("word", "wanted"), [("yes", True), ("on", True), ("No", False), ("off", False), (True, True)])
def test_flags_take_the_words_of_older_yaml(word: object, wanted: bool) -> None:
    assert execution(host={"privileged": word}).execution.host == {"Privileged": wanted}


AGENT_SETTINGS = ("agent", "agent_path", "disable_agent")


@pytest.mark.parametrize(
    ("execution", "way"),
    [
        ({}, "injected"),
        ({"disableAgent": True}, "none"),
        ({"disableAgent": True, "agent": "none"}, "none"),
        ({"disableAgent": False, "agent": "image"}, "image"),
        ({"agentPath": "/opt/agent"}, "image"),
        ({"agentPath": "/usr/bin/containerssh-agent"}, "injected"),
        ({"agentPath": "/opt/agent", "agent": "injected"}, "injected"),
        ({"agentPath": "/opt/agent", "agent": "auto"}, "auto"),
        ({"agentPath": "/opt/agent", "disableAgent": True}, "none"),
    ],
)
def test_who_starts_programs_follows_from_three_settings(execution: dict[str, Any], way: str) -> None:
    made = DockerConfig.model_validate({"execution": execution})
    assert made.execution.agent_in_use == made.execution.agent == way
    again = DockerConfig.model_validate(made.model_dump(by_alias=True, include={"execution": {*AGENT_SETTINGS}}))
    assert again.execution.agent_in_use == way


@pytest.mark.parametrize(
    ("execution", "words"),
    [
        ({"disableAgent": True, "agent": "injected"}, "contradict one another"),
        ({"agent": "image", "agentPath": "bin/agent"}, "absolute path"),
        ({"agentPath": "bin/agent"}, "absolute path"),
        ({"agentPath": "/opt/agent", "backgroundProcesses": "keep"}, "the agent that the server brings along"),
        ({"agent": "auto", "mode": "session"}, "connection mode only"),
        ({"agent": "disabled"}, "Input should be"),
    ],
)
def test_an_agent_that_cannot_be_is_refused(execution: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        DockerConfig.model_validate({"execution": execution})
