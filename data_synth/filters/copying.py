"""Rejects copied texts: a query copied from its passage teaches string matching only."""

from dataclasses import dataclass, field

from data_synth.filters.candidates import Candidate, Reason, Verdict, shorten
from qwen3emb_train.texts.words import ngrams, words


@dataclass
class CopyConfig:
    """How much of a written text may occur verbatim in another text of its row.

    Attributes:
        enabled: if false, only rows with two equal texts are rejected.
        tasks: where overlap is checked; in others (translations, graded sentence pairs) only equality is.
        ngram: length of the compared n-grams, in words.
        max_share: largest share of a text's n-grams that may occur in the other text.
        min_words: shorter texts are keyword queries, whose words should come from the passage.
    """

    enabled: bool = True
    tasks: list[str] = field(default_factory=lambda: ["retrieval", "code", "instructed", "reasoning"])
    ngram: int = 4
    max_share: float = 0.7
    min_words: int = 8

    def __post_init__(self) -> None:
        if not 0 < self.max_share <= 1:
            raise ValueError(f"max_share={self.max_share}: not a share. Give a number in (0, 1]; 1 keeps all.")
        if self.ngram < 1 or self.min_words < self.ngram:
            raise ValueError(f"ngram={self.ngram}, min_words={self.min_words}: give 1 <= ngram <= min_words.")


class CopyFilter:
    """Compares each written text with the other texts of its row."""

    def __init__(self, config: CopyConfig) -> None:
        self.config = config

    def __call__(self, candidate: Candidate) -> Verdict:
        row = candidate.row
        texts = (row.query, *row.positives, *row.negatives)
        tokens = [words(text) for text in texts]
        if row.instruction and words(row.instruction) == tokens[0]:
            return Reason("copies_text", f"the query is the instruction: {shorten(row.query)}")
        by_overlap = self.config.enabled and candidate.item.task in self.config.tasks
        for number, text in enumerate(texts):
            if text in candidate.given:
                continue
            own = set(ngrams(tokens[number], self.config.ngram))
            for other, other_tokens in enumerate(tokens):
                if other == number:
                    continue
                if tokens[number] == other_tokens:
                    return Reason("copies_text", f"equal to another text of the row: {shorten(text)}")
                if by_overlap and len(tokens[number]) >= self.config.min_words:
                    share = len(own.intersection(ngrams(other_tokens, self.config.ngram))) / len(own)
                    if share > self.config.max_share:
                        return Reason("copies_passage", f"{share:.0%} of its {self.config.ngram}-word runs: {text}")
        return True
