"""The data mixture of a run: its sources, their shares, text lengths. Settings and the arithmetic of shares."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from qwen3emb_train.data.instructions import refuse_template
from qwen3emb_train.data.readers import ColumnsConfig

_LABEL_TASKS = frozenset({"classification", "clustering", "sts"})


class NoRepeats(str, Enum):
    """``texts``: queries and positives. ``auto``: queries where documents are labels or graded, else texts."""

    auto = "auto"
    texts = "texts"
    queries = "queries"
    none = "none"


@dataclass
class SourceConfig(ColumnsConfig):
    """One data source of a run.

    Attributes:
        path: a file (JSON Lines, CSV, Parquet, Arrow, also packed), a directory of them, a pattern (``data/*.jsonl``),
            what ``save_to_disk`` wrote, or a data set of the hub (``ORG/NAME:SPLIT``).
        weight: factor on the source's share.
        task: what the rows are: retrieval, bitext, sts, classification, ... (one loss for each task). Rows whose own
            ``task`` is another are bad lines.
        instruction: for rows that bring none; null = the query stays bare.
        max_positives: take at most so many positives of a row, drawn anew every time it is seen; null = all (a
            reranker: the run's number).
        max_negatives: the same for its negatives.
        max_rows: use only so many rows, drawn once by the seed; null = all.
        batch_size: queries of a step of this source, over all ranks; null = the run's.
        no_repeats: which texts may occur only once in a batch.
    """

    path: str = "???"
    weight: float = 1.0
    task: str = "retrieval"
    instruction: str | None = None
    max_positives: int | None = None
    max_negatives: int | None = None
    max_rows: int | None = None
    batch_size: int | None = None
    no_repeats: NoRepeats = NoRepeats.auto

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_template("data.*.instruction", self.instruction)
        if self.weight <= 0:
            raise ValueError(f"data.*.weight is {self.weight}; it must be positive (leave a source out to drop it).")
        if self.max_negatives is not None and self.max_negatives < 0:
            raise ValueError(f"data.*.max_negatives is {self.max_negatives}; use 0 or more, or null for all.")
        for name, least, otherwise in (
            ("max_positives", 1, "for all"), ("max_rows", 1, "for all"), ("batch_size", 2, "for the run's batch_size"),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"data.*.{name} is {value}; use at least {least}, or null {otherwise}.")

    def unrepeated(self) -> NoRepeats:
        """``no_repeats``, with ``auto`` decided by the task."""
        if self.no_repeats is not NoRepeats.auto:
            return self.no_repeats
        return NoRepeats.queries if self.task in _LABEL_TASKS else NoRepeats.texts


@dataclass
class MixtureConfig:
    """How steps are divided among the sources.

    Attributes:
        alpha: a source is sampled with p ~ weight * rows**alpha (1 = proportional to size, 0 = by weight alone).
        rows_cap: rows beyond this number do not raise a source's share; null = all count.
        mixed_share: this share of a task's steps takes its rows from all of the task's sources, as if they were one;
            the rest from one source each. Only tasks with two sources or more.
        epochs: instead of ``steps``: exactly this many passes over every source, in shuffled order.
        length_buckets: rows of a batch have similar lengths: less padding, slightly less random.
        language_buckets: rows of a batch have, where possible, one language: harder negatives.
        rows_per_block: rows that are assigned to batches together, so that no text repeats in a batch and buckets
            fill. At least 4 batches.
    """

    alpha: float = 0.5
    rows_cap: int | None = None
    mixed_share: float = 0.0
    epochs: int | None = None
    length_buckets: bool = False
    language_buckets: bool = False
    rows_per_block: int = 16384

    def __post_init__(self) -> None:
        if self.alpha < 0:
            raise ValueError(f"mixture.alpha is {self.alpha}; use 0 (by weight alone) to 1 (proportional to size).")
        if not 0 <= self.mixed_share <= 1:
            raise ValueError(f"mixture.mixed_share is {self.mixed_share}; it is a share, 0 to 1.")
        for name in ("rows_cap", "epochs", "rows_per_block"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"mixture.{name} is {value}; it must be at least 1.")


@dataclass
class LengthConfig:
    """Maximum text lengths in tokens, instruction and EOS token included.

    Attributes:
        max_query_tokens: queries (with their instruction).
        max_document_tokens: positives and hard negatives.
    """

    max_query_tokens: int = 512
    max_document_tokens: int = 512

    def __post_init__(self) -> None:
        for name in ("max_query_tokens", "max_document_tokens"):
            if getattr(self, name) < 2:
                raise ValueError(f"lengths.{name} is {getattr(self, name)}; a text and its EOS token need 2.")


def source_shares(
    sources: Mapping[str, SourceConfig], num_rows: Mapping[str, int], mixture: MixtureConfig
) -> dict[tuple[str, ...], float]:
    """The probability of each stream of batches: one source, or all sources of a task mixed. Streams of 0 are left out.

    Args:
        sources: by name.
        num_rows: rows used of each source (``max_rows`` applied).
        mixture: how steps are divided.
    """
    cap = mixture.rows_cap
    weighted = {
        name: source.weight * float(num_rows[name] if cap is None else min(num_rows[name], cap)) ** mixture.alpha
        for name, source in sources.items()
    }
    total = sum(weighted.values())
    shares: dict[tuple[str, ...], float] = {(name,): value / total for name, value in weighted.items()}
    if mixture.mixed_share > 0:
        for task in sorted({source.task for source in sources.values()}):
            members = tuple(name for name, source in sources.items() if source.task == task)
            if len(members) > 1:
                whole = sum(shares[(name,)] for name in members)
                for name in members:
                    shares[(name,)] *= 1 - mixture.mixed_share
                shares[members] = whole * mixture.mixed_share
    return {members: share for members, share in shares.items() if share > 0}
