"""The command line: upstream's flags in Go's syntax (``config.md`` section 9), and our sub-commands."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from containerssh import __version__

SWITCHES = ("dump-config", "licenses", "healthcheck", "version", "help")
"""
Upstream's flags without a value, and ours; as in Go, with one dash or two, and optionally ``=true`` or ``=false``.
"""

_FILE = "the configuration file (default: the one named by --config)"

_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})


class UsageError(Exception):
    """An invalid command line; the text is for the user, the exit status is 2."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]  # argparse's own exits with a usage dump
        raise UsageError(f"{message}\nTry: {self.prog} --help")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """
    Parse the command line. ``action`` in the result is serve, dump-config, licenses, healthcheck, demo, config-check,
    config-explain, config-schema, hash-password, remembered-list or remembered-revoke.

    Raises:
        UsageError: the command line is invalid.
        SystemExit: after ``--help`` or ``--version``.
    """
    parsed = _parser().parse_args(_settle(arguments))
    # In upstream's order of precedence.
    switches = [name for name in ("dump-config", "licenses", "healthcheck") if getattr(parsed, name.replace("-", "_"))]
    if parsed.action is None:
        parsed.action = switches[0] if switches else "serve"
    elif switches:
        raise UsageError(f"--{switches[0]} does not go with a command\nTry: containerssh --help")
    if getattr(parsed, "file", "") is None:
        parsed.file = parsed.config
    return parsed


def _settle(arguments: Sequence[str]) -> list[str]:
    """Convert Go's spellings of the top-level flags to argparse's."""
    settled: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        name, equals, value = argument.lstrip("-").partition("=")
        if not argument.startswith("-"):
            # A sub-command and its arguments.
            return [*settled, argument, *rest]
        if name == "config":
            settled.append("--config=" + value if equals else "--config")
            if not equals and rest:
                settled.append(rest.pop(0))
        elif name in SWITCHES:
            if equals and value not in _TRUE | _FALSE:
                raise UsageError(f"{argument}: {name} is a switch; write --{name}")
            if not equals or value in _TRUE:
                settled.append(f"--{name}")
        else:
            settled.append(argument)
    return settled


def _processes(text: str) -> int:
    return _number(text, 256) or len(os.sched_getaffinity(0))


def _port(text: str) -> int:
    return _number(text, 65535)


def _number(text: str, highest: int) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= highest):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to {highest}")
    return int(text)


def _add_explain(explain: argparse.ArgumentParser) -> None:
    methods = ("password", "publickey", "keyboard-interactive", "gssapi-with-mic")
    explain.description = (
        "Show what a login would get, and why, without starting anything. Webhooks, the configuration server, identity "
        "providers and KDCs are really asked. Credentials that are not given are assumed to be right. The exit status "
        "is 0 if the login would be let in, 1 if not, 2 if the configuration cannot be used."
    )
    explain.add_argument("file", metavar="FILE", nargs="?", help=_FILE)
    explain.add_argument("--user", metavar="NAME", required=True, help="the user who logs in")
    explain.add_argument(
        "--method", choices=methods, action="append", default=[], help="try this method; may be repeated"
    )
    explain.add_argument("--key", metavar="FILE", default="", help="log in with this public key or certificate")
    password = explain.add_mutually_exclusive_group()
    password.add_argument(
        "--password-file", metavar="FILE", default="", help="read the password from FILE; - for standard input"
    )
    password.add_argument("--ask-password", action="store_true", help="prompt for the password")
    explain.add_argument(
        "--answers", metavar="FILE", default="", help="answer questions from FILE, one answer per line"
    )
    explain.add_argument(
        "--tickets", metavar="PRINCIPAL", default="", help="log in to this service with your Kerberos tickets"
    )
    explain.add_argument(
        "--address", metavar="IP", default="127.0.0.1", help="the client's address (default: %(default)s)"
    )
    explain.add_argument(
        "--metadata",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="metadata that the connection already has; may be repeated",
    )
    explain.add_argument(
        "--client-version",
        metavar="TEXT",
        default="SSH-2.0-ContainerSSH_explain",
        help="what the client calls itself (default: %(default)s)",
    )
    explain.add_argument("--no-webhooks", action="store_true", help="call no webhook; assume that they say yes")
    explain.add_argument(
        "--format", choices=("text", "json"), default="text", help="output format (default: %(default)s)"
    )
    explain.set_defaults(action="config-explain")


def _add_serve(serve: argparse.ArgumentParser) -> None:
    serve.add_argument("--config", metavar="FILE", default=argparse.SUPPRESS, help="the configuration file")
    serve.add_argument(
        "--processes", metavar="N", type=_processes, default=1, help="run N processes on one port; 0: one per core"
    )
    serve.set_defaults(action="serve")


def _add_demo(demo: argparse.ArgumentParser) -> None:
    demo.add_argument(
        "--backend",
        choices=("oci", "docker", "auto"),
        default="oci",
        help="what runs the container (default: %(default)s)",
    )
    demo.add_argument("--image", default="", help="image of the container (default: a small one with busybox)")
    demo.add_argument("--port", type=_port, default=0, help="port on 127.0.0.1 (default: a free one)")
    stay = demo.add_mutually_exclusive_group()
    stay.add_argument("--once", action="store_true", help="stop after the login, even on a terminal")
    stay.add_argument("--stay", action="store_true", help="keep serving after the login, even without a terminal")
    demo.set_defaults(action="demo")


def _add_config(config: argparse.ArgumentParser) -> None:
    doing = config.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=_Parser)
    check = doing.add_parser("check", help="report all mistakes of a configuration, with their lines")
    check.add_argument("file", metavar="FILE", nargs="?", help=_FILE)
    check.set_defaults(action="config-check")
    _add_explain(doing.add_parser("explain", help="show what a login would get, and why"))
    schema = doing.add_parser("schema", help="print the JSON Schema of the configuration")
    schema.set_defaults(action="config-schema")


def _add_remembered(remembered: argparse.ArgumentParser) -> None:
    doing = remembered.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=_Parser)
    listed = doing.add_parser("list", help="list users, fingerprints and times")
    listed.add_argument(
        "--format", choices=("text", "json"), default="text", help="output format (default: %(default)s)"
    )
    listed.set_defaults(action="remembered-list")
    revoked = doing.add_parser("revoke", help="forget the remembered keys of a user, or all")
    whose = revoked.add_mutually_exclusive_group(required=True)
    whose.add_argument("user", metavar="USER", nargs="?", default="", help="as in ssh USER@host")
    whose.add_argument(
        "--all", action="store_true", help="everybody's keys; older copies of the store become useless too"
    )
    revoked.set_defaults(action="remembered-revoke")
    for each in (listed, revoked):
        each.add_argument(
            "--state",
            metavar="FOLDER",
            default="",
            help="the server's state folder (default: the same as the server's)",
        )


def _add_hash_password(hashing: argparse.ArgumentParser) -> None:
    hashing.add_argument(
        "--kind", choices=("argon2id", "bcrypt", "scrypt"), default="argon2id", help="algorithm (default: %(default)s)"
    )
    hashing.set_defaults(action="hash-password")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="containerssh",
        description="An SSH server that gives every login its own container. Without a command, the server runs.",
        allow_abbrev=False,
    )
    parser.set_defaults(action=None)
    parser.add_argument(
        "--config", metavar="FILE", default="config.yaml", help="the configuration file (default: %(default)s)"
    )
    parser.add_argument("--dump-config", action="store_true", help="print the effective configuration, secrets masked")
    parser.add_argument("--licenses", action="store_true", help="print the licence and those of the packages in use")
    parser.add_argument("--healthcheck", action="store_true", help="ask the running server whether it is healthy")
    parser.add_argument("--version", action="version", version=f"ContainerSSH {__version__}", help="print the version")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=_Parser)
    _add_serve(commands.add_parser("serve", help="run the server, as without a command"))
    _add_demo(commands.add_parser("demo", help="start a server with one user, log in, show what the container answers"))
    _add_config(commands.add_parser("config", help="check or explain a configuration"))
    _add_remembered(commands.add_parser("remembered", help="list or revoke remembered keys"))
    _add_hash_password(
        commands.add_parser("hash-password", help="read a password and print its hash for the users file")
    )
    return parser
