"""One login's configuration: the file's, with what the users file and the config server say about this user.

Two ways of merging (``config.md`` section 13). A plain answer of the config server *fills in*: Go servers send the
whole structure full of zero values, so what is empty says nothing. An *overlay* says what it names, whatever the value.
In both, lists replace, maps merge key by key, and ``null`` says nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from containerssh.config.app import AppConfig, Backend
from containerssh.config.availability import unavailable_for_login
from containerssh.config.docker import settle_docker
from containerssh.config.docker_structures import STRUCTURES, Structure
from containerssh.config.findings import ConfigErrors, Finding, findings_of, unknown_key
from containerssh.config.kubernetes_shapes import METADATA_KEYS, SPEC_KEYS, settle_object
from containerssh.config.log import LogConfig
from containerssh.config.model import ConfigModel, Spelling, fields_by_key, section_model
from containerssh.core.codes import BackendCode, ConfigCode
from containerssh.core.messages import Event

logger = logging.getLogger(__name__)

_SPELLING = Spelling(any_case=True, numbers_as_text=True)
_SECTIONS = ("security", "sftp", "docker", "oci", "kubernetes", "sshproxy")
_BACKEND: TypeAdapter[str] = TypeAdapter(Backend, config=ConfigDict(defer_build=True))
_DEEPEST = 64
_OF_THE_SERVER = {"oci": ("runtime", "dataDirectory", "imageExpiry")}
"""What is the machine's, whoever logs in: a program that runs as root, folders that are cleaned up after a crash."""

KUBERNETES_OBJECTS = {"metadata": METADATA_KEYS, "spec": SPEC_KEYS}
"""The keys of `kubernetes.pod` whose values are the API's objects."""

Path = tuple[str, ...]
Says = Callable[[object], bool]
"""Whether a value says anything."""


def merge_answer(config: AppConfig, answer: Mapping[str, object]) -> AppConfig:
    """
    *config* with the config server's plain *answer* (the content of its ``config``).

    Sections that are settled when a login begins (`ssh`, `auth`, `audit`...) are checked for unknown keys and have no
    effect, as upstream.

    Raises:
        ConfigErrors: the answer or the result cannot be used; code `BACKEND_CONFIG_ERROR`.
    """
    return _merge(config, answer, _is_not_empty)


def overlay(config: AppConfig, patch: Mapping[str, object]) -> AppConfig:
    """
    *config* with a *patch* whose every key counts: an answer with ``configMode: overlay``, a user's part of the users
    file. False, 0, empty texts, empty lists and (for free maps such as labels) empty maps are values like others.

    Raises:
        ConfigErrors: as above.
    """
    return _merge(config, patch, _is_not_null)


def _is_not_empty(value: object) -> bool:
    return bool(value)


def _is_not_null(value: object) -> bool:
    return value is not None


def _merge(config: AppConfig, patch: Mapping[str, object], says: Says) -> AppConfig:
    if not isinstance(patch, Mapping):
        raise _refused([Finding("error", "", "the configuration of a login must be a map of keys")])
    merged = _Merge(config, says).run(patch) if patch else config
    problems = [*unavailable_for_login(merged), *merged.login_problems()]
    if problems:
        raise _refused([Finding.of(problem) for problem in problems])
    return merged


def _refused(findings: list[Finding]) -> ConfigErrors:
    return ConfigErrors(BackendCode.CONFIG_ERROR, "the configuration of this login cannot be used", findings)


class _Merge:
    def __init__(self, config: AppConfig, says: Says) -> None:
        self._config = config
        self._says = says
        self._findings: list[Finding] = []

    def run(self, patch: Mapping[str, object]) -> AppConfig:
        update: dict[str, Any] = {}
        for key, value in self._settle(AppConfig, patch, ()).items():
            model = section_model(fields_by_key(AppConfig).get(key))
            if key == "backend":
                if self._says(value):
                    update[key] = self._backend(value)
            elif model is None:
                self._findings.append(unknown_key(key, key, AppConfig))
            elif value is not None and not isinstance(value, Mapping):
                if self._says(value):
                    self._findings.append(Finding("error", key, "must be a map of keys"))
            elif value:
                section = self._section(key, model, value)
                if section is getattr(self._config, key):
                    continue
                if isinstance(section, LogConfig):
                    section = self._config.log.model_copy(update={"level": section.level})
                update[key] = section
        if self._findings:
            raise _refused(self._findings)
        return self._config.model_copy(update=update) if update else self._config

    def _backend(self, value: object) -> str:
        try:
            return _BACKEND.validate_python(value)
        except ValidationError:
            self._findings.append(Finding("error", "backend", f"invalid backend: {str(value)[:60]}"))
            return self._config.backend

    def _section(self, key: str, model: type[ConfigModel], patch: Mapping[str, Any]) -> ConfigModel:
        """The section with the patch laid over it; the very same one if the patch says nothing."""
        section: ConfigModel = getattr(self._config, key)
        if key == "docker":
            try:
                patch = settle_docker(self._settle_docker_keys(model, patch))
            except ValueError as exc:
                self._findings.append(Finding("error", key, str(exc)))
                return section
        tree = section.model_dump(by_alias=True, exclude_unset=True)
        if not self._lay(model, section, tree, patch, (key,)):
            return section
        if key not in (*_SECTIONS, "log"):
            logger.debug(
                Event(ConfigCode.SECTION_IGNORED, f"the section {key} cannot change for one login", section=key)
            )
            return section
        try:
            changed = model.model_validate(tree, context=_SPELLING)
        except ValidationError as exc:
            self._findings.extend(findings_of(exc, model, key))
            return section
        for name in _OF_THE_SERVER.get(key, ()):
            field = next(field for field, info in model.model_fields.items() if (info.alias or field) == name)
            if getattr(changed, field) != getattr(section, field):
                self._findings.append(
                    Finding("error", f"{key}.{name}", "is the server's, and cannot change for a login")
                )
        return changed

    def _settle(self, model: type[ConfigModel], patch: Mapping[str, Any], path: Path) -> dict[str, Any]:
        try:
            return model.settle_keys(patch, _SPELLING)
        except ValueError as exc:
            self._findings.append(Finding("error", ".".join(path), str(exc)))
            return {}

    def _settle_docker_keys(self, model: type[ConfigModel], patch: Mapping[str, Any]) -> dict[str, Any]:
        settled = self._settle(model, patch, ("docker",))
        execution = settled.get("execution")
        inner = section_model(fields_by_key(model)["execution"])
        if isinstance(execution, Mapping) and inner is not None:
            settled["execution"] = self._settle(inner, execution, ("docker", "execution"))
        return settled

    def _lay(
        self,
        model: type[ConfigModel],
        section: ConfigModel | None,
        tree: dict[str, Any],
        patch: Mapping[str, Any],
        path: Path,
    ) -> bool:
        """Lay *patch* over *tree*, which holds what was said about *section* so far; tells whether it said anything."""
        changed = False
        names = {field.alias or name: name for name, field in model.model_fields.items()}
        for key, value in self._settle(model, patch, path).items():
            if key not in names:
                self._findings.append(unknown_key(".".join((*path, key)), key, model))
                continue
            current = getattr(section, names[key], None)
            inner = section_model(fields_by_key(model)[key])
            if isinstance(value, Mapping) and inner is not None:
                below = dict(tree.get(key) or {})
                if self._lay(inner, current, below, value, (*path, key)):
                    tree[key], changed = below, True
            elif isinstance(value, Mapping) and isinstance(current, Mapping):
                structure = STRUCTURES.get(key) if path == ("docker", "execution") else None
                is_object = path == ("kubernetes", "pod") and key in KUBERNETES_OBJECTS
                said = self._settle_object(key, value, (*path, key)) if is_object else value
                laid = self._lay_map(current, said, structure, len(path))
                if laid != current:
                    tree[key], changed = laid, True
            elif self._says(value):
                tree[key], changed = value, True
        return changed

    def _settle_object(self, key: str, value: Mapping[str, Any], path: Path) -> dict[str, Any]:
        try:
            settled = settle_object(value, KUBERNETES_OBJECTS[key], key)
        except ValueError as exc:
            self._findings.append(Finding("error", ".".join(path), str(exc)))
            return {}
        return {name: item for name, item in settled.items() if self._says(item)}

    def _lay_map(
        self, current: Mapping[str, Any], patch: Mapping[str, Any], structure: Structure | None, depth: int
    ) -> dict[str, Any]:
        """Maps merge key by key; in an engine's structure, a field may say nothing."""
        if not patch:
            return {} if structure is None and self._says(patch) else dict(current)
        if depth > _DEEPEST:
            self._findings.append(Finding("error", "", "maps are nested too deeply"))
            return dict(current)
        laid = dict(current)
        for key, value in patch.items():
            shape = structure.fields.get(key) if structure else None
            before = laid.get(key)
            if value is None:
                continue
            if isinstance(value, Mapping) and (isinstance(before, Mapping) or isinstance(shape, Structure)):
                inner = shape if isinstance(shape, Structure) else None
                below = self._lay_map(before if isinstance(before, Mapping) else {}, value, inner, depth + 1)
                # An engine's object of which nothing is said stays away, or Go's zero values would create it.
                if below or before is not None or inner is None:
                    laid[key] = below
            elif structure is None or self._says(value):
                laid[key] = value
        return laid
