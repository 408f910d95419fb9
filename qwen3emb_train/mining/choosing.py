"""From search results to the negatives of an example."""

from dataclasses import dataclass

from qwen3emb_train.data.records import TrainingExample
from qwen3emb_train.mining.config import MiningConfig, WrittenScores
from qwen3emb_train.mining.provenance import Mined, rounded
from qwen3emb_train.mining.queries import SearchProblem, prompt_of
from qwen3emb_train.mining.rules import Candidate, draw_negatives, eligible, score_limit
from qwen3emb_train.mining.search.blocks import QueryBlocks


@dataclass(frozen=True, eq=False)
class Choice:
    """Applies the rules, example by example.

    Attributes:
        problem, config: what was searched, and the rules.
        by_model, by_bm25: search results.
        known: cosines of relevant and kept documents.
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
        prompt = prompt_of(example, config, self.problem.prompts)
        number = self.problem.row_of_prompt[prompt]
        query = self.problem.queries[number]
        own_rows = dict.fromkeys(pool.rows(example.negatives)) if config.keep_negatives else {}
        kept_rows = [row for row in own_rows if row not in query.relevant]
        cosine_of = _by_row(self.known, number)
        score_of = cosine_of if self.rescored is None else _by_row(self.rescored, number)
        positives = [
            Candidate(row, "positive", None, cosine_of[row], score_of[row]) for row in pool.rows(example.positives)
        ]
        kept = [Candidate(row, "own", None, cosine_of[row], score_of[row]) for row in kept_rows]
        taken_out = query.relevant | set(kept_rows)
        limit = score_limit(sum(candidate.score for candidate in positives) / len(positives), config)
        rescored = None if self.rescored is None else score_of
        by_model, by_bm25 = (
            self._eligible(found, number, source, taken_out, limit, rescored)
            for found, source in ((self.by_model, "model"), (self.by_bm25, "bm25"))
        )
        seed = "\0".join([str(config.seed), prompt, *example.positives])
        drawn = draw_negatives(by_model, by_bm25, config, max(0, config.num_negatives - len(kept)), seed)
        mined = Mined(example.query, tuple(positives), (*kept, *drawn), is_rescored=self.rescored is not None)
        return mined, float(self.by_model.of(number)["scores"][0])

    def _eligible(
        self,
        found: QueryBlocks | None,
        query: int,
        source: str,
        taken_out: set[int],
        limit: float,
        rescored: dict[int, float] | None,
    ) -> list[Candidate]:
        if found is None:
            return []
        cosine_of = _by_row(found, query)  # keeps the order of the ranks
        return eligible(cosine_of, rescored or cosine_of, taken_out, limit, self.config, source)

    def scores_to_write(self, mined: Mined) -> tuple[float, ...] | None:
        """Scores of the positives, then of the negatives; None if none are written."""
        candidates = mined.positives + mined.negatives
        if self.config.written_scores is WrittenScores.none:
            return None
        if self.config.written_scores is WrittenScores.cosine:
            return rounded([candidate.cosine for candidate in candidates])
        return rounded([candidate.score for candidate in candidates])


def _by_row(found: QueryBlocks, query: int) -> dict[int, float]:
    its = found.of(query)
    return dict(zip(its["rows"].tolist(), its["scores"].tolist(), strict=True))
