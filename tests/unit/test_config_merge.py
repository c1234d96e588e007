"""One login's configuration: what a config server's answer and a user's overlay change, and what they cannot."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from containerssh.config.app import AppConfig
from containerssh.config.dump import dump_yaml
from containerssh.config.findings import ConfigErrors
from containerssh.config.log import LogLevel
from containerssh.config.merge import merge_answer, overlay
from containerssh.config.model import ConfigModel, fields_by_key, section_model
from containerssh.core.codes import BackendCode

FILE = {
    "auth": {"password": {"method": "webhook", "webhook": {"url": "http://127.0.0.1:9"}}},
    "security": {"env": {"mode": "enable", "deny": ["A"]}, "forceCommand": "/bin/true", "maxSessions": 4},
    "docker": {
        "execution": {
            "container": {"image": "base", "labels": {"from-file": "1"}, "env": ["A=file", "B=file"]},
            "host": {"resources": {"memory": 1024, "pidslimit": 5}, "binds": ["/a:/a"]},
            "exposeAuthMetadataAsEnv": True,
            "subsystems": {"sftp": "/sftp", "x": "/x"},
            "auth": {"username": "u", "password": "p"},
        },
        "timeouts": {"commandStart": "7.000001s"},
    },
    "oci": {"image": "/srv/root", "env": ["A=1"], "tmpfs": {"/tmp": ""}},
}


def config(tree: dict[str, Any] | None = None) -> AppConfig:
    return AppConfig.model_validate(FILE if tree is None else tree)


def docker(**execution: Any) -> dict[str, Any]:
    return {"docker": {"execution": execution}}


def zero(annotation: Any) -> Any:
    """Go's zero value of a key, as a Go config server encodes it."""
    if model := section_model(annotation):
        return full_of_zeros(model)
    text = str(annotation)
    if "dict" in text or "tuple" in text:
        return None
    if "bool" in text:
        return False
    if "timedelta" in text or "int" in text or "float" in text or "LogLevel" in text:
        return 0
    return ""


def full_of_zeros(model: type[ConfigModel]) -> dict[str, Any]:
    return {key: zero(annotation) for key, annotation in fields_by_key(model).items()}


@pytest.mark.parametrize("answer", [{}, {"docker": {}}, {"docker": None}, {"security": {"env": {}}}, {"ssh": None}])
def test_an_answer_that_says_nothing_changes_nothing(answer: dict[str, Any]) -> None:
    before = config()
    assert merge_answer(before, answer) is before
    assert overlay(before, answer) is before


def test_the_zero_values_of_a_whole_go_structure_change_nothing() -> None:
    answer = full_of_zeros(AppConfig)
    answer["docker"]["execution"] |= {
        "container": {"Hostname": "", "Env": None, "Cmd": None, "Volumes": None, "OnBuild": [], "Tty": False},
        "host": {
            "Memory": 0, "Binds": None, "RestartPolicy": {"Name": "", "MaximumRetryCount": 0}, "Privileged": False,
            "LogConfig": {"Type": "", "Config": None}, "Mounts": [], "Init": None,
        },
        "network": {"EndpointsConfig": None},
    }  # fmt: skip
    answer["kubernetes"]["pod"] |= {"metadata": {"creationTimestamp": None}, "spec": {"containers": None}}
    before = config()
    assert merge_answer(before, answer) is before


def test_what_is_not_empty_overrides() -> None:
    answer = {
        "backend": "oci",
        "security": {"defaultMode": "disable", "maxSessions": 1},
        "docker": {"execution": {"mode": "session"}, "timeouts": {"signal": 30_000_000_000, "commandStart": "45s"}},
        "oci": {"image": "alpine:3.20"},
    }
    merged = merge_answer(config(), answer)
    assert merged.backend == "oci"
    assert (merged.security.default_mode, merged.security.max_sessions) == ("disable", 1)
    assert merged.security.force_command == "/bin/true"
    assert merged.docker.execution.mode == "session"
    assert merged.docker.timeouts.signal == timedelta(seconds=30)
    assert merged.docker.timeouts.command_start == timedelta(seconds=45)
    assert merged.oci.image == "alpine:3.20"


def test_lists_replace_and_maps_merge() -> None:
    answer = docker(
        container={"Labels": {"from-answer": "2"}, "Env": ["A=answer"]},
        host={"Tmpfs": {"/scratch": ""}, "Memory": 2048},
        subsystems={"x": "/other", "y": "/y"},
    )
    execution = merge_answer(config(), answer).docker.execution
    assert execution.container["Labels"] == {"from-file": "1", "from-answer": "2"}
    assert execution.container["Env"] == ["A=answer"]
    assert execution.container["Image"] == "base"
    assert execution.host["Tmpfs"] == {"/scratch": ""}
    assert (execution.host["Memory"], execution.host["PidsLimit"]) == (2048, 5)
    assert execution.subsystems == {"sftp": "/sftp", "x": "/other", "y": "/y"}


def test_values_of_maps_may_be_empty() -> None:
    answer = docker(container={"Volumes": {"/data": {}}, "Labels": {"from-file": ""}})
    container = merge_answer(config(), answer).docker.execution.container
    assert container["Volumes"] == {"/data": {}}
    assert container["Labels"] == {"from-file": ""}


def test_maps_of_the_default_are_kept_as_well() -> None:
    merged = merge_answer(config({}), docker(subsystems={"x": "/x"}))
    assert set(merged.docker.execution.subsystems) == {"sftp", "x"}


def test_keys_may_be_in_any_case_and_the_engine_spelling_does_not_matter() -> None:
    answer = {"Docker": {"EXECUTION": {"Container": {"workingDir": "/tmp"}, "HOST": {"resources": {"memory": 9}}}}}
    execution = merge_answer(config(), answer).docker.execution
    assert (execution.container["WorkingDir"], execution.host["Memory"]) == ("/tmp", 9)


def test_parts_of_the_credentials_can_be_given() -> None:
    auth = merge_answer(config(), docker(auth={"password": "new"})).docker.execution.auth
    assert auth is not None
    assert (auth.username, auth.password.get_secret_value()) == ("u", "new")


def test_what_an_answer_does_not_say_keeps_its_exact_value() -> None:
    merged = merge_answer(config(), docker(mode="session"))
    assert merged.docker.timeouts.command_start == timedelta(seconds=7, microseconds=1)
    assert merged.ssh is config().ssh or merged.ssh == config().ssh


def test_the_log_level_is_all_that_changes_in_the_log() -> None:
    merged = merge_answer(config(), {"log": {"level": "debug", "file": "/elsewhere", "destination": "file"}})
    assert merged.log == config().log.model_copy(update={"level": LogLevel.DEBUG})


def test_sections_that_are_settled_before_a_login_stay_as_they_are() -> None:
    answer = {"ssh": {"listen": "0.0.0.0:1"}, "auth": {"password": {"method": ""}}, "audit": {"enable": True}}
    before = config()
    assert merge_answer(before, answer) is before


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "backend": ({"backend": "nonsense"}, "invalid backend: nonsense"),
    "pull policy": (docker(imagePullPolicy="Sometimes"), "imagePullPolicy"),
    "mode": ({"security": {"defaultMode": "perhaps"}}, "security.defaultMode"),
    "unknown section": ({"dockr": {"a": 1}}, "did you mean docker"),
    "unknown key": (docker(imagePullPollicy="Never"), "docker.execution.imagePullPollicy"),
    "unknown key with an empty value": ({"security": {"shel": {}}}, "security.shel"),
    "unknown key in a section that is ignored": ({"ssh": {"lissten": ""}}, "ssh.lissten"),
    "a text for a section": ({"security": "x"}, "security (must be a map"),
    "a list for a section": (docker(container=[1]), "docker.execution.container"),
    "an engine's field of the wrong type": (docker(host={"Memory": "much"}), "Memory"),
    "a key in two cases": ({"security": {"maxSessions": 1, "MaxSessions": 2}}, "given twice"),
    "a negative number": ({"security": {"maxSessions": -7}}, "security.maxSessions"),
    "a bad duration": ({"docker": {"timeouts": {"http": "soon"}}}, "docker.timeouts.http"),
    "another backend": ({"backend": "sshproxy"}, "sshproxy is not available"),
    "a proxy's short key": ({"backend": "sshproxy", "sshproxy": {"server": "a", "privateKey": "x"}}, "privateKey"),
    "a pod's negative number": ({"kubernetes": {"pod": {"consoleContainerNumber": -1}}}, "consoleContainerNumber"),
    "a pod's unknown key": ({"kubernetes": {"pod": {"spec": {"contaners": []}}}}, "did you mean containers"),
}


@pytest.mark.parametrize("merge", [merge_answer, overlay])
@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_answer_is_refused_with_the_place_of_the_mistake(kind: str, merge: Any) -> None:
    answer, mentions = WRONG[kind]
    with pytest.raises(ConfigErrors) as caught:
        merge(config(), answer)
    assert caught.value.code is BackendCode.CONFIG_ERROR
    assert mentions in caught.value.explanation
    assert mentions not in caught.value.user_message


def test_an_answer_that_is_no_map_is_refused() -> None:
    answer: Any = ["docker"]
    with pytest.raises(ConfigErrors):
        merge_answer(config(), answer)


def test_a_refused_answer_does_not_repeat_secrets() -> None:
    answer = {"sshproxy": {"password": ["hunter2"]}, "docker": {"execution": {"auth": {"password": {"hunter2": 1}}}}}
    with pytest.raises(ConfigErrors) as caught:
        merge_answer(config(), answer)
    assert "hunter2" not in caught.value.event().text


def test_an_overlay_switches_off() -> None:
    patch = {
        "security": {"forceCommand": "", "maxSessions": 0, "env": {"deny": []}},
        **docker(exposeAuthMetadataAsEnv=False, subsystems={}, container={"env": [], "labels": {}}),
        "log": {"level": 0},
        "oci": {"env": [], "tmpfs": {}},
    }
    changed = overlay(config(), patch)
    assert (changed.security.force_command, changed.security.max_sessions, changed.security.env.deny) == ("", 0, ())
    assert not changed.docker.execution.expose_auth_metadata_as_env
    assert changed.docker.execution.subsystems == {}
    assert changed.docker.execution.container == {"Image": "base", "Env": [], "Labels": {}}
    assert changed.log.level is LogLevel.EMERG
    assert (changed.oci.env, changed.oci.tmpfs) == ((), {})


def test_an_overlay_merges_what_is_inside_a_section() -> None:
    changed = overlay(config(), docker(host={"memory": 0}, container={"labels": {"more": "2"}}))
    assert changed.docker.execution.host == {"Memory": 0, "PidsLimit": 5, "Binds": ["/a:/a"]}
    assert changed.docker.execution.container["Labels"] == {"from-file": "1", "more": "2"}


def test_numbers_of_a_users_file_may_stand_for_texts() -> None:
    assert overlay(config(), {"oci": {"hostname": 7}}).oci.hostname == "7"


def test_the_first_configuration_is_never_changed() -> None:
    before = config()
    shown = dump_yaml(before)
    merge_answer(before, docker(container={"Labels": {"a": "b"}}, subsystems={"a": "/b"}))
    overlay(before, docker(container={"Labels": {"c": "d"}, "env": []}))
    assert dump_yaml(before) == shown


def test_nesting_without_end_is_refused_or_survived() -> None:
    deep: dict[str, Any] = {}
    for _ in range(3000):
        deep = {"a": deep}
    for patch in (
        docker(container={"Labels": deep}),
        {"oci": deep},
        docker(subsystems=deep),
        {"kubernetes": {"pod": {"spec": deep}}},
    ):
        with pytest.raises(ConfigErrors):
            merge_answer(config(), patch)


_values: st.SearchStrategy[Any] = st.none() | st.booleans() | st.integers(-2, 2) | st.text(max_size=3) | st.just([])


def _tree(model: type[ConfigModel]) -> st.SearchStrategy[dict[str, Any]]:
    """Maps with the keys of a section, most of them with values that could be right."""

    def value(annotation: Any) -> st.SearchStrategy[Any]:
        if inner := section_model(annotation):
            return st.deferred(lambda: _tree(inner))
        text = str(annotation)
        if "bool" in text:
            return st.booleans()
        if "tuple" in text:
            return st.lists(st.sampled_from(["a", "b"]), max_size=2)
        if "dict" in text:
            return st.dictionaries(st.sampled_from(["Labels", "a", "Memory", "metadata"]), _values, max_size=2)
        return _values | st.sampled_from(["enable", "filter", "5s", "session"])

    return st.fixed_dictionaries({}, optional={key: value(kind) for key, kind in fields_by_key(model).items()})


_patches = st.fixed_dictionaries(
    {},
    optional={
        key: _tree(model)
        for key in ("security", "docker", "oci", "kubernetes", "log")
        if (model := section_model(fields_by_key(AppConfig)[key]))
    },
)


@settings(max_examples=150, deadline=None)
@given(_patches)
def test_merging_twice_is_merging_once(patch: dict[str, Any]) -> None:
    for merge in (merge_answer, overlay):
        try:
            once = merge(config(), patch)
        except ConfigErrors:
            continue
        assert merge(once, patch) == once


_rules = st.fixed_dictionaries(
    {},
    optional={
        "defaultMode": st.sampled_from(["", "enable", "filter", "disable"]),
        "forceCommand": st.text(max_size=3).filter(lambda text: "\0" not in text and (not text or bool(text.strip()))),
        "maxSessions": st.integers(-1, 3),
        "env": st.fixed_dictionaries({}, optional={"allow": st.lists(st.text(max_size=2), max_size=2)}),
    },
)


@given(_rules, _rules)
def test_an_overlay_wins_where_it_speaks_and_nowhere_else(below: dict[str, Any], above: dict[str, Any]) -> None:
    result = overlay(config({"security": below}), {"security": above})
    expected = {**below, **above, "env": {**below.get("env", {}), **above.get("env", {})}}
    assert result.security == config({"security": expected}).security


@given(_rules, _rules)
def test_an_answer_wins_where_it_is_not_empty(below: dict[str, Any], above: dict[str, Any]) -> None:
    result = merge_answer(config({"security": below}), {"security": above})
    allow = above.get("env", {}).get("allow") or below.get("env", {}).get("allow") or []
    expected = {**below, **{key: value for key, value in above.items() if value}, "env": {"allow": allow}}
    assert result.security == config({"security": expected}).security


_anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from([*fields_by_key(AppConfig), "x"]), _anything, max_size=4))
def test_any_answer_gives_a_configuration_or_a_configuration_error(answer: dict[str, Any]) -> None:
    for merge in (merge_answer, overlay):
        try:
            assert isinstance(merge(config(), answer), AppConfig)
        except ConfigErrors as exc:
            assert exc.findings  # noqa: PT017 - most answers are refused, not all


@pytest.mark.parametrize("change", [{"runtime": "/bin/sh"}, {"dataDirectory": "/etc"}, {"DATADIRECTORY": "/root"}])
@pytest.mark.parametrize("merge", [overlay, merge_answer])
def test_what_is_the_machines_cannot_change_for_a_login(
    merge: Callable[[AppConfig, dict[str, object]], AppConfig], change: dict[str, str]
) -> None:
    with pytest.raises(ConfigErrors, match="cannot change for a login"):
        merge(config(), {"oci": change})


def test_what_is_the_machines_can_be_repeated_for_a_login() -> None:
    assert overlay(config(), {"oci": {"runtime": "auto", "hostname": "x"}}).oci.hostname == "x"
