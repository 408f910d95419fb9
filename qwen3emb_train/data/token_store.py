"""Token ids of a data source, written once, then memory-mapped.

Key: the tokenizer, the query template, the default instruction and the *contents* of the files. The ids are stored
untruncated and without the EOS token, so truncation lengths can change without tokenising again. A row's texts are
adjacent: query, positives, hard negatives; so one offset and one count describe a row, without Python objects.
"""

import json
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from qwen3emb_train.data.instructions import Template
from qwen3emb_train.data.readers import ReadingConfig
from qwen3emb_train.data.reranker_tokens import RerankerTokenizer
from qwen3emb_train.data.store_writing import ARRAYS, OPTIONAL_ARRAYS, REJECTED_FILE, write_store
from qwen3emb_train.data.tokenization import TextTokenizer
from qwen3emb_train.lineage import digest_cached, value_digest

STORE_VERSION = 2


@dataclass(frozen=True, eq=False)
class TokenStore:
    """Memory-mapped arrays and what is known of the source.

    Attributes:
        directory: of its files.
        key: digest of everything the arrays depend on, the file contents included.
        contents: digest of the file contents alone.
        ids: tokens of all texts, end to end.
        text_ends: token offset after each text.
        text_hashes: 63-bit hash of each (formatted) text.
        row_ends: text index after each row's texts.
        num_positives: positives of each row.
        scores: a teacher's score of each document, at its text's index; NaN at queries and in rows without scores.
            None where no row of the source has any.
        languages: number of each row's language in ``language_names``. None where no row names one.
    """

    directory: Path
    key: str
    contents: str
    ids: Int[np.ndarray, " tokens"]
    text_ends: Int[np.ndarray, " texts"]
    text_hashes: Int[np.ndarray, " texts"]
    row_ends: Int[np.ndarray, " rows"]
    num_positives: Int[np.ndarray, " rows"]
    scores: Float[np.ndarray, " texts"] | None = None
    languages: Int[np.ndarray, " rows"] | None = None
    language_names: tuple[str, ...] = ("",)

    @property
    def num_rows(self) -> int:
        return len(self.row_ends)

    def row_spans(
        self, rows: Int[np.ndarray, " rows"]
    ) -> tuple[Int[np.ndarray, " rows"], Int[np.ndarray, " rows"], Int[np.ndarray, " rows"]]:
        """Text indices of each row: its query, its first hard negative, one past its last text.

        The positives are between the query and the first hard negative.
        """
        queries = np.where(rows > 0, self.row_ends[rows - 1], 0)
        return queries, queries + 1 + self.num_positives[rows], self.row_ends[rows]

    def text_spans(
        self, texts: Int[np.ndarray, " texts"]
    ) -> tuple[Int[np.ndarray, " texts"], Int[np.ndarray, " texts"]]:
        """Where each text starts in ``ids``, and its number of tokens without the EOS."""
        starts = np.where(texts > 0, self.text_ends[texts - 1], 0)
        return starts, self.text_ends[texts] - starts

    def row_tokens(
        self, rows: Int[np.ndarray, " rows"], max_query_tokens: int, max_document_tokens: int
    ) -> Int[np.ndarray, " rows"]:
        """Tokens of each row's texts, truncated, EOS tokens included.

        Args:
            rows: of this store.
            max_query_tokens, max_document_tokens: truncation lengths, EOS token included.
        """
        queries, _, ends = self.row_spans(rows)
        texts, row_idx = flat_spans(queries, ends - queries)
        limits = np.full(len(texts), max_document_tokens)
        limits[np.cumsum(ends - queries) - (ends - queries)] = max_query_tokens
        tokens = np.minimum(self.text_spans(texts)[1] + 1, limits)
        return np.bincount(row_idx, weights=tokens, minlength=len(rows)).astype(np.int64)


def flat_spans(
    starts: Int[np.ndarray, " spans"], lengths: Int[np.ndarray, " spans"]
) -> tuple[Int[np.ndarray, " items"], Int[np.ndarray, " items"]]:
    """The indices ``start, ..., start + length - 1`` of all spans, concatenated, and the span each belongs to."""
    span_idx = np.repeat(np.arange(len(starts)), lengths)
    return np.arange(len(span_idx)) + (starts - (np.cumsum(lengths) - lengths))[span_idx], span_idx


def open_token_store(
    source: Path,
    tokenizer: TextTokenizer | RerankerTokenizer,
    cache_dir: Path,
    *,
    template: Template = Template.embedding,
    instruction: str | None = None,
    reading: ReadingConfig | None = None,
    verify_contents: bool = False,
    processes: int | None = None,
) -> TokenStore:
    """The store of ``source``, written now if these contents were never tokenised.

    Args:
        source: a file or a directory of shards.
        tokenizer: whose ids are stored.
        cache_dir: parent directory of all stores.
        template: which texts of a row are tokenised.
        instruction: for rows without their own.
        reading: how strictly to read.
        verify_contents: read all files to digest them, even those whose size, time stamp and inode are unchanged since
            they were last digested (see ``lineage.digest_cached``).
        processes: number of tokenising processes; None: as many as there are shards and cores, one for little data.

    Raises:
        FileNotFoundError, ValueError: from reading; see ``data.readers``.
    """
    reading = reading or ReadingConfig()
    contents = digest_cached(source, cache_dir / "digests", verify=verify_contents)
    key = value_digest(
        {
            "version": STORE_VERSION,
            "tokenizer": tokenizer.fingerprint,
            "template": template.text,
            "instruction": instruction,
            "contents": contents,
            "reading": [reading.skip_bad_lines, sorted(reading.ignored_columns)],
        }
    )
    directory = cache_dir / key[:32]
    if not (directory / "meta.json").is_file():
        write_store(directory, source, tokenizer, template, instruction, reading, processes)
    try:
        meta = json.loads((directory / "meta.json").read_text(encoding="utf-8"))
        of = partial(_map, directory)
        return TokenStore(
            directory, key, contents,
            **{name: of(name, dtype) for name, dtype in ARRAYS.items()},
            **{name: of(name, dtype) for name, dtype in OPTIONAL_ARRAYS.items() if name in meta["arrays"]},
            language_names=tuple(meta["languages"]),
        )  # fmt: skip
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{directory}: damaged token store of {source} ({error}). Delete it; it is written again."
        ) from error


def _map(directory: Path, name: str, dtype: type[np.generic]) -> np.ndarray:
    # As a plain array: slicing a memmap costs several times more.
    return np.asarray(np.memmap(directory / f"{name}.bin", dtype=dtype, mode="r"))


def copy_rejected(store: TokenStore, target: Path) -> bool:
    """Copies the lines that reading skipped to the run's results; False when there are none."""
    rejected = store.directory / REJECTED_FILE
    if not rejected.is_file() or rejected.stat().st_size == 0:
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(rejected, target)
    return True
