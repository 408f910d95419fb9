"""From examples to a search problem: documents, queries, and what is relevant to each."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from qwen3emb_train.data.corpus import read_texts
from qwen3emb_train.data.instructions import format_query
from qwen3emb_train.data.records import TrainingExample
from qwen3emb_train.data.rows import source_path
from qwen3emb_train.index.query_prompts import QueryPrompts
from qwen3emb_train.lineage import value_digest
from qwen3emb_train.mining.config import MiningConfig
from qwen3emb_train.mining.pool import DocumentPool, normalized_text


@dataclass(slots=True)
class Query:
    """A distinct query; several examples may share it.

    Attributes:
        prompt: what the model encodes, instruction included.
        text: without instruction.
        relevant: rows that are a positive of any example with this query, whatever its instruction.
        kept: rows of its examples' own negatives that are kept.
        instruction: that stands before it; None: the model's own.
    """

    prompt: str
    text: str
    relevant: set[int]
    kept: set[int] = field(default_factory=set)
    instruction: str | None = None


@dataclass
class SearchProblem:
    """What is searched.

    Attributes:
        pool: all documents.
        num_candidates: the first ones of them, which are the corpus; the rest are scored, but never retrieved.
        queries: each prompt once.
        row_of_prompt: index of each prompt's query.
        prompts: of the searching model.
    """

    pool: DocumentPool
    num_candidates: int
    queries: list[Query]
    row_of_prompt: dict[str, int]
    prompts: QueryPrompts

    @property
    def labels_digest(self) -> str:
        """Digest of what is relevant to each query, and what is kept."""
        return value_digest([[sorted(query.relevant), sorted(query.kept)] for query in self.queries])

    @property
    def most_taken_out(self) -> int:
        """The largest number of known documents that have to be removed from a query's results."""
        return max(len(query.relevant) + len(query.kept) for query in self.queries)


def gather(examples: Sequence[TrainingExample], config: MiningConfig) -> SearchProblem:
    """Reads the corpus and lists the queries of the examples that get negatives."""
    prompts = QueryPrompts.of(config.model)
    pool = DocumentPool()
    if config.corpus is None:
        pool.add(_documents_of(examples, config))
    else:
        texts = read_texts(source_path(config.corpus), columns=config.corpus_columns)
        pool.add((name, text) for name, text in texts.items() if text.strip())
    num_candidates = len(pool.texts)
    pool.add(_documents_of(examples, config))  # where the corpus lacks them
    relevant: dict[str, set[int]] = defaultdict(set)
    queries: list[Query] = []
    row_of_prompt: dict[str, int] = {}
    for example in examples:
        if example.task not in config.tasks:
            continue
        known = relevant[normalized_text(example.query)]  # one set shared by all prompts of the query
        known.update(pool.rows(example.positives))
        prompt = prompt_of(example, config, prompts)
        if row_of_prompt.setdefault(prompt, len(queries)) == len(queries):
            queries.append(Query(prompt, example.query, known, instruction=_instruction(example, config)))
        if config.keep_negatives:
            queries[row_of_prompt[prompt]].kept.update(pool.rows(example.negatives))
    return SearchProblem(pool, num_candidates, queries, row_of_prompt, prompts)


def prompt_of(example: TrainingExample, config: MiningConfig, prompts: QueryPrompts) -> str:
    """The text of its query with what stands before it.

    Args:
        example: whose own instruction counts first.
        config: with the instruction of the others.
        prompts: of the searching model, for examples that still have none.
    """
    instruction = _instruction(example, config)
    return prompts.own + example.query if instruction is None else format_query(instruction, example.query)


def _instruction(example: TrainingExample, config: MiningConfig) -> str | None:
    return config.instruction if example.instruction is None else example.instruction


def _documents_of(examples: Sequence[TrainingExample], config: MiningConfig) -> Iterator[tuple[str, str]]:
    """With their positions as ids: ``3/positives/0`` is the first positive of the third example."""
    for number, example in enumerate(examples, start=1):
        if example.task in config.tasks:
            for role, texts in (("positives", example.positives), ("negatives", example.negatives)):
                for index, text in enumerate(texts):
                    yield f"{number}/{role}/{index}", text
