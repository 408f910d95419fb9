"""The layouts of other tools, each a table entry: how to recognise its columns, and what they mean here.

A row of a foreign layout may also have our ``task``, ``instruction``, ``source``, ``language``. Identifiers are ignored
in every layout (``is_identifier``). Any other column is refused rather than silently dropped, since a misspelt
``negatives`` would otherwise train without them; ``ReadingConfig.ignored_columns`` lists those to drop.
"""

import difflib
import re
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import Any

from qwen3emb_train.data.records import TRAINING_FIELDS, FieldNames, own_fields
from qwen3emb_train.data.rows import renamed
from qwen3emb_train.data.validation import (
    InvalidExampleError,
    describe,
    refuse_unknown_fields,
    refuse_written_list,
    texts_of,
)

Row = Mapping[str, Any]

_IDENTIFIERS = frozenset({
    "id", "_id", "idx", "index", "rowid", "row_id", "uuid", "guid", "example_id", "sample_id", "pair_id",
    "query_id", "query-id", "qid", "question_id", "docid", "doc_id", "document_id", "corpus_id", "corpus-id",
    "passage_id", "pid", "pos_id", "neg_id", "positive_id", "negative_id", "type", "answers", "meta", "metadata",
})  # fmt: skip
_PANDAS_INDEX = re.compile(r"__index_level_\d+__|level_\d+|unnamed: \d+(\.\d+)*|")  # the last: a CSV's nameless column
OWN_LABELS = frozenset({"task", "instruction", "source", "language"})
"""Fields of ours that a foreign row may have too."""

_GRADED_COLUMNS = frozenset({"label", "labels", "score"})
_QUERY_COLUMNS = ("anchor", "query", "question")
_POSITIVE_COLUMNS = ("positive", "answer", "document")
_NEGATIVE_COLUMN = re.compile(r"negative(?:_(\d+))?")


def is_identifier(column: str) -> bool:
    """Whether a column is an identifier, pandas' index or the like, which training does not need."""
    return column.casefold() in _IDENTIFIERS or _PANDAS_INDEX.fullmatch(column.casefold()) is not None


@dataclass(frozen=True)
class Layout:
    """One layout of an example in columns.

    Attributes:
        name: the tool.
        columns: its columns, as shown to the user.
        matches: whether a set of columns is of this layout.
        fields: makes arguments of ``build_example`` of a row.
    """

    name: str
    columns: str
    matches: Callable[[Set[str]], bool]
    fields: Callable[[Row], dict[str, Any]]

    @property
    def listed(self) -> frozenset[str]:
        """The names in ``columns``."""
        return frozenset(re.findall(r"\w+", self.columns))

    @property
    def is_own(self) -> bool:
        return self.fields is own_fields

    def check_columns(self, columns: Set[str]) -> None:
        """Refuses columns that would be silently dropped (``own_fields`` does so itself).

        Raises:
            InvalidExampleError: an unknown column, or one with labels.
        """
        if self.is_own:
            return
        for column in sorted(columns - self.listed - OWN_LABELS):
            if column in _GRADED_COLUMNS:
                remedy = (
                    "Keep the lines that are positive and drop the column, or write graded pairs in our own layout: "
                    "query, positive, scores."
                )
                raise InvalidExampleError(column, "a graded or labelled pair is not a positive", remedy)
            if self.fields is not _sentence_transformers or not _NEGATIVE_COLUMN.fullmatch(column):
                refuse_unknown_fields([column], self.listed | OWN_LABELS)


def _is_own(columns: Set[str]) -> bool:
    if "query" not in columns or any(_NEGATIVE_COLUMN.fullmatch(column) for column in columns):
        return False
    return "positive" in columns or "positives" in columns or columns <= TRAINING_FIELDS


def _sentence_transformers(row: Row) -> dict[str, Any]:
    query_column, positive_column = _only(row, _QUERY_COLUMNS), _only(row, _POSITIVE_COLUMNS)
    positives, positive_name = texts_of(row.get(positive_column), positive_column)
    numbered = ((match, column) for column in row if (match := _NEGATIVE_COLUMN.fullmatch(column)))
    columns = [column for _, column in sorted((int(match[1] or 0), column) for match, column in numbered)]
    if len(columns) == 1:  # mined triplets may keep a list in one column
        negatives, negative_names = texts_of(row[columns[0]], columns[0])
    else:
        negatives, negative_names = [row[column] for column in columns], tuple(columns)
        for column in columns:
            if isinstance(row[column], str):
                refuse_written_list(row[column], column)
    return {
        "query": row.get(query_column),
        "positives": positives,
        "negatives": negatives,
        "scores": row.get("scores"),
        "names": FieldNames(query_column, positive_name, negative_names),
    }


def _only(row: Row, alternatives: tuple[str, ...]) -> str:
    found = [column for column in alternatives if column in row]
    if len(found) > 1:
        remedy = "Keep one, or name the others in ignored_columns."
        raise InvalidExampleError(found[1], f"means the same as {found[0]}", remedy)
    return found[0] if found else alternatives[0]


def _flag_embedding(row: Row) -> dict[str, Any]:
    positives, positive_name = texts_of(row.get("pos", ()), "pos")
    negatives, negative_name = texts_of(row.get("neg", ()), "neg")
    fields = {
        "query": row.get("query"),
        "positives": positives,
        "negatives": negatives,
        "names": FieldNames("query", positive_name, negative_name, "pos_scores + neg_scores"),
    }
    if row.get("pos_scores") or row.get("neg_scores"):
        scores = row.get("pos_scores", []), row.get("neg_scores", [])
        if not all(isinstance(part, list) for part in scores):
            raise InvalidExampleError("pos_scores", f"and neg_scores should be lists, but are {scores}", "Write [...].")
        if isinstance(positives, list) and len(scores[0]) != len(
            positives
        ):  # else a surplus of one could hide a lack of the other
            raise InvalidExampleError(
                "pos_scores", f"has {len(scores[0])} for {len(positives)} in pos", "Give one each."
            )
        fields["scores"] = scores[0] + scores[1]
    if "prompt" in row:
        fields["instruction"] = row["prompt"]
    return fields


def _swift(row: Row) -> dict[str, Any]:
    fields: dict[str, Any] = {"names": FieldNames("messages", "positive_messages", "negative_messages")}
    for message in _messages(row.get("messages", []), "messages"):
        if message["role"] == "system":
            fields["instruction"] = message.get("content")
        elif message["role"] == "user":  # the last one counts
            fields["query"] = message.get("content")
    fields.setdefault("query", None)
    fields["positives"] = _last_contents(row.get("positive_messages", []), "positive_messages")
    fields["negatives"] = _last_contents(row.get("negative_messages", []), "negative_messages")
    return fields


def _messages(value: Any, name: str) -> list[dict[str, Any]]:
    if isinstance(value, list) and all(isinstance(message, dict) and "role" in message for message in value):
        return value
    remedy = 'Write [{"role": "user", "content": "..."}]; each positive and negative is such a list of its own.'
    raise InvalidExampleError(name, f"should be a list of messages, but is {describe(value)}", remedy)


def _last_contents(conversations: Any, column: str) -> list[Any]:
    """The text of each document: the content of the last message of its list."""
    if not isinstance(conversations, list):
        raise InvalidExampleError(
            column, f"should be a list, but is {describe(conversations)}", "Write [[{...}], ...]."
        )
    contents = []
    for index, conversation in enumerate(conversations):
        messages = _messages(conversation, f"{column}[{index}]")
        if any(message["role"] == "system" for message in messages):
            remedy = "Documents have no instruction: remove it, or write it into the text."
            raise InvalidExampleError(f"{column}[{index}]", "holds a system message", remedy)
        contents.append(messages[-1].get("content") if messages else None)
    return contents


def _old_swift(row: Row) -> dict[str, Any]:
    return _columns_as_they_are(row, "query", "response", "rejected_response")


def _tevatron(row: Row) -> dict[str, Any]:
    return _columns_as_they_are(row, "query", "positive_passages", "negative_passages")


def _automodel(row: Row) -> dict[str, Any]:
    return _columns_as_they_are(row, "question" if "question" in row else "query", "pos_doc", "neg_doc")


def _columns_as_they_are(row: Row, query: str, positive: str, negative: str) -> dict[str, Any]:
    positives, positive_name = texts_of(row.get(positive, ()), positive)
    negatives, negative_name = texts_of(row.get(negative, ()), negative)
    return {
        "query": row.get(query),
        "positives": _document_texts(positives, positive),
        "negatives": _document_texts(negatives, negative),
        "names": FieldNames(query, positive_name, negative_name),
    }


def _document_texts(documents: Any, column: str) -> Any:
    """Texts unchanged; of ``{"title": ..., "text": ...}`` the title, a space and the text."""
    if not isinstance(documents, list):
        return documents
    texts = []
    for index, document in enumerate(documents):
        if isinstance(document, dict):
            if not isinstance(document.get("text"), str):
                remedy = 'Write the text in place: {"text": "..."}; references into a corpus are not followed.'
                raise InvalidExampleError(f"{column}[{index}]", f"has no text: {describe(document)}", remedy)
            document = f"{document.get('title') or ''} {document['text']}".strip()
        texts.append(document)
    return texts


LAYOUTS = (
    Layout("qwen3emb", "query, positive | positives, negatives, ...", _is_own, own_fields),
    Layout(
        "FlagEmbedding", "query, pos, neg, pos_scores, neg_scores, prompt", {"query", "pos"}.issubset, _flag_embedding
    ),
    Layout(
        "ms-swift", "messages, positive_messages, negative_messages", {"messages", "positive_messages"}.issubset, _swift
    ),
    Layout("older ms-swift", "query, response, rejected_response", {"query", "response"}.issubset, _old_swift),
    Layout(
        "Tevatron", "query, positive_passages, negative_passages", {"query", "positive_passages"}.issubset, _tevatron
    ),
    Layout(
        "Automodel",
        "question | query, pos_doc, neg_doc",
        lambda columns: "pos_doc" in columns and not columns.isdisjoint({"question", "query"}),
        _automodel,
    ),
    Layout(
        "sentence-transformers",
        "anchor | query | question, positive | answer | document, negative, negative_1, scores",
        lambda columns: not columns.isdisjoint(_QUERY_COLUMNS) and not columns.isdisjoint(_POSITIVE_COLUMNS),
        _sentence_transformers,
    ),
)


class UnknownLayoutError(InvalidExampleError):
    """The columns of a row match no known layout."""


class RowReader:
    """Turns the rows of one file into arguments of ``build_example``; keeps the layout it has recognised."""

    def __init__(self, ignored_columns: list[str], columns: Mapping[str, str] | None = None) -> None:
        """
        Args:
            ignored_columns: are left out, as the file names them.
            columns: our names -> the file's, where they are others.
        """
        self._renamed = columns or {}
        self._ignored_columns = frozenset(ignored_columns)
        self._dropped: dict[str, bool] = {}  # whether a column is, by its name
        self._layout: Layout | None = None
        self._columns: Set[str] = frozenset()  # of the row before
        self._passed: set[tuple[str, frozenset[str]]] = set()  # columns that a layout has accepted

    def read(self, row: Row) -> dict[str, Any]:
        """The arguments of a prepared row. Null counts as absent, as in Parquet rows that lack a column.

        Raises:
            UnknownLayoutError: neither this row nor one before it is of a known layout.
            InvalidExampleError: for a column or value that does not fit the layout.
        """
        layout = self._layout
        if layout is None or row.keys() != self._columns:
            layout = self._layout = recognise_layout(row.keys(), layout)
            self._columns = frozenset(row)
        if None in row.values():
            row = {name: value for name, value in row.items() if value is not None}
        passed = (layout.name, frozenset(row))
        if passed not in self._passed:
            layout.check_columns(row.keys())
            self._passed.add(passed)
        fields = layout.fields(row)
        if layout.is_own:
            return fields
        return {name: row[name] for name in OWN_LABELS if name in row} | fields

    def prepare(self, row: dict[str, Any]) -> Row:
        """The row under our names, without identifiers and ``ignored_columns``.

        Raises:
            InvalidExampleError: it lacks a column that ``columns`` names.
        """
        if self._ignored_columns:
            row = {name: value for name, value in row.items() if name not in self._ignored_columns}
        row = renamed(row, self._renamed)
        dropped = self._dropped
        for name in row.keys() - dropped.keys():
            dropped[name] = is_identifier(name)
        if not any(map(dropped.__getitem__, row)):
            return row
        return {name: value for name, value in row.items() if not dropped[name]}


def recognise_layout(columns: Set[str], current: Layout | None = None) -> Layout:
    """The layout of these columns: ``current`` if it fits or nothing does, else the first that fits.

    So an incomplete row keeps the layout of the rows before it, and what it lacks is reported by name.

    Raises:
        UnknownLayoutError: no layout fits, and there is no ``current`` one.
    """
    if current is not None and current.matches(columns):
        return current
    for layout in LAYOUTS:
        if layout.matches(columns):
            return layout
    if current is not None:
        return current
    known = TRAINING_FIELDS.union(*(layout.listed for layout in LAYOUTS))
    nearest = {column: difflib.get_close_matches(column, known, 1) for column in sorted(columns - known)}
    hints = "".join(f"{column!r} looks like {found[0]!r}. " for column, found in nearest.items() if found)
    understood = "; ".join(f"{layout.name} ({layout.columns})" for layout in LAYOUTS)
    reason = f"the columns found are of no known layout: {', '.join(map(repr, sorted(columns))) or 'none'}"
    raise UnknownLayoutError("columns", reason, f"{hints}Rename them to a layout that is understood: {understood}.")
