"""``config check``: every mistake of a file at once, each with its place and what to write instead."""

from __future__ import annotations

import sys
from pathlib import Path

from containerssh.config.check import Finding, check


def report(path: Path) -> int:
    """Print the findings; 0 when the server would start with this file."""
    findings = check(path)
    for finding in findings:
        print(_line(path, finding))
    errors = sum(finding.severity == "error" for finding in findings)
    warnings = sum(finding.severity == "warning" for finding in findings)
    if errors:
        print(f"{path}: {_count(errors, 'error')}, {_count(warnings, 'warning')}", file=sys.stderr)
        return 1
    print(f"{path}: valid" + (f", {_count(warnings, 'warning')}" if warnings else ""))
    return 0


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
