"""Writes a token store: one part per group of shards, in several processes where that is faster, joined in order.

The result does not depend on the number of processes. Memory: a few thousand rows for each process. Disk while joining:
one part more than the store. A single large file is one part; split it to have it tokenised in parallel.
"""

import json
import multiprocessing
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from qwen3emb_train.data.instructions import DEFAULT_INSTRUCTION, Template, format_query, reranker_body
from qwen3emb_train.data.readers import (
    BadLinesError,
    ReadingConfig,
    read_examples,
    read_reranking_examples,
    shard_paths,
)
from qwen3emb_train.data.records import RerankingExample, TrainingExample
from qwen3emb_train.data.reranker_tokens import RerankerTokenizer
from qwen3emb_train.data.tokenization import TextTokenizer, ids_without_eos, text_hash
from qwen3emb_train.lineage import atomic_directory, write_text

REJECTED_FILE = "rejected.jsonl"
ARRAYS: dict[str, type[np.generic]] = {
    "ids": np.int32,
    "text_ends": np.int64,
    "text_hashes": np.int64,
    "row_ends": np.int64,
    "num_positives": np.int32,
}
OPTIONAL_ARRAYS: dict[str, type[np.generic]] = {"scores": np.float32, "languages": np.int16}  # see TokenStore
_ROWS_AT_ONCE = 2048
_VALUES_AT_ONCE = 2**22  # numbers in memory while joining
_PARTS_PER_PROCESS = 4
_PARALLEL_BYTES = 64 * 2**20  # below, starting processes costs more than they save
_stop: Any = None  # in a process of the pool: set when another one failed


@dataclass
class _Totals:
    rows: int = 0
    texts: int = 0
    tokens: int = 0
    any_scores: bool = False
    languages: list[str] = field(default_factory=list)  # in the order of their numbers


def write_store(
    directory: Path,
    source: Path,
    tokenizer: TextTokenizer | RerankerTokenizer,
    template: Template,
    instruction: str | None,
    reading: ReadingConfig,
    processes: int | None,
) -> None:
    """Writes the store of ``source``, complete or not at all.

    Args:
        directory: of the store.
        source: a file or a directory of shards.
        tokenizer, template, instruction, reading, processes: as in ``open_token_store``.

    Raises:
        FileNotFoundError, ValueError: from reading, or when there is no example at all.
    """
    shards = shard_paths(source)
    if processes is None:
        is_large = sum(shard.stat().st_size for shard in shards) >= _PARALLEL_BYTES
        processes = _num_cores() if is_large else 1
    processes = min(processes, len(shards))
    with atomic_directory(directory) as temporary:
        num_parts = 1 if processes == 1 else min(len(shards), processes * _PARTS_PER_PROCESS)
        parts = [temporary / f"part_{number:05d}" for number in range(num_parts)]
        bounds = [len(shards) * number // num_parts for number in range(num_parts + 1)]
        backend = tokenizer.hf.backend_tokenizer  # all that a process needs; unpickling it needs no transformers
        tasks = [
            (part, shards[first:last], backend, template, instruction, reading)
            for part, (first, last) in zip(parts, pairwise(bounds), strict=True)
        ]
        totals = [_write_part(*tasks[0])] if processes == 1 else _write_in_processes(tasks, processes)
        languages = sorted({name for total in totals for name in total.languages})
        arrays = list(ARRAYS)
        arrays += ["scores"] * any(total.any_scores for total in totals)
        arrays += ["languages"] * (languages not in ([], [""]))
        _join(temporary, parts, totals, arrays, languages)
        num_rows = sum(total.rows for total in totals)
        if num_rows == 0:
            raise ValueError(f"{source}: no training example in it. Give a file with at least one line.")
        meta = {"source": source.name, "num_rows": num_rows, "arrays": arrays, "languages": languages}
        write_text(temporary / "meta.json", json.dumps(meta, ensure_ascii=False))


def _num_cores() -> int:
    """Cores available to this process: a scheduler often grants fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _write_in_processes(tasks: Sequence[tuple[Any, ...]], processes: int) -> list[_Totals]:
    # Spawned, not forked: the tokenizer's threads may hold locks that a fork would copy and never release.
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    with ProcessPoolExecutor(processes, context, _start_process, (stop,)) as pool:
        futures = [pool.submit(_write_part, *task) for task in tasks]
        try:
            return [future.result() for future in futures]
        except BaseException:
            stop.set()  # otherwise the pool would wait until every shard is tokenised
            pool.shutdown(cancel_futures=True)
            raise


def _start_process(stop: Any) -> None:
    global _stop
    _stop = stop
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes share the cores already


def _write_part(
    part: Path,
    shards: Sequence[Path],
    backend: Any,
    template: Template,
    instruction: str | None,
    reading: ReadingConfig,
) -> _Totals:
    part.mkdir()
    totals = _Totals()
    files = {name: (part / f"{name}.bin").open("wb") for name in (*ARRAYS, *OPTIONAL_ARRAYS)}
    try:
        for shard in shards:
            rejected = part / f"{REJECTED_FILE}.{shard.name}"
            try:
                _append_rows(files, totals, _rows(template, shard, reading, rejected, instruction), backend)
            except BadLinesError:
                # With skip_bad_lines a shard may be bad as a whole, as long as the source is not (write_store).
                if not reading.skip_bad_lines:
                    raise
            if rejected.exists():
                with (part / REJECTED_FILE).open("ab") as file:
                    file.write(rejected.read_bytes())
                rejected.unlink()
    finally:
        for file in files.values():
            file.close()
    return totals


@dataclass(frozen=True)
class _Row:
    """What is stored of an example: its texts (query, positives, negatives), and a score for each document."""

    texts: list[str]
    num_positives: int
    scores: tuple[float, ...] | None
    language: str


def _rows(
    template: Template, shard: Path, reading: ReadingConfig, rejected: Path, instruction: str | None
) -> Iterator[_Row]:
    if template is Template.embedding:
        return (_embedding_row(e, instruction) for e in read_examples(shard, reading, rejected_path=rejected))
    return (_reranking_row(e, instruction) for e in read_reranking_examples(shard, reading, rejected_path=rejected))


def _embedding_row(example: TrainingExample, instruction: str | None) -> _Row:
    # A line's empty instruction means "none", not "the default".
    query = format_query(instruction if example.instruction is None else example.instruction, example.query)
    texts = [query, *example.positives, *example.negatives]
    return _Row(texts, len(example.positives), example.scores, example.language)


def _reranking_row(example: RerankingExample, instruction: str | None) -> _Row:
    """Relevant documents first. The query alone is not a prompt: it is stored so that no batch repeats it."""
    order = sorted(range(len(example.documents)), key=lambda i: -example.labels[i])
    judged_by = example.instruction or instruction or DEFAULT_INSTRUCTION
    bodies = [reranker_body(judged_by, example.query, example.documents[i]) for i in order]
    scores = None if example.scores is None else tuple(example.scores[i] for i in order)
    return _Row([example.query, *bodies], sum(example.labels), scores, "")


def _append_rows(files: Mapping[str, BinaryIO], totals: _Totals, rows: Iterable[_Row], backend: Any) -> None:
    for batch in _batched(rows, _ROWS_AT_ONCE):
        if _stop is not None and _stop.is_set():
            raise RuntimeError("stopped, because another process failed")
        texts: list[str] = []
        scores: list[float] = []
        row_ends = []
        for row in batch:
            texts += row.texts
            scores += [np.nan, *(row.scores or [np.nan] * (len(row.texts) - 1))]
            totals.any_scores |= row.scores is not None
            row_ends.append(totals.texts + len(texts))
            if row.language not in totals.languages:
                totals.languages.append(row.language)
        ids = ids_without_eos(backend, texts)
        ends = totals.tokens + np.cumsum([len(one) for one in ids])
        columns = {
            "ids": [token for one in ids for token in one],
            "text_ends": ends,
            "text_hashes": [text_hash(text) for text in texts],
            "row_ends": row_ends,
            "num_positives": [row.num_positives for row in batch],
            "scores": scores,
            "languages": [totals.languages.index(row.language) for row in batch],
        }
        for name, values in columns.items():
            files[name].write(np.asarray(values, dtype=(ARRAYS | OPTIONAL_ARRAYS)[name]).tobytes())
        totals.rows, totals.texts, totals.tokens = totals.rows + len(batch), row_ends[-1], int(ends[-1])


def _join(
    directory: Path, parts: Sequence[Path], totals: Sequence[_Totals], arrays: Sequence[str], languages: Sequence[str]
) -> None:
    """Concatenates the parts' arrays, with offsets adjusted, and removes the parts."""
    num_texts = num_tokens = 0
    for number, (part, total) in enumerate(zip(parts, totals, strict=True)):
        new_numbers = np.array([languages.index(name) for name in total.languages], dtype=np.int16)
        for name in arrays:
            source, target = part / f"{name}.bin", directory / f"{name}.bin"
            offset = {"text_ends": num_tokens, "row_ends": num_texts}.get(name, 0)
            if number == 0 and name != "languages":
                source.rename(target)
                continue
            with target.open("ab") as file:
                for values in _chunks(source, (ARRAYS | OPTIONAL_ARRAYS)[name]):
                    file.write(
                        (new_numbers[values] if name == "languages" else values + values.dtype.type(offset)).tobytes()
                    )
        if (part / REJECTED_FILE).exists():
            with (directory / REJECTED_FILE).open("ab") as rejected:
                rejected.write((part / REJECTED_FILE).read_bytes())
        shutil.rmtree(part)
        num_texts, num_tokens = num_texts + total.texts, num_tokens + total.tokens


def _chunks(path: Path, dtype: type[np.generic]) -> Iterator[np.ndarray]:
    with path.open("rb") as file:
        while len(values := np.fromfile(file, dtype=dtype, count=_VALUES_AT_ONCE)):
            yield values


def _batched(rows: Iterable[_Row], size: int) -> Iterator[list[_Row]]:
    iterator = iter(rows)
    while batch := list(islice(iterator, size)):
        yield batch
