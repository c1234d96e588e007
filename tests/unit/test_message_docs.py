"""The generated page of message codes."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from containerssh.core import codes
from containerssh.core.messages import Code
from scripts.message_docs import TITLES, page


def _classes() -> dict[str, type[Code]]:
    return {
        name: kind
        for name, kind in vars(codes).items()
        if inspect.isclass(kind) and issubclass(kind, Code) and kind is not Code
    }


def test_every_code_has_its_row() -> None:
    text = page()
    missing = [code for kind in _classes().values() for code in kind if f"| `{code.value}` | " not in text]
    assert not missing


def test_every_code_is_used_somewhere() -> None:
    source = "\n".join(path.read_text() for path in Path(codes.__file__).parents[1].rglob("*.py"))
    dead = [
        f"{name}.{member}"
        for name, kind in _classes().items()
        for member in kind.__members__
        if not re.search(rf"\b{name}\.{member}\b", source)
    ]
    assert not dead, "the manual would promise lines that nobody ever sees"


def test_every_group_of_codes_has_a_title_of_its_own() -> None:
    assert set(TITLES) == set(_classes())
    assert len(set(TITLES.values())) == len(TITLES)


def test_no_row_has_more_cells_than_the_table() -> None:
    rows = [line for line in page().splitlines() if line.startswith("| `")]
    assert all(row.replace("\\|", "").count("|") == 3 for row in rows)
