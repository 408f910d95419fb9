"""From files to passages: streamed, in a fixed order, every bad file reported with its reason.

A passage's id is a digest of its text, so a document's own name (``../../x``, 4,000 letters) is never used as a file
name.
"""

import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from data_synth.chunking import TokenCounter, chunk_code, chunk_text, load_token_counter
from data_synth.extraction import CODE_LANGUAGES, extract_file
from data_synth.formats.compressed import inner_suffix
from data_synth.formats.extract import Extract, UnreadableError, clean_text
from data_synth.table_rows import is_table, table_rows

DetectLanguages = Callable[[Sequence[str]], list[str]]
_BATCH = 64  # passages of one file whose languages are told together
_MAX_LABEL = 200  # characters kept of a title, a source or a place


@dataclass
class DocumentsConfig:
    """One source of documents.

    Attributes:
        path: a file with a document in each row (.jsonl, .json, .csv, .tsv, .parquet), a single document, either
            perhaps compressed (.gz, .zst), or a folder of these (names that begin with a dot are skipped, symbolic
            links are rejected).
        language: code for documents without one ("en"); "" = detected.
        text_column: column of a table with the text; .csv and .tsv without it give whole rows. A column
            "programming_language" marks code.
        title_column: column with the title; may be absent.
        language_column: column with the language; may be absent.
        tokenizer: directory with tokenizer.json for counting tokens; null = an estimate.
        max_tokens: longest passage.
        min_tokens: shortest passage; a shorter one is joined to its neighbour, or rejected if there is none.
        with_title: each passage of a document begins with the document's title.
        max_passages_per_document: only the first ones are used; null = all.
        max_documents: only the first ones are used; null = all.
        max_file_bytes: largest file with one document, longest line of a table.
        max_document_characters: longer documents are rejected.
        deduplicate: skip passages that occurred before (about 60 bytes of memory each).
    """

    path: str = ""
    language: str = ""
    text_column: str = "text"
    title_column: str = "title"
    language_column: str = "language"
    tokenizer: str | None = None
    max_tokens: int = 512
    min_tokens: int = 16
    with_title: bool = True
    max_passages_per_document: int | None = None
    max_documents: int | None = None
    max_file_bytes: int = 64_000_000
    max_document_characters: int = 5_000_000
    deduplicate: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.min_tokens < self.max_tokens:
            raise ValueError(
                f"min_tokens={self.min_tokens}, max_tokens={self.max_tokens}: give 1 <= min_tokens < max_tokens."
            )
        for key in ("max_passages_per_document", "max_documents", "max_file_bytes", "max_document_characters"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"{key}={value}: give a whole number of at least 1.")


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a document.

    Attributes:
        id: digest of the text, 32 hex digits.
        text: that a query shall retrieve.
        language: code of its natural language; "und" if it could not be told, "" for code.
        source: name of the source in the configuration.
        title: the document's.
        code: its programming language; "" for prose.
        document: its origin (file and line), for readers.
        personas: candidates for the person who asks about it, nearest first.
    """

    id: str
    text: str
    language: str = ""
    source: str = ""
    title: str = ""
    code: str = ""
    document: str = ""
    personas: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {**asdict(self), "personas": list(self.personas)}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "Passage":
        """The passage that ``to_json`` received."""
        return cls(**{**row, "personas": tuple(row["personas"])})


@dataclass(frozen=True, slots=True)
class RejectedDocument:
    """A file, row or passage that was rejected.

    Attributes:
        source: name of the source.
        document: file (and line) within it; bytes that are not UTF-8 are escaped.
        reason: a short, countable name.
        detail: what is wrong and how to fix it.
    """

    source: str
    document: str
    reason: str
    detail: str


def passage_id(text: str) -> str:
    """Digest of a text (32 hex digits)."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def read_passages(
    name: str,
    config: DocumentsConfig,
    on_rejected: Callable[[RejectedDocument], None],
    detect_languages: DetectLanguages | None = None,
    seen: set[int] | None = None,
) -> Iterator[Passage]:
    """All passages of a source, in the order of file names and lines.

    Args:
        name: of the source.
        config: of the source.
        on_rejected: called for each rejected file, row or passage.
        detect_languages: texts of one file -> codes, used for prose whose language is unknown.
        seen: digests of the passages of earlier sources; those of this one are added.

    Raises:
        FileNotFoundError: the path does not exist.
    """
    passages = _passages(name, config, on_rejected, set() if seen is None else seen)
    yield from passages if detect_languages is None else _with_languages(passages, detect_languages)


def _with_languages(passages: Iterable[Passage], detect_languages: DetectLanguages) -> Iterator[Passage]:
    """By file, so that what is told of one file does not depend on the files before it."""
    for _, of_file in groupby(passages, lambda passage: re.sub(r":\d+\Z", "", passage.document)):
        while batch := list(islice(of_file, _BATCH)):
            unknown = [passage.text for passage in batch if not passage.language and not passage.code]
            told = iter(detect_languages(unknown) if unknown else [])
            for passage in batch:
                is_unknown = not passage.language and not passage.code
                yield replace(passage, language=next(told)) if is_unknown else passage


def _passages(
    name: str, config: DocumentsConfig, on_rejected: Callable[[RejectedDocument], None], seen: set[int]
) -> Iterator[Passage]:
    count = load_token_counter(config.tokenizer)
    num_documents = 0
    for place, found in _documents(config):
        if config.max_documents is not None and num_documents >= config.max_documents:
            return
        try:
            if isinstance(found, UnreadableError):
                raise found
            for text in _passage_texts(found, config, count):
                text_id = passage_id(text)
                if config.deduplicate:
                    number = int(text_id[:16], 16)
                    if number in seen:
                        on_rejected(RejectedDocument(name, place, "duplicate", f"passage {text_id} occurred before."))
                        continue
                    seen.add(number)
                yield Passage(text_id, text, found.language, name, found.title, found.code, place)
            num_documents += 1
        except UnreadableError as problem:
            on_rejected(RejectedDocument(name, place, problem.reason, problem.detail))


@dataclass(frozen=True)
class _Document:
    title: str
    text: str
    language: str
    code: str
    is_markdown: bool


def _documents(config: DocumentsConfig) -> Iterator[tuple[str, _Document | UnreadableError]]:
    """Documents with their origins; an error in place of an unreadable one."""
    root = Path(config.path)
    if not config.path or not root.exists():
        raise FileNotFoundError(f"documents path {config.path!r}: no such file or folder.")
    for path in _files(root) if root.is_dir() else [root]:
        place = _printable(path.relative_to(root) if root.is_dir() else Path(path.name))
        try:
            if root.is_dir() and not stat.S_ISREG(path.lstat().st_mode):
                raise UnreadableError("no_regular_file", "a link, pipe or device. Copy its content here.")
            if is_table(path):
                for line, row in table_rows(path, config.max_file_bytes):
                    yield f"{place}:{line}", _document_of_row(row, config)
            else:
                extract = extract_file(path, config.max_file_bytes)
                code = CODE_LANGUAGES.get(inner_suffix(path), "")
                yield place, _checked(extract, "" if code else config.language, code, config)
        except UnreadableError as problem:
            yield place, problem
        except OSError as error:
            yield place, UnreadableError("unreadable", f"{error.strerror or error}.")


def _files(root: Path) -> Iterator[Path]:
    """All files and links below a folder, sorted by name."""
    for directory, folders, files in os.walk(root):
        links = [name for name in folders if (Path(directory) / name).is_symlink()]
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in links)
        for name in sorted([*files, *links]):
            if not name.startswith("."):
                yield Path(directory) / name


def _document_of_row(row: Mapping[str, Any] | UnreadableError, config: DocumentsConfig) -> _Document | UnreadableError:
    try:
        if isinstance(row, UnreadableError):
            raise row
        text = row.get(config.text_column, row.get(""))  # "": all of a CSV's row
        if isinstance(text, list) and text and all(isinstance(part, str) for part in text):
            text = "\n\n".join(text)  # the positives of a file of examples
        if not isinstance(text, str):
            columns = ", ".join(map(str, row))[:200]
            detail = f"no text in {config.text_column!r}; the row has {columns}. Set text_column."
            raise UnreadableError("no_text", detail)
        title, language, code = (
            value.strip() if isinstance(value := row.get(column), str) else ""
            for column in (config.title_column, config.language_column, "programming_language")
        )
        extract = Extract(clean_text(title), clean_text(text))
        return _checked(extract, clean_text(language) or ("" if code else config.language), clean_text(code), config)
    except UnreadableError as problem:
        return problem


def _checked(extract: Extract, language: str, code: str, config: DocumentsConfig) -> _Document:
    if not extract.text.strip():
        raise UnreadableError("empty", "there is no text in it (a scanned PDF needs text recognition first).")
    if len(extract.text) > config.max_document_characters:
        detail = f"{len(extract.text)} characters, max_document_characters is {config.max_document_characters}."
        raise UnreadableError("document_too_long", detail)
    title = " ".join(extract.title.split())[:_MAX_LABEL]
    return _Document(title, extract.text, language[:_MAX_LABEL], code[:_MAX_LABEL], extract.is_markdown)


def _passage_texts(document: _Document, config: DocumentsConfig, count: TokenCounter) -> Iterator[str]:
    heading = document.title if config.with_title and not document.code else ""
    room = config.max_tokens - count(heading)
    if room < config.max_tokens // 2:  # a title this long does not help
        heading, room = "", config.max_tokens
    least = min(config.min_tokens, room - 1)
    if document.code:
        chunks = chunk_code(document.text, room, least, count, document.code.lower())
    else:
        chunks = chunk_text(document.text, room, least, count, document.is_markdown)
    num_passages = 0
    too_short = 0
    for chunk in chunks:
        if count(chunk) < config.min_tokens:
            too_short += 1
        elif config.max_passages_per_document is None or num_passages < config.max_passages_per_document:
            num_passages += 1
            starts_with_it = chunk.lstrip("# ").startswith(heading)
            yield chunk if not heading or starts_with_it else f"{heading}\n{chunk}"
    if not num_passages and too_short:
        raise UnreadableError("too_short", f"fewer than min_tokens={config.min_tokens} tokens.")


def _printable(path: Path) -> str:
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")[-_MAX_LABEL:]
