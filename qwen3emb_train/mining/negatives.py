"""Positive-aware hard negatives: near the query, but clearly farther than its positives.

For every example the model ranks the corpus; documents known to be relevant to the same query are taken out, a window
of ranks is cut, whatever scores too close to the positives is dropped as a likely false negative, and from the rest the
negatives are drawn. The report's authors state "top-k retrieval, then sampling" (paper-facts 3.2); the score limits are
those of NV-Retriever (arXiv 2407.15831, TopK-PercPos and TopK-MarginPos) and of the VL report.

All vectors are held in memory: 4 * dim bytes for each text.
"""

import logging
import random
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from pathlib import Path

from qwen3emb_train import lineage
from qwen3emb_train.data.corpus import read_texts
from qwen3emb_train.data.instructions import DEFAULT_INSTRUCTION, format_query
from qwen3emb_train.data.readers import read_examples
from qwen3emb_train.data.records import TrainingExample, write_examples
from qwen3emb_train.mining.pool import DocumentPool, identity
from qwen3emb_train.mining.report import MiningStatistics
from qwen3emb_train.models.inference import TextEncoder
from qwen3emb_train.models.nearest import top_k_documents
from qwen3emb_train.models.precision import Precision

PROGRAM = "mine_negatives"
logger = logging.getLogger(__name__)


class Sampling(str, Enum):
    """``random``: any of the window's eligible documents. ``top``: the hardest of them."""

    random = "random"
    top = "top"


@dataclass
class MiningConfig:
    """What is mined, and by which rules. All score limits are cosines; None switches a limit off.

    Attributes:
        model: model directory or hub name of the searching model.
        examples: examples in any layout that training reads; those of other ``tasks`` are copied as they are.
        output_dir: gets ``examples.jsonl``, ``report.txt`` and ``run.json``.
        corpus: JSONL with ``text`` and optional ``title`` (BEIR's corpus.jsonl). None: all documents of the examples.
        num_negatives: at most so many for an example. Where fewer are eligible, it gets fewer.
        keep_negatives: an example's own negatives stay, and mined ones fill up. Otherwise they are mere candidates.
        rank_from, rank_to: the window, both ends included, counted from 1 without the query's positives.
        max_relative_score: a negative scores below this share of the positives' mean score.
        absolute_margin: a negative scores below the positives' mean score minus this; a negative margin lets
            it score higher, as the VL report does ("mean + small safety margin").
        max_score: a negative scores below this.
        min_positive_score: an example none of whose positives scores above this is left out: its label is in doubt.
        sampling: how negatives are drawn from what the rules leave.
        seed: of ``sampling=random``.
        tasks: tasks whose examples get negatives. Scores of other tasks are labels and must not be overwritten.
        instruction: for examples that bring none; "" is none.
        num_layers: of the model; None = all.
        max_tokens: longest text.
        precision: of the matrix products.
        tokens_per_batch: tokens encoded at once.
        block_elements: scores held at once.
    """

    model: str = "???"
    examples: str = "???"
    output_dir: str = "???"
    corpus: str | None = None
    num_negatives: int = 7
    keep_negatives: bool = False
    rank_from: int = 1
    rank_to: int = 100
    max_relative_score: float | None = 0.95
    absolute_margin: float | None = None
    max_score: float | None = None
    min_positive_score: float | None = None
    sampling: Sampling = Sampling.random
    seed: int = 0
    tasks: list[str] = field(default_factory=lambda: ["retrieval"])
    instruction: str = DEFAULT_INSTRUCTION
    num_layers: int | None = None
    max_tokens: int = 512
    precision: Precision = Precision.auto
    tokens_per_batch: int = 8192
    block_elements: int = 2**24

    def __post_init__(self) -> None:
        if self.num_negatives < 1:
            raise ValueError(f"num_negatives={self.num_negatives}: must be at least 1.")
        if not 1 <= self.rank_from <= self.rank_to:
            raise ValueError(
                f"rank_from={self.rank_from}, rank_to={self.rank_to}: ranks count from 1, and the window must hold one."
            )
        if self.rank_to - self.rank_from + 1 < self.num_negatives:
            raise ValueError(
                f"rank_from={self.rank_from}, rank_to={self.rank_to} hold fewer documents than "
                f"num_negatives={self.num_negatives}. Raise rank_to."
            )
        if self.max_relative_score is not None and not 0 < self.max_relative_score <= 1:
            raise ValueError(f"max_relative_score={self.max_relative_score}: must be above 0 and at most 1, or null.")


def select_negatives(
    scores: Sequence[float],
    documents: Sequence[int],
    relevant: Collection[int],
    positive_score: float,
    config: MiningConfig,
    seed: str,
) -> list[int]:
    """The rules, on one query.

    Args:
        scores, documents: the query's best documents with their scores, best first.
        relevant: documents that must never become negatives.
        positive_score: mean score of the example's positives.
        config: the rules.
        seed: of ``sampling=random``; tells examples apart, so that the draw does not depend on their order.

    Returns:
        Positions in ``documents``, best first; at most ``num_negatives``.
    """
    others = [position for position, document in enumerate(documents) if document not in relevant]
    window = others[config.rank_from - 1 : config.rank_to]
    limit = score_limit(positive_score, config)
    eligible = [position for position in window if scores[position] < limit]
    if config.sampling is Sampling.random and len(eligible) > config.num_negatives:
        return sorted(random.Random(seed).sample(eligible, config.num_negatives))
    return eligible[: config.num_negatives]


def score_limit(positive_score: float, config: MiningConfig) -> float:
    """The score that a negative must stay below."""
    limits = [float("inf")]
    if config.max_relative_score is not None:
        # By the size of the score, so that the limit lies below a negative score too.
        limits.append(positive_score - (1 - config.max_relative_score) * abs(positive_score))
    if config.absolute_margin is not None:
        limits.append(positive_score - config.absolute_margin)
    if config.max_score is not None:
        limits.append(config.max_score)
    return min(limits)


def mine_negatives(config: MiningConfig) -> Path:
    """Mines negatives for a file of examples; returns ``output_dir``. Does nothing if that is up to date.

    The written examples keep their order. ``scores`` holds the cosines of the positives, then of the negatives.

    Raises:
        FileNotFoundError, ValueError: an input is missing or malformed, or no example is of one of the ``tasks``.
    """
    output = Path(config.output_dir)
    settings = {name: value for name, value in asdict(config).items() if name != "output_dir"}
    inputs = {"examples": Path(config.examples)} | ({"corpus": Path(config.corpus)} if config.corpus else {})
    if Path(config.model).exists():  # a hub name has no bytes here; it stands in the settings
        inputs["model"] = Path(config.model)
    for path in inputs.values():
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file. Check the path, or run the stage that writes it.")
    if lineage.is_up_to_date(output, PROGRAM, settings, inputs):
        print(f"{output}: up to date")
        return output

    examples = list(read_examples(Path(config.examples)))
    if not any(example.task in config.tasks for example in examples):
        found = ", ".join(sorted({example.task for example in examples}))
        raise ValueError(f"{config.examples}: tasks={config.tasks} finds no example; the tasks there: {found}.")
    mined, statistics = _mine(examples, config)
    if 2 * statistics.num_without > statistics.num_examples:
        logger.warning(
            "%d of %d examples got no negative. Read %s: if all cosines there look alike, the model is too "
            "weak to mine with; else loosen max_relative_score or give a larger corpus.",
            statistics.num_without, statistics.num_examples, output / "report.txt",
        )  # fmt: skip
    with lineage.atomic_directory(output) as directory:
        write_examples(directory / "examples.jsonl", mined)
        lineage.write_text(directory / "report.txt", statistics.as_text())
        lineage.write_record(directory, lineage.new_record(PROGRAM, settings, inputs, **statistics.counts))
    return output


def _mine(examples: Sequence[TrainingExample], config: MiningConfig) -> tuple[list[TrainingExample], MiningStatistics]:
    asked = [example for example in examples if example.task in config.tasks]
    own_documents = [text for example in asked for text in (*example.positives, *example.negatives)]
    pool = DocumentPool()
    pool.add(own_documents if config.corpus is None else filter(str.strip, read_texts(Path(config.corpus)).values()))
    num_candidates = len(pool.texts)
    pool.add(own_documents)  # where the corpus lacks them: scored, but no candidates
    relevant: dict[str, set[int]] = defaultdict(set)
    for example in asked:
        relevant[identity(example.query)].update(pool.rows(example.positives))

    prompts = list(dict.fromkeys(_prompt(example, config) for example in asked))
    query_rows = {prompt: row for row, prompt in enumerate(prompts)}
    encoder = TextEncoder.load(
        config.model, num_layers=config.num_layers, max_tokens=config.max_tokens, precision=config.precision.value
    )
    queries = encoder.encode(prompts, tokens_per_batch=config.tokens_per_batch)
    documents = encoder.encode(pool.texts, tokens_per_batch=config.tokens_per_batch)
    # Enough that the window is full after all that may have to be taken out.
    k = config.rank_to + max(map(len, relevant.values())) + max(len(example.negatives) for example in asked)
    scores, rows = top_k_documents(queries, documents[:num_candidates], k, config.block_elements, encoder.device)

    mined, statistics = [], MiningStatistics(config.num_negatives, len(prompts), num_candidates)
    for example in examples:
        if example.task not in config.tasks:
            mined.append(example)
            continue
        prompt, known = _prompt(example, config), relevant[identity(example.query)]
        query = query_rows[prompt]
        kept = [row for row in pool.rows(example.negatives) if config.keep_negatives and row not in known]
        positive_scores = (documents[pool.rows(example.positives)] @ queries[query]).tolist()
        if config.min_positive_score is not None and max(positive_scores) <= config.min_positive_score:
            statistics.num_left_out += 1
            continue
        found_scores, found_rows = scores[query].tolist(), rows[query].tolist()
        chosen = select_negatives(
            found_scores,
            found_rows,
            known | set(kept),
            sum(positive_scores) / len(positive_scores),
            config,
            seed="\0".join([str(config.seed), prompt, *example.positives]),
        )[: max(0, config.num_negatives - len(kept))]
        negatives = [pool.texts[row] for row in (*kept, *(found_rows[position] for position in chosen))]
        negative_scores = (documents[kept] @ queries[query]).tolist() + [found_scores[i] for i in chosen]
        all_scores = tuple(round(score, 6) for score in positive_scores + negative_scores)
        mined.append(replace(example, negatives=tuple(negatives), scores=all_scores))
        statistics.add(positive_scores, negative_scores, found_scores[0])
    return mined, statistics


def _prompt(example: TrainingExample, config: MiningConfig) -> str:
    instruction = config.instruction if example.instruction is None else example.instruction
    return format_query(instruction, example.query)
