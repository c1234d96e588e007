"""The security section as OpenSSH's client meets it: the whole server, real containers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from containerssh.auth.hashes import hash_password
from tests.support import server as product
from tests.support.oci import image
from tests.support.openssh import OpenSSH, ssh_options

pytestmark = pytest.mark.oci

PASSWORD = {"password": hash_password("secret")}


def configured(**security: Any) -> dict[str, Any]:
    return {"backend": "oci", "oci": {"image": str(image())}, "security": security}


async def reached(openssh: OpenSSH, server: product.Server, target: str) -> str:
    """What becomes of a connection to *target*, where nobody listens."""
    done = await openssh.run(server, None, "-W", target, "-o", "LogLevel=INFO")
    assert done.status == 255
    told = done.stderr.decode().lower()
    # A refusal by the container means that somebody has tried.
    return "tried" if "connection refused" in told else "prohibited" if "administratively prohibited" in told else told


async def test_forwards_go_only_where_the_lists_let_them(openssh: OpenSSH) -> None:
    forwarding = {
        "forwardingMode": "filter",
        "forwardingAllow": ["localhost:3000-3999", "127.0.0.5:22", "*.here:80"],
        "forwardingDeny": ["*:3500", "127.0.0.9"],
    }
    async with product.serving(configured(forwarding=forwarding), {"alice": PASSWORD}) as server:
        found = {
            target: await reached(openssh, server, target)
            for target in (
                *("localhost:3000", "127.0.0.1:3999", "0.0.0.0:3000", "127.0.0.5:22"),
                *("localhost:4000", "127.0.0.1:3500", "127.0.0.9:3000", "127.0.0.6:22", "10.0.0.1:3000"),
            )
        }
        lines = await server.told("SECURITY_FORWARDING_REJECTED", 5)
    assert list(found.values()) == ["tried"] * 4 + ["prohibited"] * 5, found
    assert len(lines) == 5
    assert {line["level"] for line in lines} == {"debug"}


async def test_networks_hold_for_what_a_name_resolves_to_in_the_container(openssh: OpenSSH) -> None:
    forwarding = {"forwardingMode": "enable", "forwardingDeny": ["127.0.0.0/8", "[::1]"]}
    async with product.serving(configured(forwarding=forwarding), {"alice": PASSWORD}) as server:
        assert await reached(openssh, server, "localhost:80") == "prohibited"
        assert await reached(openssh, server, "LOCALHOST.:80") == "prohibited"
    # The container may call any address by any name: it cannot get more than its network allows.
    allowed = {"forwardingMode": "filter", "forwardingAllow": ["10.0.0.0/8"]}
    async with product.serving(configured(forwarding=allowed), {"alice": PASSWORD}) as server:
        assert await reached(openssh, server, "localhost:80") == "prohibited"


async def test_listening_is_allowed_by_address_and_port(openssh: OpenSSH) -> None:
    forwarding = {
        "reverseForwardingMode": "filter",
        "reverseForwardingAllow": ["localhost:8000-8999"],
        "reverseForwardingDeny": ["*:8500"],
        "socketListenMode": "filter",
        "socketListenAllow": ["/tmp/*.sock"],
    }
    strict = ("-o", "ExitOnForwardFailure=yes")
    async with product.serving(configured(forwarding=forwarding), {"alice": PASSWORD}) as server:
        for listen, status in (
            ("8080", 0), ("127.0.0.1:8080", 0), ("*:8080", 255), ("8500", 255), ("9000", 255), ("0", 255),
            ("/tmp/x.sock", 0), ("/tmp/../tmp/x.sock", 255), ("/tmp/y/x.sock", 255),
        ):  # fmt: skip
            done = await openssh.run(server, "true", *strict, "-R", f"{listen}:localhost:9")
            assert done.status == status, (listen, done)


async def test_one_user_may_forward_and_another_may_not(openssh: OpenSSH, tmp_path: Path) -> None:
    own = {"security": {"forwarding": {"forwardingMode": "filter", "forwardingAllow": ["localhost:80"]}}}
    wrong = {"security": {"forwarding": {"forwardingMode": "filtered"}}}
    users = {"alice": {**PASSWORD, "config": own}, "bob": PASSWORD}
    async with product.serving(configured(), users) as server:
        assert await reached(openssh, server, "localhost:80") == "tried"
        assert await reached(openssh, server, "localhost:81") == "prohibited"
        (tmp_path / "bob").mkdir()
        bob = OpenSSH(tmp_path / "bob", "bob")
        assert await reached(bob, server, "localhost:80") == "prohibited"
        (await bob.run(server, "true")).check()
    with pytest.raises(AssertionError, match="forwardingMode"):
        async with product.serving(configured(), {"alice": {**PASSWORD, "config": wrong}}):
            pass


async def test_a_forced_command_is_told_what_was_asked_for(openssh: OpenSSH) -> None:
    forced = 'echo "[${SSH_ORIGINAL_COMMAND-nothing}]"'
    oci = {"image": str(image()), "subsystems": {"own": "/bin/own --fast"}}
    async with product.serving({**configured(forceCommand=forced), "oci": oci}, {"alice": PASSWORD}) as server:
        asked = {
            "$(id); 'x'": b"[$(id); 'x']\n",
            "a\nb": b"[a\nb]\n",
            None: b"[nothing]\n",
        }
        for command, told in asked.items():
            faked = ssh_options("SetEnv=SSH_ORIGINAL_COMMAND=faked")
            assert (await openssh.run(server, command, *faked)).check().stdout == told
        assert (await openssh.run(server, "own", "-s")).check().stdout == b"[/bin/own --fast]\n"


async def test_variables_bring_no_other_command_into_one_that_is_allowed(openssh: OpenSSH) -> None:
    section = {"shell": {"mode": "disable"}, "command": {"mode": "filter", "allow": ["env"]}}
    async with product.serving(configured(**section), {"alice": PASSWORD}) as server:
        brought = ssh_options('SetEnv=PATH=/tmp BASH_FUNC_ls%%="() { id; }" LD_PRELOAD=/tmp/evil.so LC_ALL=C.UTF-8')
        told = (await openssh.run(server, "env", *brought)).check().stdout.decode()
    assert "LC_ALL=C.UTF-8\n" in told
    assert not any(text in told for text in ("PATH=/tmp", "BASH_FUNC", "evil"))


async def test_sessions_are_counted_while_they_are_open(openssh: OpenSSH) -> None:
    async with product.serving(configured(maxSessions=1), {"alice": PASSWORD}) as server:
        shared = ssh_options(f"ControlPath={openssh.folder}/mux", "ControlMaster=auto", "ControlPersist=60")
        try:
            for number in range(4):
                assert (await openssh.run(server, f"echo {number}", *shared)).check().stdout == f"{number}\n".encode()
        finally:
            await openssh.run(server, None, *shared, "-O", "exit")
