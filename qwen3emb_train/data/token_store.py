"""Token ids of a data source, written once, then memory-mapped.

Key: the tokenizer, the query template, the task, the default instruction and the *contents* of the files. The ids are
stored untruncated and without the EOS token, so truncation lengths can change without tokenising again. A row's texts
are adjacent: query, positives, hard negatives; so one offset and one count describe a row, without Python objects.
"""

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from qwen3emb_train.data.instructions import Template
from qwen3emb_train.data.readers import ReadingConfig
from qwen3emb_train.data.reranker_tokens import RerankerTokenizer
from qwen3emb_train.data.shared_work import Claim
from qwen3emb_train.data.store_parts import ARRAYS, OPTIONAL_ARRAYS, REJECTED_FILE
from qwen3emb_train.data.store_writing import write_store
from qwen3emb_train.data.tokenization import TextTokenizer
from qwen3emb_train.lineage import digest_cached, matches, require_unchanged, value_digest

STORE_VERSION = 3


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
        instructions: number of rows under each instruction ("": bare), most frequent first.
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
    instructions: Mapping[str, int] = field(default_factory=dict)

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
    task: str = "retrieval",
    instruction: str | None = None,
    reading: ReadingConfig | None = None,
    columns: Mapping[str, str] | None = None,
    verify_contents: bool = False,
    processes: int | None = None,
) -> TokenStore:
    """The store of ``source``, written now if these contents were never tokenised.

    Processes that ask for the same store at once, on whatever host, make it together (``store_writing``).

    Args:
        source: a file or a directory of shards.
        tokenizer: of the model.
        cache_dir: the parent of all token stores.
        template: what of a row is tokenised.
        task: of the source; rows that say otherwise are bad lines.
        instruction: for rows without an instruction.
        reading: how strictly to read; None = the defaults.
        columns: names of columns that are not ours.
        verify_contents: read all files to digest them, even those whose size, time stamp and inode say that they are
            unchanged since they were last digested (see ``lineage.digest_cached``), and the store's own files.
        processes: that tokenise at once; None: this process's share of the host's cores, one for little data.

    Raises:
        FileNotFoundError, ValueError: from reading; see ``data.readers``.
    """
    reading = reading or ReadingConfig()
    contents = _digest_once(source, cache_dir / "digests", verify_contents)
    key = value_digest(
        {
            "version": STORE_VERSION,
            "tokenizer": tokenizer.fingerprint,
            "template": template.text,
            "task": task,
            "instruction": instruction,
            "contents": contents,
            "reading": [reading.skip_bad_lines, sorted(reading.ignored_columns)],
        }
        | ({"columns": dict(columns)} if columns else {})
    )
    directory = cache_dir / key[:32]
    if not directory.exists():
        write_store(directory, source, tokenizer, template, task, instruction, reading, columns or {}, processes)
    try:
        meta = json.loads((directory / "meta.json").read_text(encoding="utf-8"))
        names = [*ARRAYS, *(name for name in OPTIONAL_ARRAYS if name in meta["arrays"])]
        arrays = {name: _map(directory, name, (ARRAYS | OPTIONAL_ARRAYS)[name]) for name in names}
        _require_whole(arrays, meta["num_rows"])
        if verify_contents:
            require_unchanged(directory, meta.get("digests", {}))
        return TokenStore(
            directory, key, contents, **arrays, language_names=tuple(meta["languages"]),
            instructions=meta["instructions"],
        )  # fmt: skip
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{directory}: damaged token store of {source} ({error}). Delete it; it is written again."
        ) from error


def _digest_once(source: Path, notes: Path, verify: bool) -> str:
    """The source's digest; of processes that ask at once, one reads the source and the others wait for its note."""
    if verify or not (source.exists() or matches(source)):
        return digest_cached(source, notes, verify=verify)
    claim = Claim(notes / f"{value_digest(str(source.resolve()))[:32]}.claim")
    while not claim.take():
        time.sleep(0.1)
    try:
        return digest_cached(source, notes)
    finally:
        claim.release()


def _require_whole(arrays: Mapping[str, np.ndarray], num_rows: int) -> None:
    """Lengths that do not fit one another are a store of which a part is missing.

    Raises:
        ValueError: names the array.
    """
    num_texts, num_tokens = (int(arrays[name][-1]) if len(arrays[name]) else 0 for name in ("row_ends", "text_ends"))
    lengths = {
        "row_ends": num_rows, "num_positives": num_rows, "languages": num_rows,
        "text_ends": num_texts, "text_hashes": num_texts, "scores": num_texts, "ids": num_tokens,
    }  # fmt: skip
    for name, array in arrays.items():
        if len(array) != lengths[name]:
            raise ValueError(f"{name}.bin has {len(array):,} of {lengths[name]:,} numbers")


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
