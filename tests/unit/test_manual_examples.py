"""Each configuration that the manual shows is one that the server accepts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from containerssh.config.app import AppConfig
from containerssh.config.check import check
from containerssh.config.model import fields_by_key

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
GENERATED = ROOT / "docs" / "reference" / "config"


def _configurations() -> Iterator[tuple[str, str]]:
    """A name and the text of each block that begins with a key of the configuration file."""
    known = fields_by_key(AppConfig)
    for page in PAGES:
        if GENERATED in page.parents:
            continue
        text = page.read_text(encoding="utf-8")
        for block in re.finditer(r"^( *)```ya?ml\n(.*?)^\1```", text, re.MULTILINE | re.DOTALL):
            content = dedent(block[2])
            first = re.search(r"^([A-Za-z]+):", content, re.MULTILINE)
            if first and first[1] in known:
                line = text.count("\n", 0, block.start()) + 1
                yield f"{page.relative_to(ROOT)}:{line}", content


EXAMPLES = dict(_configurations())


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_configuration_in_the_manual_has_no_mistake(name: str, tmp_path: Path) -> None:
    content = EXAMPLES[name]
    path = tmp_path / "config.yaml"
    path.write_text(content)
    complete = re.search(r"^auth:", content, re.MULTILINE)
    mistakes = [
        str(finding)
        for finding in check(path)
        if finding.severity == "error"
        # The files that an example names are on the reader's machine; a part of a file need not say who may log in.
        and "No such file or directory" not in finding.message
        and (complete or finding.path != "auth")
    ]
    assert not mistakes


def test_the_first_steps_show_a_complete_configuration() -> None:
    assert any(name.startswith("docs/quickstart.md") and "auth:" in content for name, content in EXAMPLES.items())
