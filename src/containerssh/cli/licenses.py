"""``--licenses``: the licences of this package and of the installed packages that it requires."""

from __future__ import annotations

import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path


def licenses() -> str:
    """The licences as Markdown; independent of configuration and current folder."""
    parts = ["# The ContainerSSH license", "", _own().strip(), "", "# What it is built on", ""]
    for name, dist in sorted(_closure("containerssh").items()):
        parts.append(f"- {name} {dist.version}: {_license_of(dist)}")
    parts += ["", "The guest agent is written in Go and carries the Go standard library (BSD-3-Clause).", ""]
    return "\n".join(parts)


def _own() -> str:
    try:
        own = distribution("containerssh")
    except PackageNotFoundError:
        own = None
    for file in (own.files or []) if own else []:
        if file.name == "LICENSE":
            return str(file.read_text())
    in_tree = Path(__file__).parents[3] / "LICENSE"
    return in_tree.read_text() if in_tree.is_file() else "Apache-2.0, https://www.apache.org/licenses/LICENSE-2.0"


def _closure(root: str) -> dict[str, Distribution]:
    """All installed distributions that *root* requires, directly or indirectly, without *root* itself."""
    found: dict[str, Distribution] = {}
    waiting = [root]
    while waiting:
        name = waiting.pop()
        try:
            dist = distribution(name)
        except PackageNotFoundError:
            continue  # an optional dependency that is not installed
        if name != root:
            found[name] = dist
        for requirement in dist.requires or []:
            match = re.match(r"[A-Za-z0-9._-]+", requirement)
            needed = re.sub(r"[-_.]+", "-", match.group(0)).lower() if match else ""
            if needed and needed not in found and "extra ==" not in requirement.replace("extra == 'fast'", ""):
                waiting.append(needed)
    return found


def _license_of(dist: Distribution) -> str:
    meta = dist.metadata
    if "License-Expression" in meta:
        return meta["License-Expression"]
    classifiers = [
        words[-1]
        for words in (line.split(" :: ") for line in meta.get_all("Classifier") or [])
        if words[0] == "License" and words[-1] != "OSI Approved"
    ]
    if classifiers:
        return ", ".join(classifiers)
    lines = meta["License"].strip().splitlines() if "License" in meta else []
    return lines[0] if lines else "see its package"
