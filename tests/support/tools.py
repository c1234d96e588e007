"""Programs that tests run; a missing one fails the test that needs it, by name, with the package that has it."""

from __future__ import annotations

import os
import shutil

import pytest

PACKAGES = {
    "Xvfb": "xvfb",
    "ansible-playbook": "ansible-core",
    "busybox": "busybox-static",
    "chromium": "chromium",
    "crun": "crun",
    "ctr": "containerd",
    "curl": "curl",
    "dbclient": "dropbear-bin",
    "debootstrap": "debootstrap",
    "docker": "docker.io",
    "docker-compose": "docker-compose",
    "docker-registry": "docker-registry",
    "dockerd": "docker.io",
    "dropbear": "dropbear-bin",
    "faketime": "faketime",
    "fio": "fio",
    "fusermount3": "fuse3",
    "gcc": "gcc",
    "git": "git",
    "haproxy": "haproxy",
    "htpasswd": "apache2-utils",
    "iptables": "iptables",
    "java": "default-jdk-headless",
    "ldapadd": "ldap-utils",
    "ldapmodify": "ldap-utils",
    "ldapwhoami": "ldap-utils",
    "lftp": "lftp",
    "musl-gcc": "musl-tools",
    "mvn": "maven",
    "newgidmap": "uidmap",
    "newuidmap": "uidmap",
    "plink": "putty-tools",
    "podman": "podman",
    "prlimit": "util-linux",
    "promtool": "prometheus",
    "pscp": "putty-tools",
    "psftp": "putty-tools",
    "puttygen": "putty-tools",
    "qemu-aarch64-static": "qemu-user-static",
    "rsync": "rsync",
    "runc": "runc",
    "scp": "openssh-client",
    "script": "bsdutils",
    "sftp": "openssh-client",
    "skopeo": "skopeo",
    "slapd": "slapd",
    "ssh": "openssh-client",
    "ssh-add": "openssh-client",
    "ssh-agent": "openssh-client",
    "ssh-keygen": "openssh-client",
    "ssh-keyscan": "openssh-client",
    "ss": "iproute2",
    "sshd": "openssh-server",
    "sshfs": "sshfs",
    "umoci": "umoci",
    "unshare": "util-linux",
    "xdpyinfo": "x11-utils",
}
"""Debian's package for each program; ``scripts/setup`` installs them."""


def tool(name: str) -> str:
    """The path of program *name*; fails the test when it is not installed."""
    # sshd and dockerd lie where an ordinary user's path does not lead.
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin")
    if path is None:
        package = PACKAGES.get(name, name)
        pytest.fail(f"{name} is missing; make test installs it (Debian package {package})", pytrace=False)
    return path
