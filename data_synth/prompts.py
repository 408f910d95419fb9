"""Prompts: Jinja files that declare their variables, rendered so that no document can break out of its fence.

A file ``prompts/TASK/NAME.jinja`` begins with a comment that declares its variables; those under ``documents:`` are
untrusted and fenced, each text of a list separately. Lines ``=== system``, ``=== user``, ``=== assistant`` begin the
turns of the chat; definitions before the first of them (``{% set %}``, macros) apply to all. The file is split into
turns *before* it is rendered, so no inserted text can begin a turn.

A fence is a pair of tags with a nonce. The nonce is a digest of the prompt and its values: the author of a document
cannot guess it, as the document is part of the digest, and the same request has the same nonce, so requests stay
content-addressed.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from data_synth.work import Message

PROMPTS_DIRECTORY = Path(__file__).parent / "prompts"

_ROLES = ("system", "user", "assistant")
_TURN = re.compile(rf"^=== ({'|'.join(_ROLES)})[ \t]*\n", re.MULTILINE)
_HEADER = re.compile(r"\A\{#(?P<header>.*?)#\}\n?", re.DOTALL)
# Control tokens of chat templates: ours, the teacher's and the embedder's. A tokenizer that parses one inside a
# document would end the user's turn there.
_CONTROL_TOKEN = re.compile(
    r"<\|[^<>|\n]{1,40}\|>|<｜[^<>｜\n]{1,40}｜>|</?s>|<(?:start|end)_of_turn>|<(?:bos|eos|pad|unk|mask)>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]|<</?SYS>>|</?think>|</?tool_(?:call|response)>",
    re.IGNORECASE,
)
# Invisible characters that models read: tag characters, zero-width and bidirectional controls.
_HIDDEN = re.compile("[\U000e0000-\U000e007f\u202a-\u202e\u2066-\u2069\u200b\u2060\ufeff]")
_NONCE_DIGITS = 16


class PromptError(ValueError):
    """An invalid prompt file, or values that do not match its variables."""


@dataclass(frozen=True)
class Prompt:
    """A loaded prompt file.

    Attributes:
        name: "retrieval/configure".
        version: first digits of the digest of the file.
        variables: all declared variables.
        documents: the fenced ones.
        turns: role and template of each turn.
    """

    name: str
    version: str
    variables: frozenset[str]
    documents: frozenset[str]
    turns: tuple[tuple[str, Template], ...]

    @property
    def label(self) -> str:
        """ "retrieval/configure@3f2a91c0", for ``Request.prompt``."""
        return f"{self.name}@{self.version}"

    def render(self, values: Mapping[str, Any]) -> tuple[Message, ...]:
        """The turns with the values inserted.

        Args:
            values: JSON values for exactly the declared variables.

        Raises:
            PromptError: a declared variable is missing, an undeclared one is given, or the template fails.
        """
        if values.keys() != self.variables:
            missing = ", ".join(sorted(self.variables - values.keys())) or "none"
            extra = ", ".join(sorted(values.keys() - self.variables)) or "none"
            raise PromptError(f"prompt {self.name}: missing values: {missing}; values it does not declare: {extra}.")
        safe = {name: _neutralised(value) for name, value in values.items()}
        nonce = self._nonce(safe)
        for name in self.documents:
            texts = safe[name] if isinstance(safe[name], list) else [safe[name]]
            safe[name] = "".join(f"<{name}-{nonce}>\n{text}\n</{name}-{nonce}>\n" for text in texts)
        try:
            return tuple(Message(role, template.render(safe).strip()) for role, template in self.turns)
        except TemplateError as error:
            raise PromptError(f"prompt {self.name}: {error}") from error

    def _nonce(self, values: Mapping[str, Any]) -> str:
        content = json.dumps([self.name, values], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:_NONCE_DIGITS]


def neutralise(text: str) -> str:
    """The text with chat control tokens split (``<|im_end|>`` becomes ``< |im_end| >``) and invisible characters
    removed: as readable, but no longer a token."""
    visible = _HIDDEN.sub("", text)
    return _CONTROL_TOKEN.sub(lambda match: f"{match[0][0]} {match[0][1:-1]} {match[0][-1]}", visible)


def _neutralised(value: Any) -> Any:
    if isinstance(value, str):
        return neutralise(value)
    if isinstance(value, Mapping):
        return {neutralise(str(key)): _neutralised(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_neutralised(child) for child in value]
    return value


def prompt_names(directory: str | None = None) -> list[str]:
    """Names of the prompts in a directory, the shipped one by default."""
    root = Path(directory) if directory else PROMPTS_DIRECTORY
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.jinja"))


@cache
def load_prompt(name: str, directory: str | None = None) -> Prompt:
    """Reads a prompt from the user's directory, if given, or else from the shipped one.

    Raises:
        PromptError: the file is absent, has no header, or uses other variables than it declares.
    """
    candidates = [Path(root) / f"{name}.jinja" for root in (directory, PROMPTS_DIRECTORY) if root]
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        raise PromptError(f"no prompt {name!r} in {', '.join(str(candidate.parent) for candidate in candidates)}.")
    text = path.read_text(encoding="utf-8")
    header = _HEADER.match(text)
    if header is None:
        raise PromptError(f"{path}: begin with a comment {{# variables: a, b; documents: c #}}.")
    declared = _declared(header["header"], path)
    documents = frozenset(declared.get("documents", ()))
    variables = frozenset(declared.get("variables", ())) | documents
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=False, autoescape=False
    )
    prelude, *parts = _TURN.split(text[header.end() :])
    turns = []
    used: set[str] = set()
    for role, body in zip(parts[::2], parts[1::2], strict=True):
        try:
            used |= meta.find_undeclared_variables(environment.parse(prelude + body))
            turns.append((role, environment.from_string(prelude + body)))
        except TemplateError as error:
            raise PromptError(f"{path}: {error}") from error
    if not turns or turns[-1][0] != "user":
        raise PromptError(f"{path}: the last turn has to be the user's (a line '=== user').")
    if used != variables:
        raise PromptError(
            f"{path}: used but not declared: {', '.join(sorted(used - variables)) or 'none'}; "
            f"declared but not used: {', '.join(sorted(variables - used)) or 'none'}."
        )
    return Prompt(name, hashlib.sha256(text.encode()).hexdigest()[:8], variables, documents, tuple(turns))


def _declared(header: str, path: Path) -> dict[str, list[str]]:
    """ "variables: a, b" and "documents: c", on lines of their own; other lines of the header are prose."""
    declared: dict[str, list[str]] = {}
    for line in header.splitlines():
        key, colon, names = line.strip().partition(":")
        if colon and key in ("variables", "documents"):
            declared[key] = [name.strip() for name in names.split(",") if name.strip()]
            if not all(name.isidentifier() for name in declared[key]):
                raise PromptError(f"{path}: {line.strip()!r} should name variables, with commas between them.")
    return declared
