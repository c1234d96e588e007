"""``containerssh demo`` as a newcomer runs it: with and without a terminal, and on machines that lack something."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pexpect
import pytest

from tests.support.oci import needs_root
from tests.support.openssh import OpenSSH
from tests.support.tools import tool
from tests.support.users import as_user, ordinary_user, reachable_packages, reachable_python

pytestmark = pytest.mark.oci

LIMIT = 60
DEMO = [sys.executable, "-m", "containerssh", "demo"]
READY = "Ctrl-C ends the demo"


@pytest.fixture
def environment(tmp_path: Path) -> Mapping[str, str]:
    """Folders of its own, so that what it leaves can be seen."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "home").mkdir()
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path / "home"),
        "TMPDIR": str(tmp_path / "tmp"),
        "STATE_DIRECTORY": str(tmp_path / "state"),
    }


@pytest.fixture
def terminal(environment: Mapping[str, str], tmp_path: Path) -> Iterator[pexpect.spawn[str]]:
    child = pexpect.spawn(DEMO[0], DEMO[1:], cwd=tmp_path, env=dict(environment), timeout=LIMIT, encoding="utf-8")
    try:
        yield child
    finally:
        if child.isalive():
            child.kill(signal.SIGTERM)
            child.expect(pexpect.EOF)
            child.wait()
        child.close()


def run(
    environment: Mapping[str, str], *arguments: str, prefix: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, *DEMO, *arguments],
        env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT,
    )  # fmt: skip


def left_by(environment: Mapping[str, str]) -> list[str]:
    """Files of the demo, and mounts below its folders."""
    state = Path(environment["STATE_DIRECTORY"])
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if f" {state}" in line]
    containers = [str(path) for path in (state / "oci" / "containers").rglob("*")]
    return mounts + containers + [str(path) for path in Path(environment["TMPDIR"]).iterdir()]


def test_it_logs_in_and_shows_the_answer(environment: Mapping[str, str]) -> None:
    done = run(environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "uid=0(root)" in done.stdout
    assert "backend oci" in done.stdout
    assert re.search(r"^    ssh -p \d+ .*alice@127\.0\.0\.1$", done.stdout, re.MULTILINE)
    assert left_by(environment) == []


def test_the_printed_line_works_until_ctrl_c_which_leaves_nothing(
    terminal: pexpect.spawn[str], environment: Mapping[str, str]
) -> None:
    terminal.expect(r"    (ssh -p \d+ [^\r\n]*alice@127\.0\.0\.1)\r\n")
    line = shlex.split(_found(terminal)[1])
    terminal.expect(READY)
    hand = subprocess.run(
        [*line, "cat /etc/os-release"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT
    )
    assert (hand.returncode, "ContainerSSH demo" in hand.stdout) == (0, True), hand.stderr
    (folder,) = Path(environment["TMPDIR"]).glob("containerssh-demo-*")
    log = [json.loads(entry) for entry in (folder / "server.log").read_text().splitlines()]
    assert not [entry for entry in log if entry["code"] == "SSH_HANDSHAKE_FAILED"]
    terminal.sendintr()
    terminal.expect(pexpect.EOF)
    terminal.wait()
    assert terminal.exitstatus == 0
    assert left_by(environment) == []


def test_the_printed_password_works(terminal: pexpect.spawn[str], tmp_path: Path) -> None:
    terminal.expect(r"with the password (\S+) from any SSH client, user alice, port (\d+)")
    found = _found(terminal)
    password, port = found[1], int(found[2])
    terminal.expect(READY)
    client = OpenSSH(tmp_path, password=password)
    assert asyncio.run(client.run(_Listening(port), "echo in")).stdout == b"in\n"


def test_a_terminal_that_is_closed_takes_the_server_along(
    terminal: pexpect.spawn[str], environment: Mapping[str, str]
) -> None:
    terminal.expect(READY)
    terminal.kill(signal.SIGHUP)
    terminal.expect(pexpect.EOF)
    terminal.wait()
    assert left_by(environment) == []
    assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if _mentions(path, environment["TMPDIR"])]


def _mentions(cmdline: Path, folder: str) -> bool:
    try:
        return folder.encode() in cmdline.read_bytes()
    except OSError:
        return False


def _found(terminal: pexpect.spawn[str]) -> re.Match[str]:
    assert isinstance(terminal.match, re.Match)
    return terminal.match


class _Listening:
    """A server that somebody else started."""

    def __init__(self, port: int) -> None:
        self.port = port


def test_sigterm_while_it_stays_without_a_terminal_leaves_nothing(environment: Mapping[str, str]) -> None:
    demo = subprocess.Popen([*DEMO, "--stay"], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert demo.stdout is not None
    for line in demo.stdout:
        if READY.encode() in line:
            break
    demo.send_signal(signal.SIGTERM)
    demo.stdout.read()
    assert demo.wait(LIMIT) == 0
    demo.stdout.close()
    assert left_by(environment) == []


def test_ctrl_c_at_any_time_leaves_nothing(terminal: pexpect.spawn[str], environment: Mapping[str, str]) -> None:
    terminal.expect("Configuration")
    terminal.sendintr()
    terminal.expect(pexpect.EOF)
    terminal.wait()
    assert terminal.exitstatus == 130
    assert left_by(environment) == []


@needs_root
@pytest.mark.docker
@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("backend", ["docker", "auto"])
def test_it_brings_its_image_to_an_engine(environment: Mapping[str, str], backend: str) -> None:
    """Without the engine's own command line client."""
    done = run(environment, "--backend", backend, prefix=_without("docker"))
    assert done.returncode == 0, done.stderr
    assert "docker" in done.stdout.splitlines()[1]
    assert "uid=0(root)" in done.stdout


@needs_root
@pytest.mark.parametrize(
    ("missing", "advice"),
    [
        (["crun", "runc"], "apt install crun"),
        (["busybox"], "apt install busybox-static"),
        (["ssh"], "apt install openssh-client"),
    ],
)
def test_it_says_what_is_missing_and_how_to_get_it(
    environment: Mapping[str, str], missing: list[str], advice: str
) -> None:
    done = run(environment, prefix=_without(*missing))
    assert (done.returncode, advice in done.stderr) == (1, True), done.stderr
    assert "Traceback" not in done.stderr
    assert left_by(environment) == []


def _without(*programs: str) -> list[str]:
    """What begins the command line of a program that cannot find these *programs*, wherever it looks."""
    hide = "".join(f"mount --bind /dev/null {tool(program)}; " for program in programs)
    return [tool("unshare"), "--mount", "sh", "-ec", hide + 'exec "$@"', "sh"]


@needs_root
def test_an_ordinary_user_needs_no_root() -> None:
    with ordinary_user() as name:
        done = _run_as(name)
    assert (done.returncode, done.stderr) == (0, "")
    assert "uid=0(root)" in done.stdout


@needs_root
def test_an_ordinary_user_is_told_of_a_missing_uidmap() -> None:
    with ordinary_user() as name:
        done = _run_as(name, prefix=_without("newuidmap"))
    assert (done.returncode, "apt install uidmap" in done.stderr) == (1, True), done.stderr


def _run_as(name: str, prefix: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """With a login shell's variables and nothing else; the packages are where root has them."""
    entry = pwd.getpwnam(name)
    return subprocess.run(
        [*prefix, *as_user(name), reachable_python(), "-B", *DEMO[1:]],
        env={"HOME": entry.pw_dir, "USER": name, "PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(reachable_packages())},
        cwd=entry.pw_dir, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT,
    )  # fmt: skip
