"""The agent of ContainerSSH 0.5 and 0.6 as a shell script: what ``agent.md`` says of its command line, and no more."""

from __future__ import annotations

import base64

from tests.support.docker import build_image
from tests.support.services import Engine

PATH = "/usr/bin/containerssh-agent"
IMAGE = "containerssh-test/upstream-agent:latest"

_SCRIPT = """#!/bin/sh
byte() { printf "\\\\$(printf %03o $(($$ >> $1 & 255)))"; }
mode=$1
shift
case $mode in
console)
    while [ $# -gt 0 ]; do
        case $1 in
        --pid) pid=yes ;;
        --wait) head -c 1 >/dev/null ;;
        --) break ;;
        *) echo "Error: invalid parameter: $1" >&2; exit 1 ;;
        esac
        shift
    done
    shift
    [ -z "$pid" ] || { byte 0; byte 8; byte 16; byte 24; }
    case $1 in */*) ;; *) printf 'no such file or directory' >&2; exit 127 ;; esac
    [ -x "$1" ] || { printf 'no such file or directory' >&2; exit 127; }
    exec "$@"
    ;;
signal)
    [ "$1 $3" = "--pid --signal" ] || exit 1
    kill -"$4" "$2" 2>/dev/null || { printf 'failed to send signal' >&2; exit 3; }
    ;;
write-file) umask 077; cat >"$1" || exit 1 ;;
wait-signal) trap 'exit 0' INT TERM; while :; do sleep 1 & wait; done ;;
*) echo "Error: invalid mode: $mode" >&2; exit 1 ;;
esac
"""


def agent_image(engine: Engine, name: str = IMAGE, script: str = _SCRIPT, *, extra: str = "") -> str:
    """An image with busybox and *script* as its agent, after the Dockerfile's line *extra*; its name."""
    if engine.has_image(name) and name == IMAGE:
        return name
    encoded = base64.b64encode(script.encode()).decode()
    change = f"RUN echo {encoded} | base64 -d >{PATH} && chmod 755 {PATH}"
    return build_image(engine, name, "bb:latest", *([extra] if extra else []), change)
