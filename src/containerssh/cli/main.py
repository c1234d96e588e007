"""The ``containerssh`` command."""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from containerssh.cli import streams
from containerssh.cli.arguments import UsageError, parse

# Other modules are imported where they are needed: most commands need only a few.

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status, which is upstream's (``config.md`` section 9)."""
    streams.open_missing()
    try:
        parsed = parse(sys.argv[1:] if arguments is None else arguments)
    except UsageError as exc:
        print(f"containerssh: {exc}", file=sys.stderr)
        return EXIT_USAGE
    # Searching for pydantic plugins would dominate the time for reading a configuration.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    try:
        status = _ACTIONS[parsed.action](parsed)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except OSError as exc:
        if not isinstance(exc, BrokenPipeError):  # the reader of our output has closed the pipe
            _complain(exc)
        # Prevent a second error when the interpreter flushes its buffers at exit.
        sys.stdout = None
        return EXIT_FAILURE
    return status


def _serve(parsed: argparse.Namespace) -> int:
    if getattr(parsed, "processes", 1) > 1:
        from containerssh.supervisor import supervise

        return supervise(Path(parsed.config), parsed.processes)
    # Objects created during the start are permanent; garbage collection would take a tenth of the start-up time.
    gc.disable()
    try:
        from containerssh.process import serve

        return serve(Path(parsed.config))
    finally:
        gc.enable()


def _dump_config(parsed: argparse.Namespace) -> int:
    from containerssh.config.dump import dump_yaml
    from containerssh.config.load import load
    from containerssh.core.errors import ConfigError

    try:
        loaded = load(Path(parsed.config), to_serve=False)
    except ConfigError as exc:
        return _complain(exc)
    # In the encoding in which configuration files are read, regardless of the locale.
    sys.stdout.buffer.write(dump_yaml(loaded.config).encode())
    return 0


def _licenses(_: argparse.Namespace) -> int:
    from containerssh.cli.licenses import licenses

    sys.stdout.write(licenses())
    return 0


def _healthcheck(parsed: argparse.Namespace) -> int:
    from containerssh.process import healthcheck

    return healthcheck(Path(parsed.config))


def _demo(parsed: argparse.Namespace) -> int:
    import asyncio

    from containerssh.cli.demo import Demo

    demo = Demo(parsed.backend, parsed.image, parsed.port, once=parsed.once, stay=parsed.stay)
    return asyncio.run(demo.run())


def _config_check(parsed: argparse.Namespace) -> int:
    from containerssh.cli.check import report

    return report(Path(parsed.file))


def _config_explain(parsed: argparse.Namespace) -> int:
    from containerssh.cli.explain import report

    return report(parsed)


def _config_schema(_: argparse.Namespace) -> int:
    import json

    from containerssh.config.schema import json_schema

    print(json.dumps(json_schema(), indent=2))
    return 0


def _hash_password(parsed: argparse.Namespace) -> int:
    from getpass import getpass

    from containerssh.auth.hashes import hash_password

    if sys.stdin.isatty():
        password = getpass("Password: ")
        if getpass("Again: ") != password:
            print("containerssh: the two passwords differ", file=sys.stderr)
            return EXIT_FAILURE
    else:
        # As UTF-8, as sent by clients, regardless of the locale.
        password = sys.stdin.buffer.readline().decode(errors="surrogateescape").rstrip("\n")
    if not password:
        print("containerssh: the password is empty", file=sys.stderr)
        return EXIT_FAILURE
    try:
        print(hash_password(password, parsed.kind))
    except UnicodeEncodeError:
        print("containerssh: the password is not valid UTF-8", file=sys.stderr)
        return EXIT_FAILURE
    except ValueError as exc:
        print(f"containerssh: {exc}", file=sys.stderr)
        return EXIT_FAILURE
    return 0


def _remembered_list(parsed: argparse.Namespace) -> int:
    from containerssh.cli.remembered import show

    return show(parsed.state, as_json=parsed.format == "json")


def _remembered_revoke(parsed: argparse.Namespace) -> int:
    from containerssh.cli.remembered import revoke

    return revoke(parsed.state, parsed.user)


def _complain(error: Exception) -> int:
    import logging

    from containerssh.core.errors import describe

    logging.getLogger(__name__).debug("the command failed", exc_info=error)
    print(f"containerssh: {describe(error)}", file=sys.stderr)
    return EXIT_FAILURE


_ACTIONS: dict[str, Callable[[argparse.Namespace], int]] = {
    "serve": _serve,
    "dump-config": _dump_config,
    "licenses": _licenses,
    "healthcheck": _healthcheck,
    "demo": _demo,
    "config-check": _config_check,
    "config-explain": _config_explain,
    "config-schema": _config_schema,
    "hash-password": _hash_password,
    "remembered-list": _remembered_list,
    "remembered-revoke": _remembered_revoke,
}

if __name__ == "__main__":
    sys.exit(main())
