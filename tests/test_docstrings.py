"""Public functions say what their arguments are and what they raise.

The rule, read from the source: a public function or method (no leading underscore, in a public class of a public
module) with three or more parameters has an ``Args:`` section that names each of them, and one with a ``raise`` of its
own has a ``Raises:`` section. Several names may share a line, and a class may explain its ``__init__``. Overrides of a
method of a base class are spared (the base explains them), and so is ``NotImplementedError``.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(
    path
    for package in ("qwen3emb_train", "data_synth")
    for path in (ROOT / package).rglob("*.py")
    if not any(part.startswith("_") for part in path.relative_to(ROOT).parts)
)


@dataclass(frozen=True)
class Function:
    node: ast.FunctionDef | ast.AsyncFunctionDef
    owner: ast.ClassDef | None = None

    @property
    def name(self) -> str:
        return f"{self.owner.name}.{self.node.name}" if self.owner else self.node.name

    @property
    def parameters(self) -> list[str]:
        arguments = self.node.args
        names = [each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
        return [name for name in names if name not in ("self", "cls") and not name.startswith("_")]

    @property
    def is_spared(self) -> bool:
        """Overrides, properties and overloads are explained elsewhere."""
        decorators = {ast.unparse(each).split("(")[0].split(".")[-1] for each in self.node.decorator_list}
        if decorators & {"override", "overload", "property", "setter"}:
            return True
        return self.owner is not None and (self.node.name in method_names_of_bases(self.owner))

    @property
    def text(self) -> str:
        said = ast.get_docstring(self.node) or ""
        if self.node.name == "__init__" and self.owner:
            said += "\n" + (ast.get_docstring(self.owner) or "")
        return said


def methods_by_class() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                names = {each.name for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}
                found.setdefault(node.name, set()).update(names - {"__init__"})
    return found


METHODS = methods_by_class()
TORCH = {"forward", "backward", "setup_context", "extra_repr"}  # of nn.Module and autograd.Function


def method_names_of_bases(owner: ast.ClassDef) -> set[str]:
    names: set[str] = set()
    for base in owner.bases:
        plain = ast.unparse(base).split("[")[0].split(".")[-1]
        names |= METHODS.get(plain, TORCH)
    return names


def functions(path: Path) -> Iterator[Function]:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield Function(node)
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for each in node.body:
                if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) and (
                    not each.name.startswith("_") or each.name in ("__init__", "__call__")
                ):
                    yield Function(each, node)


def own_raises(node: ast.AST) -> Iterator[ast.Raise]:
    """Of the function itself: not of functions in it, not a bare ``raise``, not ``NotImplementedError``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            continue
        if isinstance(child, ast.Raise) and child.exc is not None and "NotImplementedError" not in ast.unparse(child):
            yield child
        yield from own_raises(child)


def section(text: str, name: str) -> str | None:
    """The lines under ``name:``, up to the next section or the end."""
    found = re.search(rf"^{name}:\s*$(.*?)(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
    return found[1] if found else None


def complaints(path: Path) -> list[str]:
    found = []
    for function in functions(path):
        if function.is_spared:
            continue
        if len(function.parameters) >= 3:
            said = section(function.text, "Args")
            if said is None and function.node.name == "__init__":
                said = section(function.text, "Attributes")
            missing = [name for name in function.parameters if not re.search(rf"\b{name}\b", said or "")]
            if missing:
                found.append(f"{function.name}: Args: must name {', '.join(missing)}")
        raises = function.node.name != "__init__" and any(own_raises(function.node))
        if raises and section(function.text, "Raises") is None:
            found.append(f"{function.name}: it raises, and has no Raises:")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_public_functions_explain_arguments_and_errors(path: Path) -> None:
    assert complaints(path) == []


def test_the_rule_sees_what_is_missing(tmp_path: Path) -> None:
    """The check itself: silent, half and whole docstrings."""
    module = tmp_path / "module.py"
    module.write_text(
        "def silent(a, b, c):\n    raise ValueError(a)\n"
        'def half(a, b, c):\n    """Does.\n\n    Args:\n        a, b: both.\n    """\n'
        'def whole(a, b, c):\n    """Does.\n\n    Args:\n        a, b: both.\n        c: c.\n\n    Raises:\n'
        '        ValueError: never.\n    """\n    raise ValueError(a)\n'
        "def two(a, b):\n    def inner():\n        raise ValueError(a)\n    return inner\n"
        "def _private(a, b, c):\n    raise ValueError(a)\n"
    )
    assert complaints(module) == [
        "silent: Args: must name a, b, c",
        "silent: it raises, and has no Raises:",
        "half: Args: must name c",
    ]
