"""Writes a token store: parts of the source, by as many processes as ask for it, then joined in order.

Every process that wants the store helps: the ranks of a run, on all hosts that share the cache, and the processes that
each of them starts. A part is some shards, or some lines of a large file; where the parts are cut depends on the files'
sizes alone, and the joined bytes not even on that. Nobody waits in a collective operation, and what was done before a
process was killed is kept. Memory: a few thousand rows for each process. Disk while joining: twice the store.
"""

import json
import multiprocessing
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

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
from qwen3emb_train.data.rows import ByteRange, lines_before
from qwen3emb_train.data.shared_work import Claim, publish, unique_directory
from qwen3emb_train.data.tokenization import TextTokenizer, ids_without_eos, text_hash
from qwen3emb_train.lineage import write_text

REJECTED_FILE = "rejected.jsonl"
_TOTALS_FILE = "totals.json"
_CUT_SUFFIXES = (".jsonl", ".ndjson", ".json")
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
_PART_BYTES = 32 * 2**20  # of the source; a single part is not worth another process
_MOST_INSTRUCTIONS = 1000  # that are counted: where every row has its own, none of them is the source's
_POLL_S = 0.2
_SAY_EVERY_S = 60.0
_stop: Any = None  # in a process of the pool: set when another one failed


class _Span(NamedTuple):
    """A shard, or some of its lines."""

    shard: Path
    lines: ByteRange | None


@dataclass
class _Totals:
    rows: int = 0
    texts: int = 0
    tokens: int = 0
    any_scores: bool = False
    languages: list[str] = field(default_factory=list)  # in the order of their numbers
    instructions: dict[str, int] = field(default_factory=dict)  # rows of each


@dataclass(frozen=True)
class _Job:
    """All that a process needs to write parts; it travels without transformers.

    Attributes:
        directory: the store.
        work: where parts lie until they are joined.
    """

    directory: Path
    work: Path
    parts: list[list[_Span]]
    backend: Any
    template: Template
    instruction: str | None
    reading: ReadingConfig

    @property
    def is_done(self) -> bool:
        return self.directory.exists()

    @property
    def missing(self) -> list[int]:
        """The parts that are not there yet."""
        return [number for number in range(len(self.parts)) if not self.part(number).exists()]

    def part(self, number: int) -> Path:
        return self.work / f"part_{number:05d}"

    def claim(self, what: str) -> Claim:
        return Claim(self.work / f"{what}.claim")


def write_store(
    directory: Path,
    source: Path,
    tokenizer: TextTokenizer | RerankerTokenizer,
    template: Template,
    instruction: str | None,
    reading: ReadingConfig,
    processes: int | None,
) -> None:
    """Writes the store of ``source``, complete or not at all; returns when it is there, whoever wrote it.

    Args:
        directory: of the store.
        source: a file or a directory of shards.
        tokenizer, template, instruction, reading: as in ``open_token_store``.
        processes: that this one starts; None: its share of the host's cores.

    Raises:
        FileNotFoundError, ValueError: from reading, or when there is no example at all.
    """
    parts = _parts(shard_paths(source))
    work = directory.with_name(f".{directory.name}.parts_{_PART_BYTES}")  # parts that were cut otherwise are others
    job = _Job(directory, work, parts, tokenizer.hf.backend_tokenizer, template, instruction, reading)
    processes = min(_num_cores() if processes is None else processes, len(parts))
    said = time.monotonic()
    try:
        while not job.is_done:
            if _is_work_left(job):
                _work(job, source, processes)
                continue
            time.sleep(_POLL_S)  # the rest is in the hands of others
            if time.monotonic() - said > _SAY_EVERY_S:
                said = time.monotonic()
                num_done = len(parts) - len(job.missing)
                print(f"{source}: other processes are at it, {num_done} of {len(parts)} parts tokenised", flush=True)
    except BaseException:
        if not any(claim.is_held() for claim in map(Claim, job.work.glob("*.claim"))):
            shutil.rmtree(job.work, ignore_errors=True)
        raise
    shutil.rmtree(job.work, ignore_errors=True)


def _parts(shards: Sequence[Path]) -> list[list[_Span]]:
    """Small shards together, large ones cut at line ends, if they are lines of plain text."""
    parts: list[list[_Span]] = []
    room = 0
    for shard in shards:
        size = shard.stat().st_size
        if size > _PART_BYTES and shard.suffix in _CUT_SUFFIXES:
            number = -(-size // _PART_BYTES)
            bounds = [size * i // number for i in range(number + 1)]
            parts += [[_Span(shard, ByteRange(*pair))] for pair in pairwise(bounds)]
            room = 0
            continue
        if size > room or not parts:
            parts.append([])
            room = _PART_BYTES
        parts[-1].append(_Span(shard, None))
        room -= size
    return parts


def _num_cores() -> int:
    """Those this process may use: a scheduler often gives out fewer than there are, and ranks of a host share them."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _is_work_left(job: _Job) -> bool:
    """Whether there is something to do that nobody does."""
    names = [f"part_{number:05d}" for number in job.missing] or ["join"]
    return not all(job.claim(name).is_held() for name in names)


def _work(job: _Job, source: Path, processes: int) -> None:
    if not job.missing:
        _join_once(job, source)
    elif processes > 1:
        _write_in_processes(job, processes)
    else:
        _write_parts(job)


def _write_in_processes(job: _Job, processes: int) -> None:
    # Spawned, not forked: the tokenizer's threads may hold locks that a fork would copy and never release.
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    with ProcessPoolExecutor(processes, context, _start_process, (stop,)) as pool:
        futures = [pool.submit(_write_parts, job) for _ in range(processes)]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            stop.set()  # else leaving would wait until every part is tokenised
            pool.shutdown(cancel_futures=True)
            raise


def _start_process(stop: Any) -> None:
    global _stop
    _stop = stop
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes share the cores already


def _write_parts(job: _Job) -> None:
    """Writes, one after the other, the parts that nobody has written or is writing."""
    for number, spans in enumerate(job.parts):
        claim = job.claim(f"part_{number:05d}")
        if job.is_done or job.part(number).exists() or not claim.take():
            continue
        try:
            if not job.part(number).exists():
                temporary = unique_directory(job.work, job.part(number).name)
                _write_part(job, temporary, spans, claim)
                publish(temporary, job.part(number))
        except FileNotFoundError:
            if not job.is_done:  # else somebody took this part over, and everything is joined and cleared away
                raise
        finally:
            claim.release()


def _write_part(job: _Job, directory: Path, spans: Sequence[_Span], claim: Claim) -> None:
    totals = _Totals()
    with ExitStack() as stack:
        names = (*ARRAYS, *OPTIONAL_ARRAYS)
        files = {name: stack.enter_context((directory / f"{name}.bin").open("wb")) for name in names}
        for span in spans:
            rejected = directory / "rejected_here"
            try:
                _append_rows(files, totals, _rows(job, span, rejected), job.backend, claim)
            except BadLinesError as error:
                # With skip_bad_lines a part may be bad as a whole, as long as the source is not (write_store).
                if not job.reading.skip_bad_lines:
                    raise _in_the_whole_file(error, span) from None
            if rejected.exists():
                with (directory / REJECTED_FILE).open("ab") as file:
                    file.write(_lines_in_the_whole_file(rejected.read_bytes(), span))
                rejected.unlink()
    (directory / _TOTALS_FILE).write_text(json.dumps(asdict(totals)), encoding="utf-8")


def _in_the_whole_file(error: BadLinesError, span: _Span) -> BadLinesError:
    if span.lines is None or span.lines.first == 0:
        return error
    skipped = lines_before(span.shard, span.lines)
    return BadLinesError([replace(bad, line=bad.line + skipped) for bad in error.bad_lines], error.summary)


def _lines_in_the_whole_file(rejected: bytes, span: _Span) -> bytes:
    """``rejected.jsonl`` with line numbers that count from the file's first line."""
    if not rejected or span.lines is None or span.lines.first == 0:
        return rejected
    skipped = lines_before(span.shard, span.lines)
    lines = [json.loads(line) for line in rejected.splitlines()]
    return b"".join(
        (json.dumps(line | {"line": line["line"] + skipped}, ensure_ascii=False) + "\n").encode(
            "utf-8", "backslashreplace"
        )
        for line in lines
    )


@dataclass(frozen=True)
class _Row:
    """What is stored of an example: its texts (query, positives, negatives), and a score for each document."""

    texts: list[str]
    num_positives: int
    scores: tuple[float, ...] | None
    language: str
    instruction: str


def _rows(job: _Job, span: _Span, rejected: Path) -> Iterator[_Row]:
    shard, lines = span
    if job.template is Template.embedding:
        examples = read_examples(shard, job.reading, rejected_path=rejected, part=lines)
        return (_embedding_row(example, job.instruction) for example in examples)
    documents = read_reranking_examples(shard, job.reading, rejected_path=rejected, part=lines)
    return (_reranking_row(example, job.instruction) for example in documents)


def _embedding_row(example: TrainingExample, instruction: str | None) -> _Row:
    # A line's empty instruction means "none", not "the default".
    own = (instruction if example.instruction is None else example.instruction) or ""
    texts = [format_query(own, example.query), *example.positives, *example.negatives]
    return _Row(texts, len(example.positives), example.scores, example.language, own)


def _reranking_row(example: RerankingExample, instruction: str | None) -> _Row:
    """Relevant documents first. The query alone is not a prompt: it is stored so that no batch repeats it."""
    order = sorted(range(len(example.documents)), key=lambda i: -example.labels[i])
    judged_by = example.instruction or instruction or DEFAULT_INSTRUCTION
    bodies = [reranker_body(judged_by, example.query, example.documents[i]) for i in order]
    scores = None if example.scores is None else tuple(example.scores[i] for i in order)
    return _Row([example.query, *bodies], sum(example.labels), scores, "", judged_by)


def _append_rows(
    files: Mapping[str, BinaryIO], totals: _Totals, rows: Iterable[_Row], backend: Any, claim: Claim
) -> None:
    for batch in _batched(rows, _ROWS_AT_ONCE):
        claim.renew()
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
            if row.instruction in totals.instructions or len(totals.instructions) < _MOST_INSTRUCTIONS:
                totals.instructions[row.instruction] = totals.instructions.get(row.instruction, 0) + 1
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


def _join_once(job: _Job, source: Path) -> None:
    """Joins the parts and publishes the store, unless another process is doing so."""
    claim = job.claim("join")
    if not claim.take():
        return
    try:
        temporary = unique_directory(job.work, "joined")
        _join(temporary, [job.part(number) for number in range(len(job.parts))], source, claim)
        publish(temporary, job.directory)
    except FileNotFoundError:
        if not job.is_done:
            raise
    finally:
        claim.release()


def _join(directory: Path, parts: Sequence[Path], source: Path, claim: Claim) -> None:
    """Puts the parts' arrays end to end, counting on."""
    totals = [_Totals(**json.loads((part / _TOTALS_FILE).read_text(encoding="utf-8"))) for part in parts]
    languages = sorted({name for total in totals for name in total.languages})
    arrays = list(ARRAYS)
    arrays += ["scores"] * any(total.any_scores for total in totals)
    arrays += ["languages"] * (languages not in ([], [""]))
    num_rows = sum(total.rows for total in totals)
    if num_rows == 0:
        raise ValueError(f"{source}: no training example in it. Give a file with at least one line.")
    num_texts = num_tokens = 0
    for part, total in zip(parts, totals, strict=True):
        new_numbers = np.array([languages.index(name) for name in total.languages], dtype=np.int16)
        for name in arrays:
            offset = {"text_ends": num_tokens, "row_ends": num_texts}.get(name, 0)
            with (directory / f"{name}.bin").open("ab") as file:
                for values in _chunks(part / f"{name}.bin", (ARRAYS | OPTIONAL_ARRAYS)[name]):
                    claim.renew()
                    file.write(
                        (new_numbers[values] if name == "languages" else values + values.dtype.type(offset)).tobytes()
                    )
        if (part / REJECTED_FILE).exists():
            with (directory / REJECTED_FILE).open("ab") as rejected:
                rejected.write((part / REJECTED_FILE).read_bytes())
        num_texts, num_tokens = num_texts + total.texts, num_tokens + total.tokens
    instructions: Counter[str] = Counter()
    for total in totals:
        instructions.update(total.instructions)
    meta = {
        "source": source.name, "num_rows": num_rows, "arrays": arrays, "languages": languages,
        "instructions": dict(sorted(instructions.items(), key=lambda one: (-one[1], one[0]))[:_MOST_INSTRUCTIONS]),
    }  # fmt: skip
    write_text(directory / "meta.json", json.dumps(meta, ensure_ascii=False))


def _chunks(path: Path, dtype: type[np.generic]) -> Iterator[np.ndarray]:
    with path.open("rb") as file:
        while len(values := np.fromfile(file, dtype=dtype, count=_VALUES_AT_ONCE)):
            yield values


def _batched(rows: Iterable[_Row], size: int) -> Iterator[list[_Row]]:
    iterator = iter(rows)
    while batch := list(islice(iterator, size)):
        yield batch
