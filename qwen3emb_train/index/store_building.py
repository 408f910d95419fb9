"""Which shards of a vector store are missing, what contradicts it, and when it is complete; on one or many machines.

The directory's files decide everything, so ranks need no messages: each writes its own shards, the first one writes
``store.json`` when all are there, and the others wait for that file.
"""

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from qwen3emb_train.index.embed_config import EmbedConfig
from qwen3emb_train.index.embedders import model_identity
from qwen3emb_train.index.vector_shards import ShardTask, TextShard, cut_shards, first_difference
from qwen3emb_train.index.vector_store import (
    STORE_FILE,
    StoredShard,
    VectorStore,
    check_files,
    read_ids,
    read_shard,
    shard_directory,
)
from qwen3emb_train.lineage import LOCK_FILE, DirectoryLock, write_text
from qwen3emb_train.models.precision import resolve_device, resolve_precision

_STORE_VERSION = 1
_POLL_SECONDS = 0.2
_REPORT_SECONDS = 60
_GONE = "document {!r} is in the store, but no longer among the texts"
logger = logging.getLogger(__name__)


class StoreBuilder:
    """Writes or continues a store; in its ``with``: call ``missing``, write those shards with ``task``, ``finish``.

    Attributes:
        task: what a process needs to write a shard.
    """

    def __init__(
        self,
        directory: Path,
        model: str,
        config: EmbedConfig,
        *,
        device: str = "auto",
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        """
        Args:
            directory: of the store.
            model: model directory or hub name.
            config: how to encode.
            device: where the model runs.
            rank, num_ranks: of this process, and the number of ranks.
        """
        # Resolved once, so that every process does what is recorded, whatever its hardware.
        precision = resolve_precision(config.precision, resolve_device(device))
        config = replace(config, precision=precision)
        self.task = ShardTask(directory, model, device, config, _settings(model, config))
        self._directory, self._settings, self._overwrite = directory, self.task.settings, config.overwrite
        self._rank, self._num_ranks = rank, num_ranks
        self._digests: list[str] = []  # of the texts, shard by shard
        self._held, self._is_held = ExitStack(), False

    def __enter__(self) -> "StoreBuilder":
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()
        self._is_held = False

    def _hold(self) -> None:
        """Locks the store before its first change; the first rank stands for all."""
        if self._rank == 0 and not self._is_held:
            self._held.enter_context(DirectoryLock(self._directory / LOCK_FILE))
            self._is_held = True

    def missing(self, texts: Iterable[tuple[str, str]]) -> Iterator[TextShard]:
        """Reads all texts; yields the shards that this rank has to write.

        Raises:
            ValueError: there are no texts; or the store has other texts, other settings, or a damaged shard.
        """
        finished = VectorStore.read(self._directory)
        for shard in cut_shards(texts, self.task.config.rows_per_shard):
            self._digests.append(shard.digest)
            is_own = shard.number % self._num_ranks == self._rank
            if self._overwrite and not is_own:
                continue  # another rank may be replacing it just now
            if finished is not None and shard.number >= len(finished.shards) and not self._overwrite:
                raise ValueError(self._refusal(f"document {shard.ids[0]!r} is not in the store"))
            if not self._is_there(shard, is_own) and is_own:
                self._hold()
                # From the first change on the store is incomplete, whatever happens to this process.
                (self._directory / STORE_FILE).unlink(missing_ok=True)
                yield shard
        if not self._digests:
            raise ValueError(f"{self._directory}: there are no texts to embed.")
        if not self._overwrite and (surplus := self._surplus()):
            raise ValueError(self._refusal(_GONE.format(read_ids(surplus[0])[0])))

    def finish(self) -> VectorStore:
        """Waits for the other ranks' shards, and completes the store. Call it when the missing shards are written."""
        if self._rank == 0:
            shards = [asdict(self._wait_for_shard(number)) for number in range(len(self._digests))]
            for surplus in self._surplus():
                shutil.rmtree(surplus)
            for shard in shards:
                del shard["settings"]
            text = json.dumps({"settings": self._settings, "shards": shards}, indent=1) + "\n"
            path = self._directory / STORE_FILE
            if not path.is_file() or path.read_text(encoding="utf-8") != text:
                self._hold()
                write_text(path, text)
        else:
            _wait(f"{self._directory}: the first rank", self._is_complete)
        return VectorStore.open(self._directory)

    def _is_there(self, shard: TextShard, is_own: bool) -> bool:
        """Whether a shard exists, of these texts and settings.

        Raises:
            ValueError: it is of others, and may not be overwritten; or it is damaged.
        """
        directory = shard_directory(self._directory, shard.number)
        stored = read_shard(directory)
        if stored is None:
            return False
        if self._agrees(stored, shard.digest):
            if is_own:
                check_files(directory, stored, verify=self.task.config.verify)
            return True
        if self._overwrite:
            return False
        if stored.settings != self._settings:
            raise ValueError(self._refusal(_first_other_setting(stored.settings, self._settings)))
        raise ValueError(self._refusal(first_difference(directory, shard)))

    def _agrees(self, stored: StoredShard, digest: str) -> bool:
        return stored.settings == self._settings and stored.texts == digest

    def _refusal(self, reason: str) -> str:
        return f"{self._directory}: {reason}. Set overwrite=true to replace what differs, or give another directory."

    def _surplus(self) -> list[Path]:
        """Shards after the last text."""
        expected = {shard_directory(self._directory, number) for number in range(len(self._digests))}
        return sorted(set(self._directory.glob("shard_*")) - expected)

    def _wait_for_shard(self, number: int) -> StoredShard:
        found: list[StoredShard] = []

        def is_made() -> bool:
            stored = read_shard(shard_directory(self._directory, number))
            found.extend([stored] if stored is not None and self._agrees(stored, self._digests[number]) else [])
            return bool(found)

        _wait(f"{self._directory}: shard {number} of rank {number % self._num_ranks}", is_made)
        return found[0]

    def _is_complete(self) -> bool:
        store = VectorStore.read(self._directory)
        return (
            store is not None
            and store.settings == self._settings
            and [shard.texts for shard in store.shards] == self._digests
        )


def _wait(awaited: str, is_done: Callable[[], bool]) -> None:
    started = reported = time.monotonic()
    while not is_done():
        time.sleep(_POLL_SECONDS)
        if time.monotonic() - reported > _REPORT_SECONDS:
            reported = time.monotonic()
            logger.warning("waiting for %s for %d s", awaited, reported - started)


def _settings(model: str, config: EmbedConfig) -> dict[str, Any]:
    """What the vectors depend on besides the texts, as plain JSON values."""
    return {
        "version": _STORE_VERSION,
        "model": model_identity(model),
        "role": config.role.value,
        "instruction": config.instruction,
        "dim": config.dim,
        "dtype": config.dtype.value,
        "rows_per_shard": config.rows_per_shard,
        "max_tokens": config.max_tokens,
        "num_layers": config.num_layers,
        "precision": config.precision.value,
    }


def _first_other_setting(stored: dict[str, Any], wanted: dict[str, Any]) -> str:
    name = next(name for name in wanted if stored.get(name) != wanted[name])
    return f"it was made with {name}={stored.get(name)}, but {name}={wanted[name]} is configured"
