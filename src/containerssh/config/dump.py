"""The configuration in force as YAML: what ``--dump-config`` prints (``config.md`` section 1.3)."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from datetime import timedelta
from enum import Enum
from typing import Any

from pydantic import SecretStr
from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import DoubleQuotedScalarString, LiteralScalarString

from containerssh.config.app import AppConfig
from containerssh.config.http import HTTPClientConfig
from containerssh.config.log import LogLevel
from containerssh.config.model import MASK, format_duration
from containerssh.config.pem import is_pem
from containerssh.config.urls import masked_url

_PROSE = frozenset({"banner"})
"""What strangers read anyway."""
_ADDRESSES = frozenset({"endpoint", "host", "server", "serveraddress", "url", "urls"})
"""Where an address can stand without its scheme, and with a password."""


def dump_yaml(config: AppConfig) -> str:
    """All settings with their values, defaults included; secrets are masked, the names of key files are shown."""
    # Deprecated keys of the auth section say nothing any more once a file is loaded.
    former = HTTPClientConfig.model_fields
    tree = config.model_dump(by_alias=True, exclude={"auth": {*former, "auth_timeout", "pubkey"}})
    writer = YAML(typ="rt", pure=True)
    writer.default_flow_style = False
    writer.width = 4096
    writer.indent(mapping=2, sequence=4, offset=2)
    stream = io.StringIO()
    writer.dump(_plain(tree, ""), stream)
    return stream.getvalue()


def masked(value: Any, key: str = "") -> Any:
    """*value*, the content of the configuration's *key*, as plain data that can be shown."""
    return _plain(value, key)


_SECRET_OR_FILE = frozenset({"key", "hostkeys", "privateKey"})
"""Secrets that may also be the name of a file, which is none."""

_BLOCK = re.compile(r"(?:[!-~][ -~]*\n)+")
"""Texts that can be written as a block of lines; others need escapes."""

_FILE_NAME = re.compile(r"[\w./@:~-]{1,255}")


def _plain(value: Any, key: str) -> Any:
    match value:
        case SecretStr():
            return _masked(value.get_secret_value(), key)
        case LogLevel():
            return value.label
        case Enum():
            return value.value
        case timedelta():
            return format_duration(value)
        case Mapping():
            return {str(name): _plain(item, str(name)) for name, item in value.items()}
        case str():
            text = value if key in _PROSE else masked_url(value)
            if key in _ADDRESSES and "://" not in text and "@" in text:
                text = f"{MASK}@{text.rpartition('@')[2]}"
            if _BLOCK.fullmatch(text):
                return LiteralScalarString(text)
            # The writer leaves some line ends (U+0085) bare that its reader takes for blanks.
            return text if text.isprintable() else DoubleQuotedScalarString(text)
        case AbstractSet():
            return sorted(_plain(item, key) for item in value)
        case bool():
            return value
        case int():
            # Numbers of a file keep their text with them, which the writer does not know.
            return int(value)
        case float():
            return float(value)
        case list() | tuple():
            return [_plain(item, key) for item in value]
    return value


def _masked(secret: str, key: str) -> str:
    if not secret:
        return ""
    is_file_name = key in _SECRET_OR_FILE and not is_pem(secret) and _FILE_NAME.fullmatch(secret)
    return secret if is_file_name else MASK
