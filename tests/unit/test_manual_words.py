"""What the manual quotes from the program is in the program."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from containerssh.core import codes
from containerssh.core.messages import Code

ROOT = Path(__file__).parents[2]
# Other groups share their first word with environment variables (SSH_AUTH_SOCK, GITHUB_LOGIN, DOCKER_GROUP).
GROUPS = {
    "CORE",
    "CONFIG",
    "BACKEND",
    "KUBERNETES",
    "OCI",
    "SECURITY",
    "SFTP",
    "HEALTH",
    "HTTP",
    "METRICS",
    "AUTH",
    "KRB",
}


def test_the_manual_names_no_message_code_that_does_not_exist() -> None:
    known = {
        member.value
        for kind in vars(codes).values()
        if inspect.isclass(kind) and issubclass(kind, Code) and kind is not Code
        for member in kind
    }
    unknown = [
        f"{path.relative_to(ROOT)}:{number} {word}"
        for path in [*ROOT.joinpath("docs").rglob("*.md"), ROOT / "README.md", ROOT / "CHANGELOG.md"]
        for number, line in enumerate(path.read_text().splitlines(), 1)
        for word in re.findall(r"`([A-Z][A-Z0-9.]*_[A-Z0-9_.]*[A-Z0-9])`", line)
        if word.split("_")[0] in GROUPS and word not in known
    ]
    assert not unknown
