"""Write the manual's page of message codes from the classes in ``containerssh.core.codes``.

python scripts/message_docs.py docs/reference/messages.md
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

from containerssh.core import codes
from containerssh.core.messages import Code

TITLES = {
    "CoreCode": "Start and files",
    "ServiceCode": "Services",
    "LogCode": "The log itself",
    "ConfigCode": "Configuration server",
    "BackendCode": "Configuration of a login",
    "HTTPCode": "HTTP clients and servers",
    "HealthCode": "Health endpoint",
    "MetricsCode": "Metrics",
    "GeoIPCode": "Countries",
    "AuthCode": "Authentication",
    "OAuth2Code": "OAuth 2.0 and OpenID Connect",
    "SSHCode": "SSH",
    "SecurityCode": "Security policy",
    "DockerCode": "Docker backend",
    "AgentCode": "Guest agent",
    "SFTPCode": "SFTP",
    "OCICode": "OCI backend",
    "KubernetesCode": "Kubernetes backend",
    "GeneralCode": "Without a code of its own",
}

INTRODUCTION = """\
# Message codes

Each line of the log has one of these codes; in the `ljson` format it is the field `code`. A user who was refused sees
the number of the connection, which is the label `connectionId` on every line about it. The codes are those of
ContainerSSH 0.6; `OCI_...` belong to the backend that ContainerSSH does not have.
"""


def page() -> str:
    """The page as Markdown: a table per class, in the order of the module."""
    parts = [INTRODUCTION]
    for name, kind in vars(codes).items():
        if inspect.isclass(kind) and issubclass(kind, Code) and kind is not Code:
            parts += [f"## {TITLES.get(name, name.removesuffix('Code'))}\n", "| code | when |", "|---|---|"]
            parts += [f"| `{code.value}` | {_cell(code.meaning)} |" for code in kind]
            parts.append("")
    return "\n".join(parts)


def _cell(text: str) -> str:
    escaped = text.replace("|", "\\|")
    return escaped[:1].upper() + escaped[1:]


def main() -> None:
    (target,) = sys.argv[1:]
    path = Path(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
