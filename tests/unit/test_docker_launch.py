"""What the engine is asked to create: labels, environment, mounts."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

from containerssh.backends.docker.launch import agent_is_main, create_body, environment
from containerssh.backends.docker.start import agent_archive
from containerssh.config.docker import DockerConfig, DockerExecutionConfig
from containerssh.core.metadata import Login, SocketAddress, Value

LOGIN = Login(
    SocketAddress("192.0.2.7", 4022),
    "c0ffee" + "0" * 26,
    metadata={"TEAM": Value("blue"), "A": Value("metadata")},
    environment={"A": Value("login"), "SECRET": Value("s", sensitive=True)},
    username="Alice Ä",
    authenticated_username="alice",
)


def execution(**keys: Any) -> DockerExecutionConfig:
    return DockerConfig.model_validate({"execution": keys}).execution


def body(config: DockerExecutionConfig, **more: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"instance": "1" * 16, "launch": "2" * 32, "expiry": {}, "command": ["/agent", "serve"]}
    return create_body(config, LOGIN, **{**given, **more})


def test_the_agents_archive_ends_where_a_reader_stops(tmp_path: Path) -> None:
    """Two empty blocks (tar(5)) and no padding behind them, which would meet a closed pipe in Podman."""
    (tmp_path / "agent").write_bytes(b"x" * 700)
    archive = agent_archive(tmp_path / "agent")
    assert archive[-1024:] == bytes(1024)
    assert archive[-1536:-1024] != bytes(512)
    with tarfile.open(fileobj=io.BytesIO(archive)) as unpacked:
        assert unpacked.getmembers()[-1].size == 700


def test_labels_tell_whose_container_it_is_and_own_labels_stay() -> None:
    config = execution(container={"labels": {"team": "blue", "containerssh_instance": "forged"}})
    assert body(config)["Labels"] == {
        "team": "blue",
        "containerssh_connection_id": LOGIN.connection_id,
        "containerssh_ip": "192.0.2.7",
        "containerssh_username": "Alice Ä",
        "containerssh_instance": "1" * 16,
        "containerssh_launch": "2" * 32,
    }


def test_the_logins_environment_wins_and_metadata_is_exposed_on_request_alone() -> None:
    env = ["A=config", "B=config", "GONE"]
    assert environment(execution(container={"env": env}), LOGIN) == ["A=login", "B=config", "GONE", "SECRET=s"]
    exposed = environment(execution(container={"env": env}, exposeAuthMetadataAsEnv=True), LOGIN)
    assert exposed == ["A=login", "B=config", "GONE", "TEAM=blue", "SECRET=s"]


def test_a_variable_that_no_process_can_have_is_left_out() -> None:
    """Upstream's login fails with it."""
    login = LOGIN.with_values({}, {"": Value("x"), "A=B": Value("x"), "N": Value("a\0b"), "OK": Value("=")}, {})
    assert environment(execution(), login) == ["A=login", "SECRET=s", "OK=="]


def test_the_configured_host_and_network_pass_through() -> None:
    config = execution(
        host={"memory": 7, "mounts": [{"type": "tmpfs", "target": "/t"}], "init": True, "logconfig": {"type": "none"}},
        network={"endpointsconfig": {"lab": {}}},
    )
    made = body(config, mount={"Type": "bind"})
    assert made["HostConfig"] == {
        "Memory": 7,
        "Mounts": [{"Type": "tmpfs", "Target": "/t"}, {"Type": "bind"}],
        "Init": True,
        "LogConfig": {"Type": "none"},
    }
    assert made["NetworkingConfig"] == {"EndpointsConfig": {"lab": {}}}
    assert config.host["Mounts"] == [{"Type": "tmpfs", "Target": "/t"}]


def test_a_guest_cannot_fill_the_hosts_disk_through_its_log() -> None:
    assert body(execution())["HostConfig"]["LogConfig"]["Config"]["max-size"] == "1m"


def test_the_engine_keeps_nothing_of_what_we_read_unless_it_was_told_to() -> None:
    assert body(execution(), attached=True)["HostConfig"]["LogConfig"] == {"Type": "none"}
    chosen = execution(host={"logconfig": {"type": "journald"}})
    assert body(chosen, attached=True)["HostConfig"]["LogConfig"]["Type"] == "journald"


def test_the_entrypoint_stays_and_the_command_is_ours() -> None:
    made = body(execution(container={"entrypoint": ["/init"], "cmd": ["never"], "tty": True}))
    assert (made["Entrypoint"], made["Cmd"], made["Tty"]) == (["/init"], ["/agent", "serve"], True)


def test_streams_that_are_used_have_no_terminal() -> None:
    made = body(execution(container={"tty": True}), attached=True)
    assert made["OpenStdin"] is made["StdinOnce"] is made["AttachStdout"] is True
    assert made["Tty"] is False


def test_our_agent_takes_the_place_of_a_waiting_agent_alone() -> None:
    assert agent_is_main(execution())
    assert agent_is_main(execution(agentPath="/opt/agent", idleCommand=["/opt/agent", "wait-signal"]))
    assert not agent_is_main(execution(idleCommand=["/bin/sleep", "infinity"]))
    assert agent_is_main(execution(mode="session", idleCommand=["/bin/sleep", "infinity"]))
