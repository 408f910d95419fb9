"""Writes a token store: parts of the source, by as many processes as ask for it, then joined in order.

Every process that wants the store helps: the ranks of a run, on all hosts that share the cache, and the processes that
each of them starts. A part is some shards, or some lines of a large file; where the parts are cut depends on the files'
sizes alone. Nobody waits in a collective operation, and what was done before a process was killed is kept. Disk while
joining: twice the store. What is in a part: ``store_parts``.
"""

import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from qwen3emb_train.data.instructions import Template
from qwen3emb_train.data.readers import ReadingConfig
from qwen3emb_train.data.reranker_tokens import RerankerTokenizer
from qwen3emb_train.data.rows import ByteRange, is_json_lines, shard_paths
from qwen3emb_train.data.shared_work import Claim, publish, unique_directory
from qwen3emb_train.data.store_parts import Span, Tokenization, join_parts, write_part
from qwen3emb_train.data.tokenization import TextTokenizer

_CUT_SUFFIXES = (".jsonl", ".ndjson", ".json")  # without the suffix of a packed file
_PART_BYTES = 32 * 2**20  # of the source; a single part is not worth another process
_POLL_S = 0.2
_SAY_EVERY_S = 60.0
_stop: Any = None  # in a process of the pool: set when another one failed


@dataclass(frozen=True)
class _Job:
    """All that a process needs to write parts.

    Attributes:
        directory: the store.
        work: where parts lie until they are joined.
        parts: of the source.
        how: rows become arrays.
    """

    directory: Path
    work: Path
    parts: list[list[Span]]
    how: Tokenization

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
    task: str,
    instruction: str | None,
    reading: ReadingConfig,
    columns: Mapping[str, str],
    processes: int | None,
) -> None:
    """Writes the store of ``source``, complete or not at all; returns when it is there, whoever wrote it.

    Args:
        directory: of the store.
        source: a file or a directory of shards.
        tokenizer, template, task, instruction, reading, columns, processes: as in ``open_token_store``.

    Raises:
        FileNotFoundError, ValueError: from reading, or when there is no example at all.
    """
    parts = _parts(shard_paths(source))
    work = directory.with_name(f".{directory.name}.parts_{_PART_BYTES}")  # parts that were cut otherwise are others
    how = Tokenization(tokenizer.hf.backend_tokenizer, template, task, instruction, reading, dict(columns))
    job = _Job(directory, work, parts, how)
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


def _parts(shards: Sequence[Path]) -> list[list[Span]]:
    """Small shards together, large ones cut at line ends, if they are lines of plain text."""
    parts: list[list[Span]] = []
    room = 0
    for shard in shards:
        size = shard.stat().st_size
        if size > _PART_BYTES and shard.suffix in _CUT_SUFFIXES and is_json_lines(shard):
            number = -(-size // _PART_BYTES)
            bounds = [size * i // number for i in range(number + 1)]
            parts += [[Span(shard, ByteRange(*pair))] for pair in pairwise(bounds)]
            room = 0
            continue
        if size > room or not parts:
            parts.append([])
            room = _PART_BYTES
        parts[-1].append(Span(shard, None))
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
                write_part(temporary, spans, job.how, _tick(claim))
                publish(temporary, job.part(number))
        except FileNotFoundError:
            if not job.is_done:  # else somebody took this part over, and everything is joined and cleared away
                raise
        finally:
            claim.release()


def _tick(claim: Claim) -> Callable[[], None]:
    """Between blocks of rows: keeps the claim, and ends the work when another process of the pool has failed."""

    def tick() -> None:
        claim.renew()
        if _stop is not None and _stop.is_set():
            raise RuntimeError("stopped, because another process failed")

    return tick


def _join_once(job: _Job, source: Path) -> None:
    """Joins the parts and publishes the store, unless another process is doing so."""
    claim = job.claim("join")
    if not claim.take():
        return
    try:
        temporary = unique_directory(job.work, "joined")
        parts = [job.part(number) for number in range(len(job.parts))]
        join_parts(temporary, parts, source, claim.renew)
        publish(temporary, job.directory)
    except FileNotFoundError:
        if not job.is_done:
            raise
    finally:
        claim.release()
