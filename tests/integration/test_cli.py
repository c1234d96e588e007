"""The command as a shell runs it: what stands on which stream, and the exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

PROGRAM = [sys.executable, "-m", "containerssh"]
WEBHOOK = {"password": {"method": "webhook", "webhook": {"url": "http://127.0.0.1:9", "timeout": "1s"}}}


def run(folder: Path, *arguments: str, words: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PROGRAM, *arguments], cwd=folder, input=words, capture_output=True, text=True, timeout=60)


def write(folder: Path, **config: object) -> str:
    path = folder / "config.yaml"
    path.write_text(json.dumps({"auth": WEBHOOK, **config}))
    path.chmod(0o600)
    return str(path)


def test_without_a_configuration_one_line_says_what_to_do(tmp_path: Path) -> None:
    done = run(tmp_path)
    (line,) = done.stdout.splitlines()
    entry = json.loads(line)
    assert (done.returncode, done.stderr, entry["code"]) == (1, "", "CORE_CONFIG_ERROR")
    assert entry["details"]["module"] == "core"
    assert str(tmp_path / "config.yaml") in entry["message"]
    assert "--config" in entry["message"]
    assert "containerssh demo" in entry["message"]


def test_on_a_terminal_that_line_is_for_people(tmp_path: Path) -> None:
    terminal = pexpect.spawn(PROGRAM[0], PROGRAM[1:], cwd=str(tmp_path), env=dict(os.environ), encoding="utf-8")
    terminal.expect(pexpect.EOF)
    shown = terminal.before or ""
    terminal.close()
    assert (terminal.exitstatus, shown.count("\n")) == (1, 1)
    assert "\tcrit\tInvalid configuration in file" in shown


def test_config_check_tells_by_its_status_whether_a_server_would_start(tmp_path: Path) -> None:
    good = run(tmp_path, "config", "check", write(tmp_path, backend="auto"))
    assert (good.returncode, good.stderr, good.stdout.strip().endswith("valid")) == (0, "", True), good.stdout
    bad = run(tmp_path, "config", "check", write(tmp_path, backend="dcker", sssh={}))
    assert (bad.returncode, len(bad.stdout.splitlines())) == (1, 2)
    assert "2 errors" in bad.stderr


@pytest.mark.parametrize("mistake", ["oops: 1", "password: plain", "config: {backend: dcker}"])
def test_config_check_looks_into_the_users_file(tmp_path: Path, mistake: str) -> None:
    users = tmp_path / "users.yaml"
    auth = {"password": {"method": "users"}, "users": {"file": str(users)}}
    for content, status in ((f"users:\n  alice:\n    {mistake}\n", 1), ("users: {alice: {}}\n", 0)):
        users.write_text(content)
        users.chmod(0o600)
        done = run(tmp_path, "config", "check", write(tmp_path, auth=auth, backend="auto"))
        told = f"{users}:3: error: users.alice.{mistake.partition(':')[0]}: " in done.stdout
        assert (done.returncode, told) == (status, status == 1), done.stdout


def test_config_check_tells_that_the_log_file_has_no_folder(tmp_path: Path) -> None:
    log = {"destination": "file", "file": str(tmp_path / "none" / "server.log")}
    done = run(tmp_path, "config", "check", write(tmp_path, log=log))
    assert done.returncode == 1
    assert "error: log.file: cannot open" in done.stdout


def test_dump_config_prints_nothing_but_yaml_and_no_secret(tmp_path: Path) -> None:
    path = write(tmp_path, docker={"execution": {"auth": {"username": "u", "password": "hunter2"}}})
    done = run(tmp_path, "-dump-config", "-config", path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "hunter2" not in done.stdout
    again = tmp_path / "dumped.yaml"
    again.write_text(done.stdout)
    assert "this is the mask" in run(tmp_path, "--dump-config", "--config", str(again)).stderr
    done = run(tmp_path, "-dump-config", "-config", write(tmp_path))
    again.write_text(done.stdout)
    assert run(tmp_path, "--dump-config", "--config", str(again)).stdout == done.stdout


def test_a_health_check_of_a_server_that_is_not_there_fails(tmp_path: Path) -> None:
    off = run(tmp_path, "--healthcheck", "--config", write(tmp_path))
    assert off.returncode == 0, "the endpoint is off: there is nothing to ask"
    path = write(tmp_path, health={"enable": True, "listen": "127.0.0.1:9", "client": {"url": "http://127.0.0.1:9"}})
    down = run(tmp_path, "--healthcheck", "--config", path)
    assert down.returncode == 1
    assert '"CORE_HEALTH_CHECK_FAILED"' in down.stdout


def test_licenses_names_what_the_server_is_built_on(tmp_path: Path) -> None:
    done = run(tmp_path, "--licenses")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Apache License" in done.stdout
    for package in ("asyncssh", "pydantic", "ruamel-yaml", "cryptography"):
        assert f"\n- {package} " in done.stdout
    assert "OSI Approved" not in done.stdout


def test_the_schema_is_json(tmp_path: Path) -> None:
    assert "ssh" in json.loads(run(tmp_path, "config", "schema").stdout)["properties"]


@pytest.mark.parametrize("arguments", [["--nosuch"], ["srve"], ["config"], ["config", "chek", "x"]])
def test_a_wrong_command_line_ends_with_two_and_a_hint(tmp_path: Path, arguments: list[str]) -> None:
    done = run(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--help" in done.stderr


@pytest.mark.parametrize(("words", "status"), [("secret\n", 0), ("secret", 0), ("\n", 1), ("", 1)])
def test_hash_password_reads_one_line(tmp_path: Path, words: str, status: int) -> None:
    done = run(tmp_path, "hash-password", "--kind", "scrypt", words=words)
    assert done.returncode == status
    assert done.stdout.startswith("$scrypt$") is (status == 0)
    assert "secret" not in done.stdout + done.stderr


def test_what_a_terminal_cannot_show_is_shown_in_another_way(tmp_path: Path) -> None:
    path = write(tmp_path, ssh={"bänner": ""})
    locale = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([*PROGRAM, "config", "check", path], env=locale, capture_output=True, timeout=60)
    assert done.returncode == 1
    assert rb"ssh.b\xe4nner: unknown key" in done.stdout
    assert done.stderr.count(b"\n") == 1


def test_a_dump_is_utf8_in_every_locale(tmp_path: Path) -> None:
    path = write(tmp_path, ssh={"banner": "h\N{LATIN SMALL LETTER I WITH DIAERESIS}"})
    locale = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [*PROGRAM, "--dump-config", "--config", path]
    done = subprocess.run(command, env=locale, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "h\N{LATIN SMALL LETTER I WITH DIAERESIS}" in done.stdout.decode()


def test_a_full_disk_is_told_in_one_line(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([*PROGRAM, "config", "schema"], stdout=full, stderr=subprocess.PIPE, timeout=60)
    assert (done.returncode, done.stderr) == (1, b"containerssh: No space left on device\n")


def test_a_reader_that_leaves_is_no_matter_for_words() -> None:
    schema = subprocess.Popen([*PROGRAM, "config", "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert schema.stdout is not None
    schema.stdout.close()
    _, words = schema.communicate(timeout=60)
    assert (schema.returncode, words) == (1, b"")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_is_closed_breaks_nothing(tmp_path: Path, closed: str) -> None:
    shell = ["/bin/sh", "-c", f'exec "$@" {closed}', "sh", *PROGRAM, "--licenses"]
    done = subprocess.run(shell, cwd=tmp_path, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (b"Apache License" in done.stdout) is (">&-" not in closed.replace("2>&-", ""))


@pytest.mark.parametrize(("words", "status"), [("pässword\n".encode(), 0), (b"p\xe4ssword\n", 1)])
def test_a_password_is_utf8_in_every_locale(words: bytes, status: int) -> None:
    locale = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [*PROGRAM, "hash-password", "--kind", "scrypt"]
    done = subprocess.run(command, env=locale, input=words, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (
        status,
        b"containerssh: the password is not valid UTF-8\n" if status else b"",
    )


def test_a_state_folder_that_cannot_be_made_is_named_with_the_way_out(tmp_path: Path) -> None:
    path = write(tmp_path, ssh={"listen": "127.0.0.1:1"})
    for variable, other in (("STATE_DIRECTORY", "RUNTIME_DIRECTORY"), ("RUNTIME_DIRECTORY", "STATE_DIRECTORY")):
        environment = {**os.environ, variable: "/proc/nope", other: str(tmp_path / "folder")}
        done = subprocess.run([*PROGRAM, "--config", path], env=environment, capture_output=True, timeout=60)
        (line,) = done.stdout.splitlines()
        entry = json.loads(line)
        assert (done.returncode, done.stderr, entry["code"]) == (1, b"", "SERVICE_CRASHED")
        assert "/proc/nope cannot be used: No such file or directory" in entry["message"]
        assert f"another folder can be named by {variable}" in entry["message"]
