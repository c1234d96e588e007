"""From a file to the configuration of a server (``config.md`` sections 1, 6 and 12)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from containerssh.config.app import AppConfig
from containerssh.config.availability import unavailable
from containerssh.config.document import Document, DocumentError, read_document
from containerssh.config.findings import ConfigErrors, Finding, findings_of
from containerssh.config.values import is_missing
from containerssh.core.codes import ConfigCode, CoreCode
from containerssh.core.messages import Event

__all__ = ["ConfigErrors", "Loaded", "decode", "load", "start_findings"]


@dataclass(frozen=True)
class Loaded:
    """A configuration and where it comes from."""

    config: AppConfig
    warnings: Sequence[Event]
    """To be logged once the log is open."""

    path: Path
    raw: Mapping[str, Any]
    """The file's own tree, secrets in clear."""


def load(path: Path, *, to_serve: bool = True) -> Loaded:
    """
    Read a configuration file. Unless *to_serve* is off, a server can be started with it: files that it names can be
    read, what is needed is set, and nothing is turned on that this version does not have.

    Raises:
        ConfigErrors: it cannot be used; the text names the file and the first mistakes, `findings` all of them.
    """
    path = path.absolute()
    explanation = f"Invalid configuration in file {path}"
    try:
        document = read_document(path)
    except DocumentError as exc:
        place = f"line {exc.position.line}: " if exc.position else ""
        finding = Finding("error", "", f"{place}{exc.message}{_way_out(path)}")
        raise ConfigErrors(CoreCode.CONFIG_ERROR, explanation, [finding]) from None  # it says all that the cause says
    try:
        config, warnings = decode(document)
    except ValidationError as exc:
        raise ConfigErrors(CoreCode.CONFIG_ERROR, explanation, findings_of(exc, AppConfig)) from None
    if to_serve and (findings := start_findings(config)):
        raise ConfigErrors(CoreCode.CONFIG_ERROR, explanation, findings)
    return Loaded(config, warnings, path, document.tree)


def _way_out(path: Path) -> str:
    if not is_missing(path):
        return ""
    return "; name another file with --config, or try the server without a configuration: containerssh demo"


def decode(document: Document) -> tuple[AppConfig, list[Event]]:
    """
    The meaning of a document, the layout of version 0.4 understood.

    Raises:
        ValidationError: a key is unknown, or a value cannot be meant.
    """
    config = AppConfig.model_validate(document.tree, context=document.spelling)
    if not config.auth.url:
        return config, []
    if config.auth.password.webhook.url:
        text = "auth.url is deprecated, and auth.password.webhook.url is set as well: remove auth.url"
        return config, [Event(ConfigCode.AUTH_URL_DEPRECATED, text)]
    text = "auth.url is deprecated: write auth.password.webhook.url and auth.publicKey.webhook.url instead"
    config = config.model_copy(update={"auth": config.auth.without_former_url()})
    return config, [Event(ConfigCode.AUTH_URL_DEPRECATED, text)]


def start_findings(config: AppConfig) -> list[Finding]:
    """Everything that keeps a server from starting with a well-formed configuration."""
    return [Finding.of(problem) for problem in (*unavailable(config), *config.problems())]
