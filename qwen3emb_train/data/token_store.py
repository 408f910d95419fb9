"""Token ids of a data source, written once, memory-mapped ever after.

Key: the tokenizer, the query template, the default instruction and the *contents* of the files. The ids are stored
whole and without the closing token, so truncation lengths can change without tokenising again. A row's texts lie
together: query, positives, hard negatives; so one offset and one count describe a row, and nothing of it is a Python
object.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Int

from qwen3emb_train.data.instructions import QUERY_TEMPLATE, format_query
from qwen3emb_train.data.readers import ReadingConfig, read_examples
from qwen3emb_train.data.records import TrainingExample
from qwen3emb_train.data.tokenization import TextTokenizer
from qwen3emb_train.lineage import atomic_directory, digest, value_digest, write_text

STORE_VERSION = 1
REJECTED_FILE = "rejected.jsonl"
_ARRAYS: dict[str, type[np.generic]] = {
    "ids": np.int32,  # tokens of all texts
    "text_ends": np.int64,  # token offset after each text
    "identities": np.int64,  # 63-bit hash of each (formatted) text
    "row_ends": np.int64,  # text index after each row's texts
    "num_positives": np.int32,  # positives of each row
}
_ROWS_AT_ONCE = 2048


@dataclass(frozen=True)
class TokenStore:
    """Memory-mapped arrays (see ``_ARRAYS``) and what is known of the source.

    Attributes:
        directory: where it lies.
        key: digest of everything the ids depend on, the file contents included: the source's fingerprint.
        closing_token_id: the token to append to every text.
    """

    directory: Path
    key: str
    closing_token_id: int
    ids: Int[np.ndarray, " tokens"]
    text_ends: Int[np.ndarray, " texts"]
    identities: Int[np.ndarray, " texts"]
    row_ends: Int[np.ndarray, " rows"]
    num_positives: Int[np.ndarray, " rows"]

    @property
    def num_rows(self) -> int:
        return len(self.row_ends)

    def row_texts(self, row: int) -> tuple[int, range, range]:
        """Text indices of a row's query, positives and hard negatives."""
        query = int(self.row_ends[row - 1]) if row else 0
        first_negative = query + 1 + int(self.num_positives[row])
        return query, range(query + 1, first_negative), range(first_negative, int(self.row_ends[row]))

    def text_ids(self, text: int) -> Int[np.ndarray, " tokens_of_text"]:
        """Ids of one text, without the closing token."""
        start = int(self.text_ends[text - 1]) if text else 0
        return self.ids[start : int(self.text_ends[text])]


def open_token_store(
    source: Path,
    tokenizer: TextTokenizer,
    cache_dir: Path,
    *,
    instruction: str | None = None,
    reading: ReadingConfig | None = None,
) -> TokenStore:
    """The store of ``source`` (a file or a directory of shards), made now if these contents were never tokenised.

    Args:
        instruction: for rows that bring none of their own.

    Raises:
        FileNotFoundError, ValueError: from reading; see ``data.readers``.
    """
    reading = reading or ReadingConfig()
    key = value_digest(
        {
            "version": STORE_VERSION,
            "tokenizer": tokenizer.fingerprint,
            "template": QUERY_TEMPLATE,
            "instruction": instruction,
            "contents": digest(source),
            "reading": [reading.skip_bad_lines, sorted(reading.ignored_columns)],
        }
    )
    directory = cache_dir / key[:32]
    if not (directory / "meta.json").is_file():
        _write_store(directory, source, tokenizer, instruction, reading)
    return _map_store(directory, key, tokenizer.closing_token_id, source)


def text_identity(text: str) -> int:
    """A 63-bit hash of the characters, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") >> 1


def _write_store(
    directory: Path, source: Path, tokenizer: TextTokenizer, instruction: str | None, reading: ReadingConfig
) -> None:
    with atomic_directory(directory) as temporary:
        examples = read_examples(source, reading, rejected_path=temporary / REJECTED_FILE)
        files = {name: (temporary / f"{name}.bin").open("wb") for name in _ARRAYS}
        try:
            num_rows = _append_rows(files, examples, tokenizer, instruction)
        finally:
            for file in files.values():
                file.close()
        if num_rows == 0:
            raise ValueError(f"{source}: no training example in it. Give a file with at least one line.")
        write_text(temporary / "meta.json", json.dumps({"source": source.name, "num_rows": num_rows}))


def _append_rows(
    files: Mapping[str, BinaryIO],
    examples: Iterable[TrainingExample],
    tokenizer: TextTokenizer,
    instruction: str | None,
) -> int:
    num_rows = num_texts = num_tokens = 0
    for batch in _batched(examples, _ROWS_AT_ONCE):
        texts: list[str] = []
        row_ends = []
        for example in batch:
            texts += [format_query(_own_or(instruction, example), example.query), *example.positives]
            texts += example.negatives
            row_ends.append(num_texts + len(texts))
        ids = tokenizer.tokenize_without_closing(texts)
        ends = num_tokens + np.cumsum([len(one) for one in ids])
        columns = {
            "ids": [token for one in ids for token in one],
            "text_ends": ends,
            "identities": [text_identity(text) for text in texts],
            "row_ends": row_ends,
            "num_positives": [len(example.positives) for example in batch],
        }
        for name, values in columns.items():
            files[name].write(np.asarray(values, dtype=_ARRAYS[name]).tobytes())
        num_rows, num_texts, num_tokens = num_rows + len(batch), row_ends[-1], int(ends[-1])
    return num_rows


def _own_or(default: str | None, example: TrainingExample) -> str | None:
    """A line's empty instruction means "none", not "the default"."""
    return default if example.instruction is None else example.instruction


def _map_store(directory: Path, key: str, closing_token_id: int, source: Path) -> TokenStore:
    try:
        arrays = {name: np.memmap(directory / f"{name}.bin", dtype=dtype, mode="r") for name, dtype in _ARRAYS.items()}
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{directory}: damaged token store of {source} ({error}). Delete it; it is made anew."
        ) from error
    return TokenStore(directory, key, closing_token_id, **arrays)


def _batched(examples: Iterable[TrainingExample], size: int) -> Iterator[list[TrainingExample]]:
    iterator = iter(examples)
    while batch := list(islice(iterator, size)):
        yield batch


def copy_rejected(store: TokenStore, target: Path) -> bool:
    """Puts the lines that reading left out beside the run's results; False when there are none."""
    rejected = store.directory / REJECTED_FILE
    if not rejected.is_file() or rejected.stat().st_size == 0:
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(rejected, target)
    return True
