"""The origin of every artefact, and the guarantee that none is half-written.

A program writes its results in another place, together with ``run.json`` (program, configuration, digests of its
inputs, versions), syncs them to the disk and gives them their name. So a finished directory is one that exists, and a
program whose ``run.json`` matches what it is asked to do again reports "up to date" and stops.
"""

from qwen3emb_train.lineage.contents import is_up_to_date, require_unchanged, with_contents
from qwen3emb_train.lineage.digests import digest, digest_cached, file_digest, matches, value_digest
from qwen3emb_train.lineage.files import CLAIM_FILE, LOCK_FILE, RUN_FILE, entries, write_text
from qwen3emb_train.lineage.locks import DirectoryLock, OccupiedError
from qwen3emb_train.lineage.ownership import claim, own_paths, require_apart, require_claimable
from qwen3emb_train.lineage.producing import Output, produce, replacing
from qwen3emb_train.lineage.publishing import atomic_directory, writing_name
from qwen3emb_train.lineage.records import (
    RunRecord,
    environment,
    new_record,
    read_record,
    settings_of,
    with_metrics,
    write_record,
)

__all__ = [
    "CLAIM_FILE",
    "LOCK_FILE",
    "RUN_FILE",
    "DirectoryLock",
    "OccupiedError",
    "Output",
    "RunRecord",
    "atomic_directory",
    "claim",
    "digest",
    "digest_cached",
    "entries",
    "environment",
    "file_digest",
    "is_up_to_date",
    "matches",
    "new_record",
    "own_paths",
    "produce",
    "read_record",
    "replacing",
    "require_apart",
    "require_claimable",
    "require_unchanged",
    "settings_of",
    "value_digest",
    "with_contents",
    "with_metrics",
    "write_record",
    "write_text",
    "writing_name",
]
