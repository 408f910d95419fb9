"""From examples to what is searched: documents, queries, and what is relevant to each."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qwen3emb_train.data.corpus import read_texts
from qwen3emb_train.data.instructions import format_query
from qwen3emb_train.data.records import TrainingExample
from qwen3emb_train.lineage import value_digest
from qwen3emb_train.mining.config import MiningConfig
from qwen3emb_train.mining.pool import DocumentPool, normalized_text


@dataclass(slots=True)
class Query:
    """One text to search with; several examples may share it.

    Attributes:
        prompt: what the model encodes, the instruction included.
        text: the query alone.
        relevant: rows that are a positive of any example with this query, whatever its instruction.
        kept: rows of negatives that its examples keep.
    """

    prompt: str
    text: str
    relevant: set[int]
    kept: set[int] = field(default_factory=set)


@dataclass
class SearchProblem:
    """What is searched.

    Attributes:
        pool: all documents.
        num_candidates: the first so many of them are the corpus; the rest are scored, but never found.
        queries: each prompt once.
        row_of_prompt: the query of each prompt.
    """

    pool: DocumentPool
    num_candidates: int
    queries: list[Query]
    row_of_prompt: dict[str, int]

    @property
    def labels_digest(self) -> str:
        """Of what is relevant to each query, and what is kept."""
        return value_digest([[sorted(query.relevant), sorted(query.kept)] for query in self.queries])

    @property
    def most_taken_out(self) -> int:
        """Documents that may have to be taken out of what a query finds."""
        return max(len(query.relevant) + len(query.kept) for query in self.queries)


def gather(examples: Sequence[TrainingExample], config: MiningConfig) -> SearchProblem:
    """Reads the corpus and lists the queries of the examples that get negatives."""
    pool = DocumentPool()
    if config.corpus is None:
        pool.add(_documents_of(examples, config))
    else:
        pool.add((name, text) for name, text in read_texts(Path(config.corpus)).items() if text.strip())
    num_candidates = len(pool.texts)
    pool.add(_documents_of(examples, config))  # where the corpus lacks them
    relevant: dict[str, set[int]] = defaultdict(set)
    queries: list[Query] = []
    row_of_prompt: dict[str, int] = {}
    for example in examples:
        if example.task not in config.tasks:
            continue
        known = relevant[normalized_text(example.query)]  # one set for all prompts of the query: it grows as they come
        known.update(pool.rows(example.positives))
        prompt = prompt_of(example, config)
        if row_of_prompt.setdefault(prompt, len(queries)) == len(queries):
            queries.append(Query(prompt, example.query, known))
        if config.keep_negatives:
            queries[row_of_prompt[prompt]].kept.update(pool.rows(example.negatives))
    return SearchProblem(pool, num_candidates, queries, row_of_prompt)


def prompt_of(example: TrainingExample, config: MiningConfig) -> str:
    return format_query(config.instruction if example.instruction is None else example.instruction, example.query)


def _documents_of(examples: Sequence[TrainingExample], config: MiningConfig) -> Iterator[tuple[str, str]]:
    """With where they stand as id: ``3/positives/0`` is the first positive of the third example."""
    for number, example in enumerate(examples, start=1):
        if example.task in config.tasks:
            for role, texts in (("positives", example.positives), ("negatives", example.negatives)):
                for index, text in enumerate(texts):
                    yield f"{number}/{role}/{index}", text
