"""Figures of a run: kept as they were measured, printed as medians with their ratio to sshd's in the same run."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

YARDSTICK = "sshd"


@dataclass
class Report:
    """Samples by figure and server."""

    samples: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    load: list[float] = field(default_factory=list)

    def add(self, figure: str, server: str, value: float) -> None:
        self.samples.setdefault(figure, {}).setdefault(server, []).append(value)
        self.load.append(os.getloadavg()[0])

    def median(self, figure: str, server: str) -> float | None:
        values = self.samples.get(figure, {}).get(server)
        return statistics.median(values) if values else None

    def table(self) -> str:
        """Markdown: a row per figure, a column per server; each cell is median, range, ratio to sshd."""
        servers = list(dict.fromkeys(server for row in self.samples.values() for server in row))
        servers.sort(key=lambda name: name != YARDSTICK)
        rows = [["figure", *servers], ["---"] * (len(servers) + 1)]
        rows += [[figure, *(self._cell(figure, server) for server in servers)] for figure in self.samples]
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)

    def conditions(self) -> str:
        """One line on the machine, without which figures cannot be read."""
        load = f"load {min(self.load):.1f}-{max(self.load):.1f}" if self.load else "no samples"
        return f"{os.cpu_count()} processors, Linux {platform.release()}, {load}; medians, range, ratio to {YARDSTICK}"

    def save(self, folder: Path) -> Path:
        """Write all samples as JSON into *folder*; the file's path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / time.strftime("%Y%m%dT%H%M%SZ.json", time.gmtime())
        content = {"conditions": self.conditions(), "samples": self.samples}
        path.write_text(json.dumps(content, indent=1) + "\n")
        return path

    def _cell(self, figure: str, server: str) -> str:
        values = self.samples[figure].get(server)
        if not values:
            return ""
        middle = statistics.median(values)
        cell = f"**{_digits(middle)}** {_range(values)}"
        yardstick = self.median(figure, YARDSTICK)
        return f"{cell} x{middle / yardstick:.2f}" if yardstick and server != YARDSTICK else cell


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _range(values: Iterable[float]) -> str:
    known = list(values)
    return f"{_digits(min(known))}-{_digits(max(known))}"
