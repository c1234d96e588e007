"""The whole server with a real directory, and real clients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import server as product
from tests.support.oci import image
from tests.support.openssh import OpenSSH, ssh_options
from tests.support.slapd import GROUPS, PEOPLE, Directory, person, running_slapd
from tests.support.webhook import Reply, webhook

pytestmark = pytest.mark.oci

OCI: dict[str, Any] = {"backend": "oci", "oci": {"image": str(image())}}


@pytest.fixture(scope="module")
def slapd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Directory]:
    with running_slapd(tmp_path_factory.mktemp("slapd")) as found:
        yield found


async def test_passwords_answers_and_keys_of_a_directory_open_sessions(slapd: Directory, tmp_path: Path) -> None:
    client = OpenSSH(tmp_path, user="grace", password=None)
    key = await client.make_key()
    slapd.add(person("grace", sshPublicKey=key.with_suffix(".pub").read_text().strip()))
    slapd.modify(
        f"dn: cn=staff,{GROUPS}\nchangetype: modify\nadd: member\nmember: uid=grace,ou=people,dc=example,dc=test"
    )
    async with webhook() as hook:
        hook.answers = [Reply({"success": True, "environment": {"FROM": {"value": "authz"}}})]
        auth = {
            **{way: {"method": "ldap"} for way in ("password", "publicKey", "keyboardInteractive")},
            "ldap": {**slapd.settings, "authTimeout": "1s", "requiredGroups": [f"cn=staff,{GROUPS}"]},
            "authz": {"method": "webhook", "webhook": {"url": hook.url}},
        }
        async with product.serving({**OCI, "auth": auth}) as server:
            assert (await client.run(server, "echo $FROM", "-i", str(key))).check().stdout == b"authz\n"
            alice = OpenSSH(tmp_path, password="alice-pw")
            for method in ("password", "keyboard-interactive"):
                only = ssh_options(f"PreferredAuthentications={method}")
                assert (await alice.run(server, "echo in", *only)).check().stdout == b"in\n"
                wrong = await OpenSSH(tmp_path, password="wrong-pw").run(server, "true", *only)
                assert (wrong.status, b"Permission denied" in wrong.stderr) == (255, True)
            texts = set()
            for user, password in (("carol", "carol-pw"), ("nobody", "x-pw"), ("*", "alice-pw"), ("alice", "")):
                done = await OpenSSH(tmp_path, user, password).run(server, "true")
                assert done.status == 255
                texts.add(done.stderr.replace(user.encode(), b"NAME"))
            assert len(texts) == 1, "who is refused learns nothing"
            assert not server.logged("SSH_AUTH_UNAVAILABLE")
            slapd.process.terminate()
            slapd.process.wait()
            assert (await alice.run(server, "true", limit=60)).status == 255
            await server.told("SSH_AUTH_UNAVAILABLE")
            log = (server.folder / "server.log").read_text()
    assert hook.requests[0].json["metadata"] == {
        "LDAP_DN": {"value": f"uid=grace,{PEOPLE}", "sensitive": False},
        "LDAP_GROUPS": {"value": f"cn=staff,{GROUPS}", "sensitive": False},
    }
    assert {str(request.json["authenticatedUsername"]) for request in hook.requests} == {"grace", "alice"}
    for secret in ("alice-pw", "wrong-pw", "reader-pw"):
        assert secret not in log
