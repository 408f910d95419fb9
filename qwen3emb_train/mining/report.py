"""Statistics of mining, as numbers, as text, and as an HTML page."""

import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qwen3emb_train.index.score_histogram import Histogram
from qwen3emb_train.mining.pool import DocumentPool
from qwen3emb_train.mining.provenance import Mined
from qwen3emb_train.mining.rules import Candidate
from qwen3emb_train.pages.page import Table, render

NUM_EXAMPLES = 10
_TEMPLATE = Path(__file__).parent / "report.html.jinja"
_MAX_CHARACTERS = 600  # of a query or document


@dataclass
class MiningStatistics:
    """Counts and scores, gathered example by example.

    Attributes:
        num_negatives: wanted for each example.
        num_queries: different queries that were searched.
        num_candidates: documents in the corpus.
        seed: of the examples to read.
        num_left_out: examples whose positives score too low.
        num_short: examples with fewer negatives than wanted.
        num_without: examples without any.
        num_positive_first: examples whose best positive scores at least as high as every document of the corpus.
        recall: what an approximate index found of the true nearest documents; None where the search was exact.
        sources: number of negatives by source.
        histograms: by name ("positive cosines", ...).
        shown: a random sample of the examples.
    """

    num_negatives: int
    num_queries: int
    num_candidates: int
    seed: int = 0
    num_left_out: int = 0
    num_short: int = 0
    num_without: int = 0
    num_positive_first: int = 0
    num_examples: int = 0
    recall: float | None = None
    sources: Counter[str] = field(default_factory=Counter)
    histograms: dict[str, Histogram] = field(default_factory=dict)
    shown: list[Mined] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._generator = random.Random(self.seed)

    def add(self, mined: Mined, best_cosine: float) -> None:
        """One example, and the cosine of the corpus's nearest document."""
        positives = [candidate.cosine for candidate in mined.positives]
        self._sample(mined)
        self.num_examples += 1
        self.num_short += len(mined.negatives) < self.num_negatives
        self.num_without += not mined.negatives
        self.num_positive_first += max(positives) >= best_cosine
        self.sources.update(candidate.source for candidate in mined.negatives)
        for role, found in (("positive", mined.positives), ("negative", mined.negatives)):
            self._histogram(f"{role} cosines").add(candidate.cosine for candidate in found)
            if mined.is_rescored:
                self._histogram(f"{role} reranker scores").add(candidate.score for candidate in found)

    def _histogram(self, name: str) -> Histogram:
        return self.histograms.setdefault(name, Histogram())

    def _sample(self, mined: Mined) -> None:
        """Reservoir sampling: every example has the same chance, without knowing their number."""
        if len(self.shown) < NUM_EXAMPLES:
            self.shown.append(mined)
        elif (place := self._generator.randrange(self.num_examples + 1)) < NUM_EXAMPLES:
            self.shown[place] = mined

    @property
    def counts(self) -> dict[str, Any]:
        """For ``run.json``."""
        counts: dict[str, Any] = {
            "num_examples": self.num_examples,
            "num_queries": self.num_queries,
            "num_candidates": self.num_candidates,
            "num_left_out": self.num_left_out,
            "num_short": self.num_short,
            "num_without": self.num_without,
            "num_positive_first": self.num_positive_first,
            **{f"num_by_{source}": number for source, number in sorted(self.sources.items())},
            "mean_positive_score": self._histogram("positive cosines").mean,
            "mean_negative_score": self._histogram("negative cosines").mean,
        }
        return counts if self.recall is None else {**counts, "recall": self.recall}

    def as_text(self) -> str:
        """The report as plain text."""
        lines = [f"{name:<41}{value}" for name, value in self._rows()]
        for name, histogram in self.histograms.items():
            lines += ["", *histogram.lines(name)]
        return "\n".join(lines) + "\n"

    def as_html(self, pool: DocumentPool) -> str:
        """The report as a page: metrics, charts, and examples to read."""
        return render(
            _TEMPLATE, program="mine_negatives", title="Mined negatives", max_characters=_MAX_CHARACTERS,
            lead=f"{self.num_negatives} negatives wanted for each of {self.num_examples:,} examples.",
            metrics=Table([], [[name, str(value)] for name, value in self._rows()]),
            histograms={name: histogram for name, histogram in self.histograms.items() if len(histogram)},
            examples=[_example(mined, pool) for mined in self.shown],
        )  # fmt: skip

    def _rows(self) -> list[tuple[str, Any]]:
        rows: list[tuple[str, Any]] = [
            ("examples mined", self.num_examples),
            (f"  with fewer than {self.num_negatives} negatives", self.num_short),
            ("  with none", self.num_without),
            ("  whose positive ranks first", self.num_positive_first),
            ("examples left out (positive scores low)", self.num_left_out),
            ("different queries", self.num_queries),
            ("documents searched", self.num_candidates),
            *((f"negatives from {source}", number) for source, number in sorted(self.sources.items())),
        ]
        return rows if self.recall is None else [*rows, ("found of the true nearest (recall)", f"{self.recall:.3f}")]


def _example(mined: Mined, pool: DocumentPool) -> dict[str, Any]:
    documents = [_document(candidate, pool, mined.is_rescored) for candidate in mined.positives + mined.negatives]
    return {"query": mined.query, "documents": documents}


def _document(candidate: Candidate, pool: DocumentPool, is_rescored: bool) -> dict[str, Any]:
    described = [candidate.source, *([f"rank {candidate.rank}"] if candidate.rank is not None else [])]
    described += [f"{candidate.cosine:.3f}", *([f"reranker {candidate.score:.3f}"] if is_rescored else [])]
    return {
        "id": pool.ids[candidate.row],
        "text": pool.texts[candidate.row],
        "described": ", ".join(described),
        "is_positive": candidate.source == "positive",
    }
