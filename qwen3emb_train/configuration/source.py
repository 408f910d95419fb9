"""Configuration classes, read from their source text: help must not import torch to know a default.

Reads modules of this distribution with ``ast``. A class may consist of fields with literal defaults, constants of a
module, enum members, ``field(default_factory=...)`` of a container, a class, or a lambda of these. A test compares
every key and default with the imported classes.
"""

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_ENTRY = re.compile(r"^(\w+(?:, \w+)*): ?(.*)$")


@dataclass(frozen=True)
class Instance:
    """A default that is an object: its class, and the fields that are not as the class has them."""

    kind: "Class"
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Field:
    """A field of a class.

    Attributes:
        annotation: its type, as written.
        module: in whose names it is written.
        default: the expression after ``=``; None = the field is required.
        meaning: its documentation; that of fields documented together is the same text.
    """

    annotation: ast.expr
    module: "Module"
    default: ast.expr | None
    meaning: str


@dataclass(frozen=True)
class Class:
    """A class in a module's source."""

    name: str
    module: "Module"
    node: ast.ClassDef

    @property
    def summary(self) -> str:
        """First paragraph of the docstring, on one line."""
        return " ".join((ast.get_docstring(self.node) or "").split("\n\n")[0].split())

    @property
    def members(self) -> list[str]:
        """Values of an enum; empty for other classes."""
        if not any(isinstance(base, ast.Name) and base.id.endswith("Enum") for base in self.node.bases):
            return []
        return [ast.literal_eval(item.value) for item in self.node.body if isinstance(item, ast.Assign)]

    def documented(self) -> dict[str, str]:
        """The entries of the docstring's ``Attributes:`` section, by their names."""
        return _attributes(ast.get_docstring(self.node) or "")

    def fields(self) -> dict[str, Field]:
        """All fields, those of the bases first; a field given again without documentation keeps the base's."""
        found: dict[str, Field] = {}
        for base in self.node.bases:
            known = self.module.find(base.id) if isinstance(base, ast.Name) else None
            found |= known.fields() if isinstance(known, Class) else {}
        meanings = self.documented()
        for name, meaning in meanings.items():
            if name in found:
                old = found[name]
                found[name] = Field(old.annotation, old.module, old.default, meaning)
        for item in self.node.body:
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                name = item.target.id
                meaning = meanings.get(name, found[name].meaning if name in found else "")
                found[name] = Field(item.annotation, self.module, item.value, meaning)
        return {name: field for name, field in found.items() if "ClassVar" not in ast.dump(field.annotation)}


@dataclass
class Module:
    """A module's source: its classes, constants, and where its other names come from."""

    name: str
    classes: dict[str, ast.ClassDef] = field(default_factory=dict)
    constants: dict[str, ast.expr] = field(default_factory=dict)
    imported: dict[str, tuple[str, str]] = field(default_factory=dict)

    def find(self, name: str) -> "Class | tuple[ast.expr, Module] | None":
        """A class, or a constant's expression with its module; None for what is not of this distribution."""
        if name in self.classes:
            return Class(name, self, self.classes[name])
        if name in self.constants:
            return self.constants[name], self
        origin, original = self.imported.get(name, ("", ""))
        return (
            read_module(origin).find(original) if origin.partition(".")[0] in ("qwen3emb_train", "data_synth") else None
        )

    def value(self, expression: ast.expr) -> Any:
        """The value of an expression of the allowed kinds; an ``Instance`` for an object.

        Raises:
            ValueError: the expression is of another kind, or a name in it is unknown.
        """
        match expression:
            case ast.Constant(value=value):
                return value
            case ast.List(elts=items) | ast.Tuple(elts=items):
                return [self.value(item) for item in items]
            case ast.Dict(keys=keys, values=values):
                return {self.value(key): self.value(v) for key, v in zip(keys, values, strict=True) if key is not None}
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self.value(operand)
            case ast.BinOp(left=left, op=ast.Pow(), right=right):
                return self.value(left) ** self.value(right)
            case ast.BinOp(left=left, op=ast.Mult(), right=right):
                return self.value(left) * self.value(right)
            case ast.Attribute(value=ast.Name(id=owner), attr=member):
                return self._member(owner, member)
            case ast.Lambda(body=body):
                return self.value(body)
            case ast.Name(id=name):
                return self._named(name)
            case ast.Call(func=ast.Name(id="field"), keywords=[ast.keyword(arg="default_factory", value=factory)]):
                return self.value(factory)
            case ast.Call(func=ast.Name(id="list" | "dict"), args=[argument]):
                given_value = self.value(argument)
                return given_value.kind.members if isinstance(given_value, Instance) else given_value
            case ast.Call(func=ast.Name(id=name), args=[], keywords=given):
                made = self._named(name)
                return Instance(made.kind, {str(item.arg): self.value(item.value) for item in given})
        raise ValueError(f"{self.name}: help cannot read the default {ast.unparse(expression)}.")

    def _named(self, name: str) -> Any:
        if name in ("list", "dict"):
            return [] if name == "list" else {}
        found = self.find(name)
        if isinstance(found, Class):
            return Instance(found, {})
        if found is None:
            raise ValueError(f"{self.name}: help cannot find {name}.")
        expression, module = found
        return module.value(expression)

    def _member(self, owner: str, member: str) -> Any:
        found = self.find(owner)
        if isinstance(found, Class):
            for item in found.node.body:
                if isinstance(item, ast.Assign) and any(ast.unparse(target) == member for target in item.targets):
                    return found.module.value(item.value)
        raise ValueError(f"{self.name}: help cannot find {owner}.{member}.")


def read_class(name: str) -> Class:
    """The class that ``module:Class`` names.

    Raises:
        ValueError: there is none.
    """
    module, _, attribute = name.partition(":")
    found = read_module(module).find(attribute)
    if not isinstance(found, Class):
        raise ValueError(f"there is no class {name}.")
    return found


@cache
def read_module(name: str) -> Module:
    """A module's source, without importing it.

    Raises:
        FileNotFoundError: there is no such module.
    """
    top, *below = name.split(".")
    spec = find_spec(top)  # of a top-level package: imports nothing
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"no package {top}: the installation is incomplete.")
    path = Path(spec.submodule_search_locations[0]).joinpath(*below)
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    module = Module(name)
    for item in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(item, ast.ClassDef):
            module.classes[item.name] = item
        elif isinstance(item, ast.Assign) and isinstance(item.targets[0], ast.Name):
            module.constants[item.targets[0].id] = item.value
        elif isinstance(item, ast.ImportFrom) and item.module:
            module.imported |= {alias.asname or alias.name: (item.module, alias.name) for alias in item.names}
    return module


def _attributes(docstring: str) -> dict[str, str]:
    """The entries of a docstring's ``Attributes:`` section."""
    found: dict[str, str] = {}
    names: list[str] = []
    section = re.search(r"^Attributes:\n((?:    .*\n?|\n)+)", docstring, flags=re.MULTILINE)
    for line in section[1].splitlines() if section else []:
        entry = _ENTRY.match(line[4:])
        if entry:
            names = entry[1].split(", ")
            found |= dict.fromkeys(names, entry[2])
        elif line.strip():
            found |= {name: f"{found[name]} {line.strip()}".strip() for name in names}
    return found
