"""Statistics of mining, as numbers, as text, and as an HTML page."""

import random
from collections import Counter
from dataclasses import dataclass, field
from html import escape
from typing import Any

from qwen3emb_train.index.score_histogram import NUM_BINS, Histogram, bin_edge
from qwen3emb_train.mining.pool import DocumentPool
from qwen3emb_train.mining.provenance import Mined
from qwen3emb_train.mining.rules import Candidate

NUM_EXAMPLES = 10
_WIDTH, _HEIGHT = 640, 120  # of a chart
_TEXT_LIMIT = 600  # characters of a document that are shown


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
        """The report, for the console."""
        lines = [f"{name:<41}{value}" for name, value in self._rows()]
        for name, histogram in self.histograms.items():
            lines += ["", *histogram.lines(name)]
        return "\n".join(lines) + "\n"

    def as_html(self, pool: DocumentPool) -> str:
        """The report as one page without outside parts: figures, charts, and examples to read."""
        table = "".join(
            f"<tr><td>{escape(name)}</td><td>{escape(str(value))}</td></tr>" for name, value in self._rows()
        )
        charts = "".join(_chart(name, histogram) for name, histogram in self.histograms.items() if len(histogram))
        examples = "".join(_example(mined, pool) for mined in self.shown)
        return (
            '<!doctype html><html lang="en"><meta charset="utf-8"><title>Mined negatives</title><style>'
            "body{font:15px/1.4 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}td{padding:0 1em 0 0}"
            "pre{white-space:pre-wrap;margin:0}th{text-align:left;font-weight:normal;color:#666;padding-right:1em;"
            "vertical-align:top;white-space:nowrap}.positive{background:#e8f5e9}</style>"
            f"<h1>Mined negatives</h1><table>{table}</table><h2>Scores</h2><p>Where the two overlap, negatives may be "
            f"false ones: read the examples below, then lower max_relative_score.</p>{charts}"
            f"<h2>{len(self.shown)} examples, drawn at random</h2>{examples}</html>\n"
        )

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


def _chart(title: str, histogram: Histogram) -> str:
    """Bars over the whole range, so that the charts below one another compare."""
    step, highest = _WIDTH / NUM_BINS, max(histogram.counts)
    bars = "".join(
        f'<rect x="{index * step:.1f}" y="{_HEIGHT * (1 - count / highest):.1f}" width="{step - 1:.1f}" '
        f'height="{_HEIGHT * count / highest:.1f}"><title>{bin_edge(index):+.2f} .. {bin_edge(index + 1):+.2f}: {count}'
        "</title></rect>"
        for index, count in enumerate(histogram.counts)
        if count
    )
    marks = "".join(
        f'<text x="{_WIDTH * (mark + 1) / 2:.0f}" y="{_HEIGHT + 16}" text-anchor="middle">{mark:g}</text>'
        for mark in (-0.5, 0, 0.5)
    )
    colour = "#2e7d32" if title.startswith("positive") else "#c62828"
    return (
        f"<p>{escape(title)}: {len(histogram)}, mean {histogram.mean:.3f}, {histogram.lowest:.3f} .. "
        f'{histogram.highest:.3f}</p><svg font-size="12" width="{_WIDTH}" height="{_HEIGHT + 20}">'
        f'<g fill="{colour}">{bars}</g>'
        f'<line x1="0" x2="{_WIDTH}" y1="{_HEIGHT}" y2="{_HEIGHT}" stroke="#999"/>{marks}</svg>'
    )


def _example(mined: Mined, pool: DocumentPool) -> str:
    rows = "".join(_document(candidate, pool, mined.is_rescored) for candidate in mined.positives + mined.negatives)
    return f"<h3>{escape(_shortened(mined.query))}</h3><table>{rows}</table>"


def _document(candidate: Candidate, pool: DocumentPool, is_rescored: bool) -> str:
    described = [candidate.source, *([f"rank {candidate.rank}"] if candidate.rank is not None else [])]
    described += [f"{candidate.cosine:.3f}", *([f"reranker {candidate.score:.3f}"] if is_rescored else [])]
    kind = "positive" if candidate.source == "positive" else "negative"
    return (
        f'<tr class="{kind}"><th>{escape(", ".join(described))}<br>{escape(pool.ids[candidate.row])}</th>'
        f"<td><pre>{escape(_shortened(pool.texts[candidate.row]))}</pre></td></tr>"
    )


def _shortened(text: str) -> str:
    return text if len(text) <= _TEXT_LIMIT else text[:_TEXT_LIMIT] + " ..."
