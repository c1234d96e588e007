"""The whole server with a users file on the embedded backend, and the real OpenSSH client."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import resource
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pexpect
import pytest

from containerssh.auth.hashes import hash_password
from tests.support import server as product
from tests.support.oci import image
from tests.support.openssh import OpenSSH, ssh_options
from tests.support.tools import tool
from tests.support.webhook import Reply, webhook

pytestmark = pytest.mark.oci

OCI: dict[str, Any] = {"backend": "oci", "oci": {"image": str(image())}}
PASSWORD = hash_password("secret")


def by_key(path: Path) -> list[str]:
    return ["-i", str(path), *ssh_options("PreferredAuthentications=publickey")]


async def user_with_key(openssh: OpenSSH, options: str = "", **more: Any) -> tuple[Path, dict[str, Any]]:
    key = await openssh.make_key()
    line = f"{options} {key.with_suffix('.pub').read_text().strip()}".strip()
    return key, {"alice": {"authorizedKeys": [line], **more}}


async def test_a_password_opens_a_shell_in_a_container(openssh: OpenSSH) -> None:
    async with product.serving(OCI, {"alice": {"password": PASSWORD}}) as server:
        done = await openssh.run(server, "cat /etc/os-release; echo $$ >&2; exit 7")
        assert (done.status, b"ContainerSSH demo" in done.stdout) == (7, True)
        assert int(done.stderr) < 100, "the container has processes of its own"


async def test_a_wrong_password_and_an_unknown_user_are_refused(openssh: OpenSSH) -> None:
    async with product.serving(OCI, {"alice": {"password": PASSWORD}}) as server:
        wrong = OpenSSH(openssh.folder, password="wrong")
        unknown = OpenSSH(openssh.folder, user="mallory")
        for client in (wrong, unknown):
            done = await client.run(server, "true")
            assert done.status == 255
            assert b"Permission denied" in done.stderr
        await server.until(lambda: len(server.logged("SSH_AUTH_FAILED")) >= 2, "both tries are logged")
        assert "secret" not in (server.folder / "server.log").read_text()


async def test_a_key_logs_in_and_another_does_not(openssh: OpenSSH) -> None:
    key, users = await user_with_key(openssh)
    other = await openssh.make_key("other")
    async with product.serving(OCI, users) as server:
        assert (await openssh.run(server, "echo in", *by_key(key))).stdout == b"in\n"
        assert (await openssh.run(server, "echo in", *by_key(other))).status == 255


async def test_a_keys_options_bind_its_login(openssh: OpenSSH) -> None:
    """authorized_keys(5): a forced command, a variable, no terminal."""
    key, users = await user_with_key(
        openssh, 'command="echo forced $SSH_ORIGINAL_COMMAND $COLOUR; tty",restrict,environment="COLOUR=blue"'
    )
    async with product.serving(OCI, users) as server:
        done = await openssh.run(server, "rm -rf /", *by_key(key))
        assert done.stdout == b"forced rm -rf / blue\nnot a tty\n"
        done = await openssh.run(server, None, "-tt", *by_key(key))
        assert b"PTY allocation request failed" in done.stderr


async def test_a_client_cannot_change_a_variable_of_its_key(openssh: OpenSSH) -> None:
    """As with sshd, where the key's variables are set after the client's."""
    key, users = await user_with_key(openssh, 'environment="TENANT=blue"', environment={"COLOUR": "users"})
    async with product.serving(OCI, users) as server:
        sent = ssh_options("SetEnv=TENANT=red COLOUR=clients")
        done = await openssh.run(server, "echo $TENANT $COLOUR", *sent, *by_key(key))
    assert done.stdout == b"blue clients\n"


@pytest.mark.parametrize(
    ("options", "enters"),
    [
        ('from="127.0.0.0/8"', True),
        ('from="192.0.2.0/24"', False),
        ('from="!127.0.0.1,*"', False),
        ('expiry-time="19990101"', False),
        ('expiry-time="{tomorrow}"', True),
    ],
)
async def test_a_keys_options_say_from_where_and_until_when(openssh: OpenSSH, options: str, enters: bool) -> None:
    tomorrow = dt.datetime.now(dt.UTC) + dt.timedelta(days=1)
    key, users = await user_with_key(openssh, options.format(tomorrow=f"{tomorrow:%Y%m%d}"))
    async with product.serving(OCI, users) as server:
        assert ((await openssh.run(server, "true", *by_key(key))).status == 0) is enters


async def test_a_keys_options_say_where_its_forwards_may_lead(openssh: OpenSSH) -> None:
    options = 'restrict,port-forwarding,permitopen="localhost:9",permitlisten="localhost:8080"'
    key, users = await user_with_key(openssh, options)
    modes = {"forwardingMode": "enable", "reverseForwardingMode": "enable"}
    async with product.serving({**OCI, "security": {"forwarding": modes}}, users) as server:
        # The client tells why a channel was refused.
        allowed = await openssh.run(server, None, "-W", "localhost:9", *by_key(key), *ssh_options("LogLevel=INFO"))
        assert b"connect failed: connection refused" in allowed.stderr
        refused = await openssh.run(server, None, "-W", "localhost:10", *by_key(key), *ssh_options("LogLevel=INFO"))
        assert b"administratively prohibited" in refused.stderr
        for port, status in ((8080, 0), (8081, 255)):
            asked = ("-R", f"{port}:127.0.0.1:1", *ssh_options("ExitOnForwardFailure=yes"))
            assert (await openssh.run(server, "true", *asked, *by_key(key))).status == status


async def test_an_unknown_key_option_keeps_the_server_from_starting(openssh: OpenSSH) -> None:
    _, users = await user_with_key(openssh, 'comand="x"')
    with pytest.raises(AssertionError, match=r"comand|authorizedKeys"):
        async with product.serving(OCI, users):
            pass


async def test_a_users_own_configuration_lies_over_the_files(openssh: OpenSSH) -> None:
    users = {
        "alice": {"password": PASSWORD, "config": {"oci": {"hostname": "hers", "env": ["WHOSE=hers"]}}},
        "bob": {"password": PASSWORD},
    }
    base = {"backend": "oci", "oci": {**OCI["oci"], "hostname": "everybodys", "env": ["WHOSE=everybodys"]}}
    async with product.serving(base, users) as server:
        question = "hostname; echo $WHOSE"
        bob = OpenSSH(openssh.folder, user="bob")
        assert (await openssh.run(server, question)).stdout == b"hers\nhers\n"
        assert (await bob.run(server, question)).stdout == b"everybodys\neverybodys\n"


async def test_the_config_server_has_the_last_word_on_a_users_configuration(openssh: OpenSSH) -> None:
    users = {
        "alice": {
            "password": PASSWORD,
            "metadata": {"team": "blue"},
            "config": {"oci": {"hostname": "hers", "env": ["WHOSE=hers"]}},
        }
    }
    async with webhook() as hook:
        hook.answers = [Reply({"config": {"oci": {"env": ["WHOSE=servers"], "hostname": ""}}})]
        async with product.serving({**OCI, "configserver": {"url": hook.url}}, users) as server:
            assert (await openssh.run(server, "hostname; echo $WHOSE")).stdout == b"hers\nservers\n"
            assert hook.requests[-1].json["metadata"] == {"team": {"value": "blue", "sensitive": False}}
            hook.answers = [Reply({"configMode": "overlay", "config": {"oci": {"hostname": ""}}})]
            done = await openssh.run(server, "hostname; echo $WHOSE")
            assert done.stdout.split()[1:] == [b"hers"]
            assert done.stdout.split()[0] != b"hers", "an overlay says what it names, whatever the value"
            for wrong in ({"oci": {"hostnme": "x"}}, {"backend": "lxc"}, {"oci": {"image": ["x"]}}, "text"):
                hook.answers = [Reply({"config": wrong})]
                done = await openssh.run(server, "echo never")
                assert (done.status, done.stdout, done.stderr[:14]) == (255, b"", b"containerssh: "), wrong


async def test_the_users_file_is_read_again_when_it_changed(openssh: OpenSSH) -> None:
    async with product.serving(OCI, {"bob": {"password": PASSWORD}}) as server:
        assert (await openssh.run(server, "true")).status == 255
        product.write_users(server, {"alice": {"password": PASSWORD}})
        assert (await openssh.run(server, "true")).status == 0
        (server.folder / "users.yaml").write_text("users: [")
        assert (await openssh.run(server, "true")).status == 0, "a broken file leaves the old one in force"
        await server.told("AUTH_USERS_FILE_FAILED")


async def test_a_failed_login_tells_the_user_a_reference_that_is_in_the_log(openssh: OpenSSH) -> None:
    config: Mapping[str, Any] = {"backend": "oci", "oci": {"image": "oci:/nonexistent"}}
    async with product.serving(config, {"alice": {"password": PASSWORD}}) as server:
        done = await openssh.run(server, "echo never")
        assert (done.status, done.stdout) == (255, b"")
        line = done.stderr.decode()
        assert line.startswith("containerssh: ")
        reference = line.split("reference ")[1].rstrip(")\n")
        await server.until(lambda: bool(server.logged("SSH_BACKEND_REJECTED_HANDSHAKE")), "the failure is logged")
        (failure,) = server.logged("SSH_BACKEND_REJECTED_HANDSHAKE")
        assert failure["details"]["connectionId"] == reference
        assert failure["details"]["cause"] == "OCI_IMAGE_FAILED", "the code that the manual explains"


async def test_several_sessions_of_a_connection_share_a_container(openssh: OpenSSH) -> None:
    async with product.serving(OCI, {"alice": {"password": PASSWORD}}) as server:
        control = ssh_options(f"ControlPath={openssh.folder}/ctl", "ControlMaster=auto", "ControlPersist=20")
        names = [(await openssh.run(server, "hostname", *control)).check().stdout for _ in range(3)]
        assert len(set(names)) == 1
        await openssh.run(server, None, *control, "-O", "exit")
        await server.until(lambda: bool(server.logged("SSH_DISCONNECTED")), "the shared connection ended")


async def test_sigterm_ends_sessions_and_leaves_nothing(openssh: OpenSSH) -> None:
    async with product.serving(OCI, {"alice": {"password": PASSWORD}}) as server:
        client = await openssh.begun(server, "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.1; done")
        assert await server.stop() == 0
        assert b"bye" in (await client.communicate())[0]
        assert _leftovers(server) == []


async def test_a_restart_after_a_crash_removes_what_was_left(openssh: OpenSSH) -> None:
    async with product.serving(OCI, {"alice": {"password": PASSWORD}}) as server:
        session = asyncio.create_task(openssh.run(server, "sleep 600"))
        await server.until(lambda: bool(server.logged("SSH_CHANNEL_REQUEST_SUCCESSFUL")), "the program runs")
        await server.kill()
        await session
        assert _leftovers(server)
        (server.folder / "server.log").unlink()
        await server.start()
        await server.until(lambda: bool(server.logged("BACKEND_REAPED")), "the leftovers are removed")
        await server.stop()
        assert _leftovers(server) == []


async def test_the_log_is_reopened_on_sighup(openssh: OpenSSH) -> None:
    async with product.serving(OCI, {"alice": {"password": PASSWORD}}) as server:
        log = server.folder / "server.log"
        log.rename(server.folder / "server.log.1")
        server.process.send_signal(signal.SIGHUP)
        await openssh.run(server, "true")
        await server.until(lambda: bool(server.logged("SSH_DISCONNECTED")), "new lines are in the new file")


async def test_the_usual_limit_on_open_files_does_not_limit_logins(openssh: OpenSSH) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    prefix = [tool("prlimit"), "--nofile=1024:"]
    async with product.serving(OCI, {"alice": {"password": PASSWORD}}, prefix=prefix) as server:
        done = await openssh.run(server, "ulimit -n")
    assert int(done.stdout) == (65_536 if hard == resource.RLIM_INFINITY else min(65_536, hard))


async def test_every_byte_of_a_binary_stream_passes_both_ways(openssh: OpenSSH) -> None:
    data = os.urandom(8 << 20)
    async with product.serving(OCI, {"alice": {"password": PASSWORD}}) as server:
        done = await openssh.run(server, "cat", stdin=data)
    assert done.stdout == data


async def test_a_terminal_has_its_size_and_its_name(openssh: OpenSSH) -> None:
    async with product.serving(OCI, {"alice": {"password": PASSWORD}}) as server:
        terminal = openssh.spawn(server, "stty size; tty", dimensions=(31, 97))
        await terminal.expect(pexpect.EOF, async_=True)
        terminal.close()
        assert terminal.exitstatus == 0
        assert b"31 97\r\n/dev/pts/" in (terminal.before or b"")


def _leftovers(server: product.Server) -> list[str]:
    """What the backend's state folder still holds of logins, and the mounts below it."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if str(server.folder) in line]
    logins = server.folder / "state" / "oci" / "containers"
    held = [str(path) for path in logins.rglob("*")] if logins.exists() else []
    return mounts + held
