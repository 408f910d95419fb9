"""From what was found to the negatives of an example."""

from dataclasses import dataclass

from qwen3emb_train.data.records import TrainingExample
from qwen3emb_train.mining.config import MiningConfig, WrittenScores
from qwen3emb_train.mining.provenance import Mined, rounded
from qwen3emb_train.mining.queries import SearchProblem, prompt_of
from qwen3emb_train.mining.rules import Candidate, draw_negatives, window
from qwen3emb_train.mining.search.blocks import QueryBlocks


@dataclass(frozen=True, eq=False)
class Choice:
    """Applies the rules, example by example.

    Attributes:
        by_model, by_bm25: what was found.
        known: cosines of what is relevant or kept.
        rescored: the reranker's scores; None where there is no reranker.
    """

    problem: SearchProblem
    config: MiningConfig
    by_model: QueryBlocks
    by_bm25: QueryBlocks | None
    known: QueryBlocks
    rescored: QueryBlocks | None

    def of(self, example: TrainingExample) -> tuple[Mined, float]:
        """What is mined for an example, and the cosine of the corpus's nearest document."""
        config, pool = self.config, self.problem.pool
        prompt = prompt_of(example, config)
        number = self.problem.row_of_prompt[prompt]
        query = self.problem.queries[number]
        brought = dict.fromkeys(pool.rows(example.negatives)) if config.keep_negatives else {}
        kept_rows = [row for row in brought if row not in query.relevant]
        cosine_of = _by_row(self.known, number)
        score_of = cosine_of if self.rescored is None else _by_row(self.rescored, number)
        positives = [
            Candidate(row, "positive", None, cosine_of[row], score_of[row]) for row in pool.rows(example.positives)
        ]
        kept = [Candidate(row, "own", None, cosine_of[row], score_of[row]) for row in kept_rows]
        taken_out = query.relevant | set(kept_rows)
        rescored = None if self.rescored is None else score_of
        drawn = draw_negatives(
            self._window(self.by_model, number, "model", taken_out, rescored),
            self._window(self.by_bm25, number, "bm25", taken_out, rescored),
            sum(candidate.score for candidate in positives) / len(positives),
            config,
            max(0, config.num_negatives - len(kept)),
            seed="\0".join([str(config.seed), prompt, *example.positives]),
        )
        mined = Mined(example.query, tuple(positives), (*kept, *drawn), is_rescored=self.rescored is not None)
        return mined, float(self.by_model.of(number)["scores"][0])

    def scores_to_write(self, mined: Mined) -> tuple[float, ...] | None:
        """Of the positives, then of the negatives."""
        candidates = mined.positives + mined.negatives
        if self.config.written_scores is WrittenScores.none:
            return None
        if self.config.written_scores is WrittenScores.cosine:
            return rounded([candidate.cosine for candidate in candidates])
        return rounded([candidate.score for candidate in candidates])

    def _window(
        self,
        found: QueryBlocks | None,
        query: int,
        source: str,
        taken_out: set[int],
        rescored: dict[int, float] | None,
    ) -> list[Candidate]:
        if found is None:
            return []
        cosine_of = _by_row(found, query)  # keeps the order of the ranks
        score_of = cosine_of if rescored is None else rescored
        return [
            Candidate(row, source, rank, cosine_of[row], score_of[row])
            for rank, row in window(cosine_of, taken_out, self.config.rank_from, self.config.rank_to)
        ]


def _by_row(found: QueryBlocks, query: int) -> dict[int, float]:
    its = found.of(query)
    return dict(zip(its["rows"].tolist(), its["scores"].tolist(), strict=True))
