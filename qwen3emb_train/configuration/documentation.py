"""The keys of a program, with default, type and documentation, read from the source of its configuration class."""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from qwen3emb_train.configuration.program import Program
from qwen3emb_train.configuration.source import Class, Field, Instance, read_class

_TYPES = {"int": "integer", "float": "number", "str": "text", "bool": "true|false", "Any": "text or list of text"}
REQUIRED = object()


@dataclass(frozen=True)
class Key:
    """A key with a plain value.

    Attributes:
        path: dotted, with NAME for a name of the user's own.
        default: as a plain value; ``REQUIRED`` where there is none.
        type: what may be given.
        meaning: its documentation, and that of its choices.
    """

    path: str
    default: Any
    type: str
    meaning: str


@dataclass(frozen=True)
class Block:
    """The keys of one class.

    Attributes:
        path: the prefix of each key, without the last dot; empty for the program itself.
        kind: the class.
        values: fields whose defaults are not the class's.
        meaning: the documentation of the key that holds the block.
        choice: ``loss=infonce``, where the class is one of several choices; else empty.
        keys: those with plain values.
        blocks: those with keys of their own.
    """

    path: str
    kind: Class
    values: Mapping[str, Any]
    meaning: str
    choice: str
    keys: tuple[Key, ...]
    blocks: tuple["Block", ...]

    def walk(self) -> Iterator["Block"]:
        """This block and all below it, in their order."""
        yield self
        for block in self.blocks:
            yield from block.walk()


def read_program(program: Program) -> Block:
    """All keys of a program; of a key that is filled by choice, those of each choice's class."""
    unions = {
        choice.key: (group, choice.classes) for group, choice in program.groups.items() if len(choice.classes) > 1
    }
    return _read(read_class(program.schema), "", {}, unions)


def _read(
    kind: Class,
    path: str,
    values: Mapping[str, Any],
    unions: Mapping[str, tuple[str, Mapping[str, str]]],
    meaning: str = "",
    choice: str = "",
) -> Block:
    keys: list[Key] = []
    blocks: list[Block] = []
    for name, field in kind.fields().items():
        full = f"{path}.{name}".lstrip(".")
        default = values[name] if name in values else _default(field)
        if full in unions:
            group, classes = unions[full]
            for option, source in classes.items():
                blocks.append(_read(read_class(source), full, {}, {}, field.meaning, f"{group}={option}"))
        elif isinstance(default, Instance):
            blocks.append(_read(default.kind, full, default.values, {}, field.meaning))
        elif isinstance(entry := _entry(field), Class):
            blocks.append(_read(entry, f"{full}.NAME", {}, {}, field.meaning))
        else:
            with_choices = " ".join(filter(None, [field.meaning, *_about_choices(field.annotation, field)]))
            keys.append(Key(full, default, _type(field.annotation, field), with_choices))
    return Block(path, kind, values, meaning, choice, tuple(keys), tuple(blocks))


def _default(field: Field) -> Any:
    if field.default is None:
        return REQUIRED
    value = field.module.value(field.default)
    return REQUIRED if value == "???" else value


def _entry(field: Field) -> Any:
    """The class of a mapping's entries, if they have one."""
    match field.annotation:
        case ast.Subscript(value=ast.Name(id="dict"), slice=ast.Tuple(elts=[_, ast.Name(id=name)])):
            return field.module.find(name)
    return None


def _about_choices(annotation: ast.expr, field: Field) -> Iterator[str]:
    """The docstrings of the enums in an annotation."""
    for node in ast.walk(annotation):
        found = field.module.find(node.id) if isinstance(node, ast.Name) else None
        if isinstance(found, Class) and found.members:
            yield " ".join((ast.get_docstring(found.node) or "").split())


def _type(annotation: ast.expr, field: Field) -> str:
    match annotation:
        case ast.Name(id=name):
            found = None if name in _TYPES else field.module.find(name)
            return "|".join(found.members) if isinstance(found, Class) else _TYPES.get(name, name)
        case ast.Constant(value=None):
            return "null"
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return f"{_type(left, field)} or {_type(right, field)}"
        case ast.Subscript(value=ast.Name(id="list"), slice=item):
            return f"list of {_type(item, field)}"
        case ast.Subscript(value=ast.Name(id="dict"), slice=ast.Tuple(elts=[_, item])):
            return f"{{NAME: {_type(item, field)}}}"
    return ast.unparse(annotation)
