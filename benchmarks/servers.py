"""The servers that are measured, each on a free port of 127.0.0.1 with host keys and users of its own."""

from __future__ import annotations

import getpass
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from tests.support.services import busybox_archive
from tests.support.tools import tool

START_LIMIT = 60.0
STOP_LIMIT = 60.0
_POLL = 0.004
KEX = "curve25519-sha256"


@dataclass(frozen=True)
class Client:
    """The one ssh client that asks all servers: its key, and where it keeps their host keys."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Client:
        folder.mkdir()
        for name in ("id_ed25519", "unknown"):
            key = str(folder / name)
            subprocess.run([tool("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        return cls(folder)

    @property
    def public_key(self) -> str:
        return (self.folder / "id_ed25519.pub").read_text().strip()

    def command(self, server: Server, remote: str, *, cipher: str, kex: str = KEX) -> list[str]:
        """
        The command line, the same for each server but for port and user name.

        The key exchange is fixed unless *kex* is empty: the client's own share of a post-quantum one is larger than all
        else in a login, and which one it takes depends on what the server offers.
        """
        options = {
            "BatchMode": "yes",
            "Ciphers": cipher,
            "ControlPath": "none",
            "IdentitiesOnly": "yes",
            "LogLevel": "ERROR",
            "PreferredAuthentications": "publickey",
            "StrictHostKeyChecking": "accept-new",
            "UserKnownHostsFile": str(self.folder / "known_hosts"),
        }
        if kex:
            options["KexAlgorithms"] = kex
        settings = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        identity = str(self.folder / "id_ed25519")
        where = ["-p", str(server.port), "-l", server.user, "127.0.0.1"]
        return [tool("ssh"), "-F", "none", "-T", "-i", identity, *settings, *where, remote]


@dataclass(frozen=True)
class Server:
    """One that answers."""

    name: str
    port: int
    user: str
    pid: int
    forks: bool = False
    """Whether each connection has a process of its own."""
    answering_ms: float = 0
    """From the command to the first words of a connection."""
    log: Path | None = None
    """Ours: warnings and errors, a JSON object in each line."""


@contextmanager
def openssh(folder: Path, client: Client) -> Iterator[Server]:
    """OpenSSH's sshd, which runs the command on the host itself: no container, the yardstick."""
    folder.mkdir()
    key = folder / "host_key"
    subprocess.run([tool("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    (folder / "authorized_keys").write_text(client.public_key + "\n")
    port = free_port()
    (folder / "sshd_config").write_text(
        f"""\
ListenAddress 127.0.0.1
Port {port}
HostKey {key}
PidFile none
AuthorizedKeysFile {folder}/authorized_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
UsePAM no
PrintMotd no
MaxStartups 1000
MaxSessions 1000
Subsystem sftp /usr/lib/openssh/sftp-server
# bash reads .bashrc under sshd unless it believes to be nested; that file would be measured too.
SetEnv SHLVL=2
"""
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    # sshd starts itself again for each connection and insists on an absolute path.
    command = [str(Path(tool("sshd")).resolve()), "-D", "-e", "-f", str(folder / "sshd_config")]
    with _running(command, port, folder / "log") as (pid, answering):
        yield Server("sshd", port, getpass.getuser(), pid, forks=True, answering_ms=answering)


@contextmanager
def containerssh(
    backend: str,
    folder: Path,
    client: Client,
    *,
    mode: str = "connection",
    processes: int = 1,
    name: str = "",
    section: Mapping[str, object] | None = None,
    also: Mapping[str, object] | None = None,
) -> Iterator[Server]:
    """
    Our server with a users file, on *backend* (oci or docker) in *mode* with the image busybox, or with a *section* as
    given. *name*: as it is called in the report. *also*: further sections of the configuration.
    """
    folder.mkdir()
    port = free_port()
    users = {"users": {"bench": {"authorizedKeys": [client.public_key]}}}
    config: dict[str, object] = {
        "ssh": {"listen": f"127.0.0.1:{port}", "hostKeyDirectory": str(folder / "hostkeys")},
        "auth": {"publicKey": {"method": "users"}, "users": {"file": str(folder / "users.yaml")}},
        "log": {"level": "warning", "format": "ljson", "destination": "stdout"},
        "backend": backend,
        "security": {"forwarding": {"forwardingMode": "enable"}},
    }
    config |= also or {}
    if section is not None:
        config[backend] = section
    elif backend == "oci":
        root = folder / "root"
        with tarfile.open(fileobj=BytesIO(busybox_archive())) as archive:
            archive.extractall(root, filter="tar")
        config["oci"] = {"image": str(root), "dataDirectory": str(folder / "data"), "mode": mode}
    else:
        config["docker"] = {
            "execution": {
                "mode": mode,
                "container": {"image": "bb:latest"},
                "host": {"networkmode": "none"},
                "imagePullPolicy": "Never",
                "shellCommand": ["/bin/sh"],
            }
        }
    # JSON is YAML as well.
    _write_private(folder / "users.yaml", json.dumps(users))
    _write_private(folder / "config.yaml", json.dumps(config, indent=2))
    command = [sys.executable, "-m", "containerssh", "serve", "--config", str(folder / "config.yaml")]
    command += ["--processes", str(processes)] if processes > 1 else []
    with _running(command, port, folder / "log") as (pid, answering):
        yield Server(name or backend, port, "bench", pid, answering_ms=answering, log=folder / "log")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)


@contextmanager
def _running(command: list[str], port: int, log: Path) -> Iterator[tuple[int, float]]:
    began = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        while not (answered := _answers(port)) and process.poll() is None and time.perf_counter() - began < START_LIMIT:
            time.sleep(_POLL)
        answering = (time.perf_counter() - began) * 1000
        if not answered:
            last = "\n".join(log.read_text(errors="replace").splitlines()[-10:])
            raise ChildProcessError(f"{' '.join(command)} does not run (status {process.returncode}):\n{last}")
        yield process.pid, answering
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(port: int) -> bool:
    """Whether a server says that it speaks SSH."""
    try:
        with socket.create_connection(("127.0.0.1", port), START_LIMIT) as probe:
            return probe.recv(4) == b"SSH-"
    except OSError:
        return False
