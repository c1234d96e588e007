"""An explanation as text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from containerssh.explain.credentials import printable
from containerssh.explain.report import Explanation, Permission, Step

_OUTCOMES = {
    "right": "yes",
    "more": "yes, but not enough",
    "refused": "no",
    "unavailable": "no answer",
    "not asked": "not asked, assumed to say yes",
}
_NOISE = frozenset({"AUTH", "HTTP_CLIENT_REQUEST", "CONFIG_REQUEST"})
"""Codes of messages that are always followed by another one with the outcome."""


def as_text(explanation: Explanation) -> str:
    """Lines for a terminal, without control characters."""
    return "".join(f"{printable(line)}\n" for line in _lines(explanation))


def _lines(explanation: Explanation) -> Iterator[str]:
    yield f"Login of {explanation.username} from {explanation.address.rpartition(':')[0]}"
    if explanation.webhooks:
        yield f"Contacted: {', '.join(explanation.webhooks)}"
    yield ""
    yield "Methods that a client is offered:"
    for method in explanation.methods:
        yield f"  {method.name:<22}{'yes' if method.offered else f'no: {method.why_not}'}"
    for number, step in enumerate(explanation.steps, 1):
        yield ""
        yield from _step(number, step)
    if explanation.container:
        yield ""
        yield "Configuration of this login:"
        yield from _changes(explanation)
        yield ""
        yield "What it gets:"
        yield from _container(explanation)
    if explanation.permissions:
        yield ""
        yield "What it may do:"
        for permission in explanation.permissions:
            yield from _permission(permission)
        if forced := explanation.force_command:
            yield f"  whatever is asked for, this runs: {forced['command']} ({forced['by']})"
    yield ""
    yield "Limits:"
    yield from _limits(explanation.limits)
    yield ""
    if explanation.admitted:
        supposed = [step.name for step in explanation.steps if step.supposed or step.outcome == "not asked"]
        given = f", assuming that this is right: {', '.join(supposed)}" if supposed else ""
        yield f"Result: {explanation.username} is let in{given}."
    else:
        yield f"Result: {explanation.username} is not let in ({explanation.reason})."


def _step(number: int, step: Step) -> Iterator[str]:
    outcome = "assumed to be right" if step.supposed and step.outcome == "right" else _OUTCOMES[step.outcome]
    yield f"{number}. {step.name}: {outcome}{f' ({step.reason})' if step.reason else ''}"
    for line in step.log:
        if line["code"] not in _NOISE:
            labels = " ".join(f"{name}={value}" for name, value in line["labels"].items())
            yield f"     {line['code']}: {line['text']}{f' [{labels}]' if labels else ''}"
    for name, value in step.adds.items():
        if name == "files":
            for entry in value:
                yield f"     file {entry['path']}, {entry['bytes']} bytes{', sensitive' if entry['sensitive'] else ''}"
        elif isinstance(value, Mapping):
            for key, entry in value.items():
                yield f"     {name} {key} = {_value(entry)}"
        else:
            yield f"     {name} = {value or '(none)'}"


def _value(entry: Mapping[str, Any]) -> str:
    return "(sensitive)" if entry.get("sensitive") else str(entry["value"])


def _changes(explanation: Explanation) -> Iterator[str]:
    if not explanation.changes:
        yield "  as in the file"
    for change in explanation.changes:
        yield f"  {change.key} = {_plain(change.after)} (by the {change.by}; in the file {_plain(change.before)})"


def _container(explanation: Explanation) -> Iterator[str]:
    for name, value in explanation.container.items():
        if name not in ("environment", "files"):
            yield f"  {name:<22}{value}"
    yield f"  {'environment':<22}{' '.join(explanation.container['environment']) or 'nothing of its own'}"
    for entry in explanation.container["files"]:
        yield f"  {'file':<22}{entry['path']}, {entry['bytes']} bytes, mode {entry['mode']}"


def _permission(permission: Permission) -> Iterator[str]:
    verdict = "yes" if permission.allowed else "no"
    if permission.excepted:
        verdict = f"{'all but' if permission.allowed else 'only'} {' '.join(permission.excepted)}"
        if permission.request.lower().endswith(("forwarding", "listen")):
            verdict = f"only {' '.join(permission.excepted)}"
    if permission.denied:
        verdict += f", never {' '.join(permission.denied)}"
    yield f"  {permission.request:<22}{verdict} ({permission.by})"


def _limits(limits: Mapping[str, Any]) -> Iterator[str]:
    if limits.get("exempt"):
        yield "  the address is in ssh.limits.allow: no limits on connections and no penalties apply to it"
    if limits.get("proxyHeader"):
        yield "  the address is in ssh.proxyProtocol.trusted: it has to send a PROXY header, which names another"
    for name, value in limits.items():
        if name not in ("exempt", "proxyHeader", "penalties"):
            yield f"  {name:<28}{value}"
    penalties = "yes; which addresses they hold off at the moment is known to the running server alone, and in its log"
    yield f"  {'penalties':<28}{penalties if limits.get('penalties') else 'no'}"


def _plain(value: Any) -> str:
    if isinstance(value, str | Sequence | Mapping):
        return json.dumps(value, ensure_ascii=False)
    return {True: "true", False: "false", None: "not set"}.get(value, str(value))
