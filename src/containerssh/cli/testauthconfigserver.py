"""``containerssh-testauthconfigserver``: webhooks for testing the gateway (``config.md`` section 9.4)."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from aiohttp import web

from containerssh.webhook import (
    Answer,
    AuthorizationRequest,
    ConfigAnswer,
    ConfigRequest,
    InteractiveAnswer,
    InteractiveRequest,
    PasswordRequest,
    Prompt,
    PublicKeyRequest,
    Question,
    app,
)

USERS = ("foo", "busybox")


def application(*, allow_all: bool) -> web.Application:
    """
    Webhooks that accept :data:`USERS` with any password, key and answer; with *allow_all*, all users with any password
    or answer.

    A login as ``busybox`` gets the image ``busybox``; other users get the configured image.
    """

    async def password(asked: PasswordRequest) -> Answer:
        return _answer(asked.username, success=allow_all or asked.username in USERS)

    async def public_key(asked: PublicKeyRequest) -> Answer:
        return _answer(asked.username, success=asked.username in USERS)

    async def authorization(asked: AuthorizationRequest) -> Answer:
        name = asked.authenticated_username or asked.username
        return _answer(name, success=allow_all or name in USERS)

    async def config(asked: ConfigRequest) -> ConfigAnswer:
        if asked.username != "busybox":
            return ConfigAnswer()
        execution = {
            "container": {"Image": "busybox"},
            "disableAgent": True,
            "mode": "session",
            "shellCommand": ["/bin/sh"],
        }
        return ConfigAnswer(config={"docker": {"execution": execution}})

    async def interactive(asked: InteractiveRequest) -> InteractiveAnswer:
        if not asked.answers:
            question = Question("What is your favourite colour? ", echo=True)
            return InteractiveAnswer(success=False, prompt=Prompt(questions=[question]), state="asked")
        known = asked.state == "asked" and (allow_all or asked.username in USERS)
        return InteractiveAnswer(success=known, authenticated_username=asked.username if known else "")

    return app(
        password=password, public_key=public_key, authorization=authorization, config=config, interactive=interactive
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="containerssh-testauthconfigserver",
        description="Webhooks that let foo and busybox in with any password, key or answer. For tries only.",
        epilog="With CONTAINERSSH_ALLOW_ALL=1 in the environment everybody gets in with any password or answer.",
    )
    parser.add_argument("--listen", default="0.0.0.0:8080", metavar="HOST:PORT", help="default: %(default)s")
    host, _, port = parser.parse_args(arguments).listen.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        parser.error("--listen takes HOST:PORT")
    everybody = os.environ.get("CONTAINERSSH_ALLOW_ALL") == "1"
    served = application(allow_all=everybody)

    async def started(_: web.Application) -> None:
        print("Test Auth-Config Server is now running...", file=sys.stderr, flush=True)

    served.on_startup.append(started)
    try:
        web.run_app(served, host=host.strip("[]") or None, port=int(port), print=None)
    except OSError as exc:
        print(f"containerssh-testauthconfigserver: {exc.strerror or exc}", file=sys.stderr)
        return 1
    print("Stopping Test Auth-Config Server...", file=sys.stderr)
    return 0


def _answer(name: str, *, success: bool) -> Answer:
    return Answer(success=success, authenticated_username=name if success else "")


if __name__ == "__main__":
    sys.exit(main())
