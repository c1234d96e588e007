"""The command line: upstream's flags in Go's spelling, and our sub-commands."""

from __future__ import annotations

import pytest

from containerssh.cli.arguments import UsageError, parse


@pytest.mark.parametrize(
    "arguments",
    [
        ["--config", "a.yaml"],
        ["-config", "a.yaml"],
        ["--config=a.yaml"],
        ["-config=a.yaml"],
        ["serve", "--config", "a.yaml"],
    ],
)
def test_the_server_is_started_with_a_config_in_every_spelling(arguments: list[str]) -> None:
    parsed = parse(arguments)
    assert (parsed.action, parsed.config) == ("serve", "a.yaml")


def test_without_arguments_the_server_reads_config_yaml() -> None:
    parsed = parse([])
    assert (parsed.action, parsed.config) == ("serve", "config.yaml")


def test_the_config_before_a_command_is_kept() -> None:
    assert parse(["--config", "a.yaml", "serve"]).config == "a.yaml"


@pytest.mark.parametrize(
    ("arguments", "action"),
    [
        (["--dump-config"], "dump-config"),
        (["-dump-config"], "dump-config"),
        (["--dump-config=true"], "dump-config"),
        (["--dump-config=false"], "serve"),
        (["--healthcheck"], "healthcheck"),
        (["--licenses"], "licenses"),
        (["--healthcheck", "--licenses", "--dump-config"], "dump-config"),
        (["--healthcheck", "--licenses"], "licenses"),
        (["demo"], "demo"),
        (["config", "check", "x.yaml"], "config-check"),
        (["config", "schema"], "config-schema"),
        (["hash-password"], "hash-password"),
        (["remembered", "list"], "remembered-list"),
        (["remembered", "revoke", "alice"], "remembered-revoke"),
        (["remembered", "revoke", "--all", "--state", "/tmp"], "remembered-revoke"),
    ],
)
def test_flags_and_commands_choose_the_action(arguments: list[str], action: str) -> None:
    assert parse(arguments).action == action


@pytest.mark.parametrize(
    ("arguments", "file"),
    [
        (["config", "check"], "config.yaml"),
        (["--config", "a.yaml", "config", "check"], "a.yaml"),
        (["--config", "a.yaml", "config", "check", "b.yaml"], "b.yaml"),
        (["--config", "a.yaml", "config", "explain", "--user", "alice"], "a.yaml"),
    ],
)
def test_a_look_at_a_configuration_is_at_the_named_one(arguments: list[str], file: str) -> None:
    assert parse(arguments).file == file


@pytest.mark.parametrize(
    "arguments", [["demo", "--port", "65536"], ["serve", "--processes", "x"], ["serve", "--processes", "257"]]
)
def test_a_number_that_cannot_be_is_refused_by_name(arguments: list[str]) -> None:
    with pytest.raises(UsageError, match=f"{arguments[1]}: '{arguments[2]}' is not a number from 0 to "):
        parse(arguments)


def test_a_switch_beside_a_command_is_not_passed_over() -> None:
    with pytest.raises(UsageError, match="--dump-config does not go with a command"):
        parse(["--dump-config", "serve"])


@pytest.mark.parametrize(
    "arguments", [["--nosuch"], ["nosuch"], ["--dump-config=maybe"], ["config"], ["demo", "--port", "x"]]
)
def test_nonsense_is_a_usage_error(arguments: list[str]) -> None:
    with pytest.raises(UsageError):
        parse(arguments)


def test_version_names_the_product(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["-version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("ContainerSSH ")
