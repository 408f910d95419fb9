"""The standard library of the running Python, read as text: every public definition with its docstring and its source.

Files are parsed with ``ast`` and never imported, so none of their code is executed.
"""

import ast
import hashlib
import inspect
import sysconfig
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

# Third-party packages, tests (they contain no documentation), and the wheels of ensurepip.
_SKIPPED_DIRECTORIES = frozenset(
    {
        "site-packages",
        "dist-packages",
        "__pycache__",
        "lib-dynload",
        "ensurepip",
        "test",
        "tests",
        "idle_test",
    }
)
_MAX_METHODS = 25


class Kind(str, Enum):
    """What a definition is. ``topic`` is an entry of ``pydoc_data.topics``: a section of the language reference."""

    module = "module"
    class_ = "class"
    function = "function"
    topic = "topic"


@dataclass(frozen=True)
class Definition:
    """One definition of the library, documented or not.

    Attributes:
        kind: module, class, function (methods too) or topic.
        module: dotted name of its module, "email.message".
        name: name within the module, "Message.get_payload"; empty for a module.
        docstring: with the indentation removed; empty if there is none.
        source: of a function, without docstrings, with comments; empty for other kinds, and for a function whose body
            only passes or raises.
        methods: of a class, the signatures of its public methods.
    """

    kind: Kind
    module: str
    name: str
    docstring: str = ""
    source: str = ""
    methods: tuple[str, ...] = ()

    @property
    def qualified_name(self) -> str:
        """Module and name, "email.message.Message.get_payload"."""
        return f"{self.module}.{self.name}" if self.name else self.module


def library_directory() -> Path:
    """The directory of this Python's standard library."""
    return Path(sysconfig.get_paths()["stdlib"])


def source_files(directory: Path) -> Iterator[tuple[str, Path]]:
    """(dotted module name, file) of every module below ``directory``, sorted; without tests and third parties."""
    found = []
    for path in directory.rglob("*.py"):
        parts = path.relative_to(directory).with_suffix("").parts
        if _SKIPPED_DIRECTORIES.isdisjoint(parts) and all(part.isidentifier() for part in parts):
            found.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
    yield from sorted(found)


def read_library(directory: Path) -> tuple[list[Definition], str]:
    """All definitions below ``directory`` in a fixed order, and the SHA-256 (hex) of the sources they come from.

    Raises:
        FileNotFoundError: no Python source, as in an installation with byte code only.
    """
    definitions: list[Definition] = []
    digest = hashlib.sha256()
    num_files = 0
    for module, path in source_files(directory):
        content = path.read_bytes()
        digest.update(f"{module}\0{len(content)}\0".encode() + content)
        definitions.extend(parse_module(module, content))
        num_files += 1
    if not num_files:
        raise FileNotFoundError(
            f"{directory}: no Python source files. This Python comes without the sources of its standard library: "
            "use a regular CPython installation, or give another directory with --library."
        )
    return definitions, digest.hexdigest()


def parse_module(module: str, content: bytes) -> list[Definition]:
    """The definitions of one source file, in order; none if this Python cannot parse it (templates)."""
    try:
        # Not splitlines(): it also breaks at form feeds, which ast does not count as line ends.
        tree, lines = ast.parse(content), content.decode("utf-8").replace("\r\n", "\n").split("\n")
    except (SyntaxError, UnicodeDecodeError, ValueError):
        return []
    if module == "pydoc_data.topics":
        return list(_topics(module, tree))
    own = Definition(Kind.module, module, "", ast.get_docstring(tree) or "")
    return [own, *_definitions(tree.body, module, "", lines)]


def _definitions(body: list[ast.stmt], module: str, owner: str, lines: list[str]) -> Iterator[Definition]:
    """Public functions and classes of a body, also those under ``if`` and ``try``, but not those inside functions."""
    for node in body:
        if isinstance(node, ast.If | ast.Try | ast.With):
            for inner in (
                node.body,
                getattr(node, "orelse", []),
                *(h.body for h in getattr(node, "handlers", [])),
            ):
                yield from _definitions(inner, module, owner, lines)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            docstring = ast.get_docstring(node) or ""
            yield Definition(Kind.function, module, owner + node.name, docstring, source_without_docstring(node, lines))
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            methods = tuple(_signature(n) for n in node.body if isinstance(n, ast.FunctionDef) and n.name[0] != "_")
            docstring = ast.get_docstring(node) or ""
            yield Definition(Kind.class_, module, owner + node.name, docstring, methods=methods[:_MAX_METHODS])
            yield from _definitions(node.body, module, f"{owner}{node.name}.", lines)


def source_without_docstring(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> str:
    """Decorators, signature and body of a function, dedented, without any docstring; "" if the body does nothing."""
    if all(_does_nothing(statement) for statement in node.body):
        return ""
    dropped: set[int] = set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and ast.get_docstring(inner):
            docstring = inner.body[0]
            following = inner.body[1] if len(inner.body) > 1 else None
            last = docstring.end_lineno or docstring.lineno
            # A docstring on the line of the signature or of the next statement cannot be cut by lines.
            if docstring.lineno == inner.lineno or (following is not None and following.lineno == last):
                return ""
            dropped.update(range(docstring.lineno, last + 1))
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    kept = (number for number in range(first, (node.end_lineno or first) + 1) if number not in dropped)
    text = textwrap.dedent("\n".join(lines[number - 1].rstrip() for number in kept))
    return "\n".join(line for line in text.splitlines() if line)


def _does_nothing(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Pass | ast.Raise) or (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    )


def _signature(node: ast.FunctionDef) -> str:
    return f"{node.name}({ast.unparse(node.args)})"


def _topics(module: str, tree: ast.Module) -> Iterator[Definition]:
    """The entries of the dictionary ``topics``: name -> text of a section of the language reference."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            for name, text in sorted(ast.literal_eval(node.value).items()):
                yield Definition(Kind.topic, module, name, inspect.cleandoc(text))
