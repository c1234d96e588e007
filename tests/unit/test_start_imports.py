"""What a start loads: the less, the sooner it answers."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import containerssh.config.app
from containerssh.config.model import ConfigModel

ROOT = Path(__file__).parents[2]


def loaded(code: str) -> set[str]:
    """The modules that a fresh interpreter has after *code*."""
    code += "\nimport sys; print('\\n'.join(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT / "src")
    return set(done.stderr.split())


def sections(model: type[ConfigModel] = ConfigModel) -> Iterator[type[ConfigModel]]:
    for kind in model.__subclasses__():
        if kind.__module__.startswith("containerssh.config"):
            yield kind
            yield from sections(kind)


def test_the_version_needs_none_of_what_a_server_needs() -> None:
    code = """
from containerssh.cli.main import main
try:
    main(["--version"])
except SystemExit:
    pass"""
    modules = loaded(code)
    assert "containerssh.cli.arguments" in modules
    assert not modules & {"asyncio", "asyncssh", "pydantic", "importlib.metadata"}


def test_the_version_is_the_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert containerssh.__version__ == project["version"]


def test_a_server_without_webhooks_has_no_http_client() -> None:
    modules = loaded("import containerssh.process")
    assert "asyncssh" in modules
    assert "aiohttp" not in modules
    assert "gssapi" not in modules


def test_kerberos_can_be_loaded_behind_the_front() -> None:
    pytest.importorskip("gssapi")
    assert "gssapi.raw" in loaded("import containerssh.ssh; import gssapi")


def test_no_section_is_built_before_there_is_a_configuration() -> None:
    code = """
import containerssh.process
from containerssh.config.model import ConfigModel
def sections(model):
    for kind in model.__subclasses__():
        yield kind
        yield from sections(kind)
assert not [kind for kind in sections(ConfigModel) if kind.__pydantic_complete__]"""
    assert "containerssh.config.docker" in loaded(code)


@pytest.mark.parametrize("section", list(sections()))
def test_the_defaults_of_a_section_are_those_of_an_empty_one(section: type[ConfigModel]) -> None:
    if any(field.is_required() for field in section.model_fields.values()):
        pytest.skip("it cannot be empty")
    validated = section.model_validate({})
    assert section.default() == validated
    assert repr(section.default()) == repr(validated)
