"""Rejects rows with evaluation texts: equal, sharing a 13-gram of words, or near-duplicates.

Reads the BEIR layout (``corpus.jsonl``, ``queries.jsonl``). Three rules for every text of a row, given or written:

1. equal to a test text after normalisation (case, width, punctuation, white space);
2. a 13-gram of words that occurs in a test text (GPT-3's rule, arXiv 2005.14165, appendix C; n-grams that more than
   ``max_texts_with_run`` test texts share are boilerplate and ignored);
3. a near-duplicate of a test query or of a short test document.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from data_synth.filters.candidates import Candidate, Reason, Verdict, shorten
from qwen3emb_train.texts.overlap import ComparedText, HeldOutTexts, OverlapRule


@dataclass
class DecontaminationConfig:
    """Evaluation sets to exclude.

    Attributes:
        sets: directories in BEIR layout.
        documents: also exclude the sets' documents. Set it to false only if training and evaluation share one corpus on
            purpose (adapting to a collection); queries are always excluded.
        ngram: words per n-gram.
        max_texts_with_run: an n-gram in more test texts than this is boilerplate.
        threshold: Jaccard similarity of character 4-grams from which a text is a near-duplicate.
    """

    sets: list[str] = field(default_factory=list)
    documents: bool = True
    ngram: int = 13
    max_texts_with_run: int = 10
    threshold: float = 0.7

    def __post_init__(self) -> None:
        if self.ngram < 4:
            raise ValueError(
                f"ngram={self.ngram}: so short an n-gram occurs everywhere. Give at least 4 (13 is usual)."
            )
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold={self.threshold}: not a similarity. Give a number in (0, 1].")


class DecontaminationFilter:
    """Needs 8 bytes per n-gram of the test texts, and an index of the short texts."""

    def __init__(self, config: DecontaminationConfig) -> None:
        self.config = config
        self._texts = HeldOutTexts(
            _test_texts(config),
            ngram=config.ngram,
            max_texts_with_run=config.max_texts_with_run,
            threshold=config.threshold,
        )

    def __call__(self, candidate: Candidate) -> Verdict:
        row = candidate.row
        for text in (row.query, *row.positives, *row.negatives):
            match = self._texts.find(ComparedText(text), is_query=text == row.query)
            if match is None:
                continue
            if match.rule is OverlapRule.ngram:
                how = f"shares {self.config.ngram} words with a test text"
            elif match.rule is OverlapRule.near_duplicate:
                how = f"{match.similarity:.2f} to the test text {shorten(match.shared)!r}"
            else:
                how = "equal to a test text"
            return Reason("contaminated", f"{how}: {shorten(text)}")
        return True


def _test_texts(config: DecontaminationConfig) -> Iterator[str]:
    for name in config.sets:
        directory = Path(name)
        if not (directory / "queries.jsonl").is_file():
            raise FileNotFoundError(
                f"{directory}: no queries.jsonl. filters.decontamination.sets names directories in BEIR layout "
                "(corpus.jsonl, queries.jsonl, qrels/)."
            )
        for file in ["queries.jsonl", "corpus.jsonl"] if config.documents else ["queries.jsonl"]:
            yield from _texts_of(directory / file)


def _texts_of(path: Path) -> Iterator[str]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file. Set filters.decontamination.documents=false to do without it.")
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield str(json.loads(line)["text"])
                except (ValueError, KeyError, TypeError) as problem:
                    raise ValueError(f"{path}, line {number}: not a JSON object with a text ({problem}).") from None
