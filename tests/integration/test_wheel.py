"""The wheel: what is in it, and that what was installed from it lets a real client in."""

from __future__ import annotations

import os
import struct
import subprocess
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.tools import tool

ROOT = Path(__file__).parents[2]
MACHINES = {"amd64": 0x3E, "arm64": 0xB7}
"""e_machine in the ELF header (elf(5))."""
LARGEST = {"": 4 * 1024 * 1024, "direct-": 6 * 1024 * 1024}
"""Bytes, by the kind of the agent."""
PT_INTERP = 3


@dataclass(frozen=True)
class Installed:
    """A virtual environment that holds the wheel and what it depends on, in the locked versions; Go is not in reach."""

    wheel: Path
    bin: Path

    def run(self, *command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": f"{self.bin}:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": os.environ.get("HOME", "/")}
        return subprocess.run(
            [str(self.bin / command[0]), *command[1:]],
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
        )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("wheel")
    uv = tool("uv")

    def call(*arguments: str) -> None:
        done = subprocess.run([uv, *arguments], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, f"uv {' '.join(arguments)}\n{done.stderr}"

    call("build", "--quiet", "--wheel", "--out-dir", str(folder / "dist"))
    (wheel,) = (folder / "dist").glob("*.whl")
    locked = str(folder / "locked.txt")
    call("export", "--quiet", "--frozen", "--no-dev", "--no-emit-project", "--no-hashes", "--output-file", locked)
    call("venv", "--quiet", str(folder / "venv"))
    python = str(folder / "venv" / "bin" / "python")
    call("pip", "install", "--quiet", "--python", python, "--constraints", locked, str(wheel))
    return Installed(wheel, folder / "venv" / "bin")


@pytest.mark.parametrize("kind", LARGEST)
@pytest.mark.parametrize("platform", MACHINES)
def test_the_wheel_carries_a_small_static_executable_agent(installed: Installed, platform: str, kind: str) -> None:
    with zipfile.ZipFile(installed.wheel) as archive:
        entry = archive.getinfo(f"containerssh/agent/bin/containerssh-agent-{kind}linux-{platform}")
        program = archive.read(entry)
    assert (entry.external_attr >> 16) & 0o111 == 0o111
    assert entry.file_size < LARGEST[kind]
    assert _machine(program) == MACHINES[platform]
    assert PT_INTERP not in _segment_types(program)


def test_an_installed_agent_is_executable(installed: Installed) -> None:
    done = installed.run("python", "-c", "import containerssh.agent as a; print(a.__path__[0])", cwd=installed.bin)
    binaries = [*Path(done.stdout.strip(), "bin").iterdir()]
    assert len(binaries) == len(MACHINES) * len(LARGEST)
    assert all(os.access(binary, os.X_OK) for binary in binaries)


def test_the_installed_command_tells_its_version(installed: Installed, tmp_path: Path) -> None:
    done = installed.run("containerssh", "--version", cwd=tmp_path)
    version = installed.wheel.name.split("-")[1]
    assert (done.returncode, done.stdout) == (0, f"ContainerSSH {version}\n")


@pytest.mark.oci
def test_a_real_client_logs_in_to_what_was_installed(installed: Installed, tmp_path: Path) -> None:
    tool("busybox")
    done = installed.run("containerssh", "demo", "--once", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "uid=0(root)" in done.stdout


def _machine(program: bytes) -> int:
    assert program[:6] == b"\x7fELF\x02\x01", "not a 64-bit little-endian ELF file"
    return int(struct.unpack_from("<H", program, 18)[0])


def _segment_types(program: bytes) -> list[int]:
    (table,) = struct.unpack_from("<Q", program, 32)
    size, count = struct.unpack_from("<HH", program, 54)
    return [struct.unpack_from("<I", program, table + number * size)[0] for number in range(count)]
