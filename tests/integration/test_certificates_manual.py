"""The recipes of the manual's page about certificates, as a reader would follow them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.support import server as product
from tests.support.oci import image
from tests.support.openssh import OpenSSH, run, ssh_options
from tests.support.tools import tool

PAGE = Path(__file__).parents[2] / "docs" / "auth" / "certificates.md"
pytestmark = pytest.mark.oci


def commands(heading: str) -> list[str]:
    """What a section of the page has its reader type."""
    text = PAGE.read_text(encoding="utf-8").split(f"## {heading}\n", 1)[1].split("\n## ")[0]
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]


def configuration(heading: str) -> str:
    text = PAGE.read_text(encoding="utf-8").split(f"## {heading}\n", 1)[1]
    found = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert found
    return found[1]


async def test_the_first_recipe_leads_to_a_login_without_a_question_and_the_list_ends_it(tmp_path: Path) -> None:
    openssh = OpenSSH(tmp_path, password=None)
    for name in ("id_ed25519", "ssh_host_ed25519_key", "stolen"):
        await openssh.make_key(name)

    async def follow(command: str) -> int:
        here = command.replace("/etc/containerssh/", f"{tmp_path}/").replace("~/.ssh", str(tmp_path))
        # Of the passphrases that are asked for there is none.
        done = await run(tool("sh"), "-c", f"cd {tmp_path} && {here}", stdin=b"\n\n\n")
        return done.status

    typed = commands("Quick start")
    assert typed[-1].startswith("ssh -p 2222 alice@gate.example.com")
    for command in typed[:-1]:
        assert await follow(command) == 0, command
    config = YAML(typ="safe").load(configuration("Quick start").replace("/etc/containerssh", str(tmp_path)))
    known = ssh_options(
        "HostKeyAlias=gate.example.com", "StrictHostKeyChecking=yes", "PreferredAuthentications=publickey"
    )
    async with product.serving({**config, "backend": "oci", "oci": {"image": str(image())}}) as server:
        login = ("-i", str(tmp_path / "id_ed25519"), *known)
        assert (await openssh.run(server, "echo in", *login)).stdout == b"in\n"
        *revoking, last = commands("Revocation")
        for command in revoking:
            assert await follow(command) == 0, command
        assert await follow(last) == 1, "ssh-keygen says that the certificate is revoked"
        assert (await openssh.run(server, "echo in", *login)).status == 255
        await server.told("AUTH_KEY_REVOKED")
        stranger = await openssh.run(server, "true", "-o", "HostKeyAlias=gate.example.net", *login[2:])
        assert b"Host key verification failed" in stranger.stderr
