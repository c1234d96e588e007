"""``config check``: all errors of a configuration file at once, each with its position and a correction."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from containerssh.config.check import Finding, check
from containerssh.config.load import ConfigErrors, load


def report(path: Path) -> int:
    """
    Print the findings about *path* and the users file that it names; return 0 if the server would start with them.
    """
    about_file = check(path)
    users_path, about_users = _users_file(path)
    for finding in about_file:
        print(_line(path, finding))
    for finding in about_users:
        print(_line(users_path, finding))
    findings = [*about_file, *about_users]
    errors = sum(finding.severity == "error" for finding in findings)
    warnings = sum(finding.severity == "warning" for finding in findings)
    if errors:
        print(f"{path}: {_count(errors, 'error')}, {_count(warnings, 'warning')}", file=sys.stderr)
        return 1
    print(f"{path}: valid" + (f", {_count(warnings, 'warning')}" if warnings else ""))
    return 0


def _users_file(path: Path) -> tuple[Path, Sequence[Finding]]:
    """The users file named in the configuration at *path*, and the findings about it."""
    try:
        config = load(path, to_serve=False).config
    except ConfigErrors:
        return path, ()
    from containerssh.authenticators import users_file_findings

    return Path(config.auth.users.file), users_file_findings(config)


def _line(path: Path, finding: Finding) -> str:
    place = str(path)
    if finding.line is not None:
        place += f":{finding.line}"
        if finding.column is not None:
            place += f":{finding.column}"
    where = f"{finding.path}: " if finding.path else ""
    hint = f" ({finding.suggestion})" if finding.suggestion else ""
    return f"{place}: {finding.severity}: {where}{finding.message}{hint}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
