"""Checks of an example's values; each error names the field, the reason and the remedy.

Values come from files, so they are ``object`` here and typed afterwards. A name is a string for a list column (``pos``
gives ``pos[2]``), a tuple where each text has a column of its own (``negative_3``).
"""

import ast
import difflib
import re
import reprlib
import sys
import warnings
from collections.abc import Iterable

from qwen3emb_train.data.instructions import TEMPLATE_START, has_template

ColumnNames = str | tuple[str, ...]
# What one row may cost. Tokenising takes some 200 bytes a character, and no model reads a million of them.
MAX_TEXT_CHARACTERS = 1_000_000
MAX_ROW_BYTES = 32 * 2**20  # of a line, or of a row's cells in Parquet

_WRITTEN_LIST = re.compile(r"\s*(?:array\()?(\[\s*(?:[\"'\[{]|None|nan|null).*\])(?:,\s*dtype=\w+)?\)?\s*", re.DOTALL)
_LIST_PARTS = (ast.Constant, ast.List, ast.Tuple, ast.Dict, ast.Name)  # Name: null, nan


class InvalidExampleError(ValueError):
    """One error in one example.

    Attributes:
        field: as the user's file calls it.
        reason: what is wrong.
        remedy: how to fix it.
    """

    def __init__(self, field: str, reason: str, remedy: str) -> None:
        """
        Args:
            field, reason, remedy: see the attributes.
        """
        super().__init__(f"{field}: {reason}. {remedy}")
        self.field, self.reason, self.remedy = field, reason, remedy


def refuse_unknown_fields(found: Iterable[str], known: frozenset[str]) -> None:
    """Refuses unknown fields.

    Raises:
        InvalidExampleError: for the first unknown field; suggests the nearest known one.
    """
    for field in found:
        if field not in known:
            nearest = difflib.get_close_matches(field, known, 1)
            hint = f"Did you mean {nearest[0]}? " if nearest else ""
            remedy = (
                f"{hint}Known here: {', '.join(sorted(known))}. Rename it, remove it or list it in ignored_columns."
            )
            raise InvalidExampleError(field, "is not a known field", remedy)


def require_task(found: str, task: str) -> None:
    """All rows of a source are of one task, since the source's task decides the loss.

    Raises:
        InvalidExampleError: this row's is another.
    """
    if found != task and len(found.split()) > 2:
        raise InvalidExampleError(
            "task",
            f"is a sentence ({found[:60]!r}), not the name of a task such as {task!r}",
            "Is it the instruction of the queries? Then read it as such: data.NAME.columns.instruction=task. Or leave "
            "it out: reading.ignored_columns=[task].",
        )
    if found != task:
        hint = f"Did you mean {task}? Else set" if difflib.get_close_matches(found, [task], 1, 0.8) else "Set"
        raise InvalidExampleError(
            "task",
            f"is {found!r}, but {task!r} is the task of its source",
            f"{hint} the source's task (data.NAME.task={found}), or keep the rows of each task in a file of their own. "
            "Where the field means something else, leave it out: reading.ignored_columns=[task].",
        )


def name_of(columns: ColumnNames, index: int | None = None) -> str:
    """The user's name of the column (no index) or of one of its texts."""
    if isinstance(columns, tuple):
        return columns[index or 0]
    return columns if index is None else f"{columns}[{index}]"


def texts_of(value: object, column: str) -> tuple[object, ColumnNames]:
    """The texts of a column that may hold one text or a list of them, and their names.

    Raises:
        InvalidExampleError: the one text is a list that was written as text.
    """
    if not isinstance(value, str):
        return value, column
    refuse_written_list(value, column)
    return [value], (column,)


def refuse_written_list(text: str, column: str) -> None:
    """Refuses ``"['a', 'b']"``, what is left of a list of texts in a CSV file. In a real list it is a text like others.

    Raises:
        InvalidExampleError: the text is a list of texts or objects, as Python, numpy or JSON write it.
    """
    found = _WRITTEN_LIST.fullmatch(text)
    if found is None:
        return
    try:
        with warnings.catch_warnings(action="ignore"):
            parsed = ast.parse(found[1], mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    if not isinstance(parsed, ast.List) or not all(isinstance(one, _LIST_PARTS) for one in parsed.elts):
        return
    if any(isinstance(one, ast.Constant) and isinstance(one.value, str) for one in ast.walk(parsed)):
        remedy = 'Write a list of texts: ["...", "..."]. A text that shall look so is a list of one.'
        raise InvalidExampleError(column, f"is a list written as text: {reprlib.repr(text)}", remedy)


def describe(value: object) -> str:
    return f"{type(value).__name__} {reprlib.repr(value)}"


def check_length(text: str, name: str) -> None:
    """Refuses a text that no model reads to its end, before it costs gigabytes.

    Raises:
        InvalidExampleError: it has more than ``MAX_TEXT_CHARACTERS``.
    """
    if len(text) > MAX_TEXT_CHARACTERS:
        reason = f"has {len(text):,} characters; at most {MAX_TEXT_CHARACTERS:,} are read"
        raise InvalidExampleError(name, reason, "Cut it into passages, or keep its beginning.")


def row_too_large(size: str) -> InvalidExampleError:
    """The error for a row that is not read into memory."""
    reason = f"takes {size}; at most {MAX_ROW_BYTES:,} bytes are read"
    return InvalidExampleError("row", reason, "Cut its texts into passages, or split it into several rows.")


def check_text(value: object, name: str) -> str:
    """A non-blank string of bounded length.

    Raises:
        InvalidExampleError: it is none, is too long, or cannot be encoded as UTF-8.
    """
    if isinstance(value, str) and _is_text(value):
        return value
    if value is None:
        raise InvalidExampleError(name, "is missing or null", "Give a text, or drop the line.")
    if not isinstance(value, str):
        raise InvalidExampleError(name, f"should be a text, but is {describe(value)}", "Write it as a string.")
    if not value.strip():
        raise InvalidExampleError(name, "is empty", "Give a text, or remove it.")
    check_length(value, name)
    raise InvalidExampleError(name, "holds half a surrogate pair", "Write the character itself, in UTF-8.")


def check_texts(values: object, columns: ColumnNames) -> tuple[str, ...]:
    """A list of texts, or one text as a list of one.

    Raises:
        InvalidExampleError: it is neither, or a text is invalid.
    """
    if isinstance(values, str):
        values, columns = texts_of(values, name_of(columns))
    if not isinstance(values, (list, tuple)):
        raise InvalidExampleError(
            name_of(columns), f"should be a list of texts, but is {describe(values)}", 'Write ["...", "..."].'
        )
    for index, value in enumerate(values):
        if not _is_text(value):
            check_text(value, name_of(columns, index))
    return tuple(values)


def check_label_text(value: object, name: str) -> str:
    """A string that may be empty: the name of a source or a language."""
    return "" if isinstance(value, str) and value == "" else check_text(value, name)


def check_instruction(value: object, query: str) -> str | None:
    """The bare sentence or None: the template is added once, when the query is formatted.

    Raises:
        InvalidExampleError: instruction or query already contain the template.
    """
    instruction = None if value is None else check_label_text(value, "instruction")
    reason = "already contains the template that is added to it"
    if instruction and has_template(instruction):
        raise InvalidExampleError("instruction", reason, f'Give only the sentence that follows "{TEMPLATE_START}".')
    if instruction != "" and query.startswith(TEMPLATE_START) and "\nQuery:" in query:
        remedy = 'Put its two parts into instruction and query, or set instruction to "" to train on it as it is.'
        raise InvalidExampleError("query", reason, remedy)
    return instruction


def check_scores(scores: object, num_documents: int, name: str) -> tuple[float, ...]:
    """Finite numbers, one per document.

    Args:
        scores: unchecked.
        num_documents: of the example.
        name: of the field, for error messages.

    Raises:
        InvalidExampleError: another number of scores, or one that is not a finite number.
    """
    if not isinstance(scores, (list, tuple)) or len(scores) != num_documents:
        remedy = f"Give {num_documents} numbers: one per positive, then one per negative."
        raise InvalidExampleError(name, f"does not match the documents: {describe(scores)}", remedy)
    for index, score in enumerate(scores):
        is_number = isinstance(score, (int, float)) and not isinstance(score, bool)
        if not is_number or not abs(score) <= sys.float_info.max:  # false for NaN as well
            remedy = "Score it again, or leave the scores out."
            raise InvalidExampleError(f"{name}[{index}]", f"is no finite number: {describe(score)}", remedy)
    return tuple(map(float, scores))


def check_labels(labels: object, documents: tuple[str, ...]) -> tuple[int, ...]:
    """0 or 1 for each document, the same for equal documents.

    Raises:
        InvalidExampleError: another number of labels, another value, or equal documents labelled both 0 and 1.
    """
    if not isinstance(labels, (list, tuple)) or len(labels) != len(documents):
        remedy = f"Give {len(documents)} labels: one per document."
        raise InvalidExampleError("labels", f"does not match the documents: {describe(labels)}", remedy)
    label_of: dict[str, int] = {}
    for index, (document, label) in enumerate(zip(documents, labels, strict=True)):
        if not isinstance(label, (int, float)) or label not in (0, 1):
            remedy = "Write 1 for a relevant document, 0 for another."
            raise InvalidExampleError(f"labels[{index}]", f"is neither 0 nor 1: {describe(label)}", remedy)
        if label_of.setdefault(document.strip(), int(label)) != label:
            raise InvalidExampleError(f"documents[{index}]", "is labelled both 0 and 1", "Keep one of the two.")
    return tuple(map(int, labels))


def _is_text(value: object) -> bool:
    if not isinstance(value, str) or not value or len(value) > MAX_TEXT_CHARACTERS or value.isspace():
        return False
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON escapes can encode half a surrogate pair, which UTF-8 cannot
        return False
    return True
