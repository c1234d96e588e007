"""What the manual and the JSON Schema say about a key: the docstring under its field.

Read from the sources when somebody asks: at every start, the models' own reading of them would take longer than all
else that the configuration needs.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Mapping
from functools import cache
from inspect import cleandoc

from containerssh.config.model import ConfigModel


def descriptions(model: type[ConfigModel]) -> Mapping[str, str]:
    """The keys of a section that have a docstring, each with its text."""
    texts: dict[str, str] = {}
    for kind in reversed(model.__mro__):
        texts |= _docstrings(kind.__module__).get(kind.__name__, {}) if issubclass(kind, ConfigModel) else {}
    fields = model.model_fields.items()
    return {field.alias or name: texts[name] for name, field in fields if name in texts}


@cache
def _docstrings(module: str) -> Mapping[str, Mapping[str, str]]:
    """By class and attribute."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: _of_class(node) for node in tree.body if isinstance(node, ast.ClassDef)}


def _of_class(node: ast.ClassDef) -> Mapping[str, str]:
    found = {}
    for statement, following in zip(node.body, node.body[1:], strict=False):
        match statement, following:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str() as text)):
                found[name] = cleandoc(text)
    return found
