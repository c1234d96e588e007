"""What users of OpenSSH's client read where the server works without its agent, or lends none to the container."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from containerssh.auth.hashes import hash_password
from tests.support import server as product
from tests.support.oci import image
from tests.support.openssh import OpenSSH
from tests.support.services import Engine

PASSWORD = {"password": hash_password("secret")}
WITHOUT = "needs the guest agent, which this server works without"


@contextmanager
def an_ssh_agent(folder: Path) -> Iterator[str]:
    """The socket of a running ssh-agent."""
    path = folder / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.PIPE) as agent:
        assert agent.stdout is not None
        assert agent.stdout.readline()
        try:
            yield str(path)
        finally:
            agent.terminate()


def plain_docker(engine: Engine) -> dict[str, Any]:
    execution = {
        "agent": "none",
        "container": {"image": "bb:latest"},
        "idleCommand": ["/bin/sleep", "600"],
        "shellCommand": ["/bin/sh"],
    }
    return {
        "backend": "docker",
        "docker": {"connection": {"host": engine.address}, "execution": execution},
    }


@pytest.mark.docker
async def test_without_an_agent_users_read_in_plain_words_what_is_missing(
    openssh: OpenSSH, docker_engine: Engine
) -> None:
    async with product.serving(plain_docker(docker_engine), {"alice": PASSWORD}) as server:
        program = await openssh.run(server, "/no/such/program")
        assert program.stderr.decode().endswith("containerssh: /no/such/program: no such file or directory\n")
        assert (program.status, program.stdout) == (126, b"")

        files = await openssh.run(server, "sftp", "-s")
        assert b"containerssh: /usr/lib/openssh/sftp-server: no such file or directory\n" in files.stderr

        terminal = await openssh.run(server, "/no/such/program", "-tt")
        assert b"containerssh: /no/such/program: no such file or directory\r\n" in terminal.stdout

        with an_ssh_agent(openssh.folder) as socket:
            lent = await openssh.run(server, "true", "-A", "-o", f"IdentityAgent={socket}", "-tt")
            assert lent.status == 0
            assert f"containerssh: forwarding of the ssh-agent {WITHOUT}\r\n".encode() in lent.stderr
            quiet = await openssh.run(server, "true", "-A", "-o", f"IdentityAgent={socket}")
            assert WITHOUT.encode() not in quiet.stderr, "programs read that one"


@pytest.mark.oci
async def test_a_user_at_a_terminal_hears_that_the_policy_refuses_the_ssh_agent(
    openssh: OpenSSH,
) -> None:
    configuration = {
        "backend": "oci",
        "oci": {"image": str(image())},
        "security": {"forwarding": {"agentForwardingMode": "disable"}},
    }
    async with product.serving(configuration, {"alice": PASSWORD}) as server:
        with an_ssh_agent(openssh.folder) as socket:
            lending = ("-A", "-o", f"IdentityAgent={socket}", "-tt")
            done = await openssh.run(server, 'echo "agent: $SSH_AUTH_SOCK."', *lending)
    assert b"agent: .\r\n" in done.stdout
    assert done.stderr.count(b"containerssh: Forwarding an ssh-agent is not allowed.\r\n") == 1
