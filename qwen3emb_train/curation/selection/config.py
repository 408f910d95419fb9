"""Which pairs are kept, and how they are scored."""

from dataclasses import dataclass, field

from qwen3emb_train.data.instructions import refuse_template
from qwen3emb_train.data.readers import ColumnsConfig, ReadingConfig
from qwen3emb_train.index.embed_config import EncodingConfig


@dataclass
class SelectPairsConfig(ColumnsConfig, EncodingConfig):
    """Which pairs are kept, and how they are scored.

    Attributes:
        model: the scoring model: a model directory (the report's first stage), a Sentence-Transformers directory, a hub
            name.
        examples: file or directory of examples, in any layout that training reads.
        output_dir: gets ``examples.jsonl``, ``rejected/REASON.jsonl``, ``scores.npy`` (the cosine of every pair that
            was scored, in file order), ``report.json``, ``report.txt`` and ``run.json``.
        min_score: a positive is kept if its cosine with the query is above this; null = whatever its cosine.
        consistency_top_k: a positive is kept if it is among the first so many of all positives for its query, the
            query's other positives not counted; null = whatever its rank.
        tasks: tasks whose examples are scored, the others are kept as they are; empty: all.
        instruction: for examples that bring none; null = the model's own, "" = none. Not for Sentence-Transformers
            models without a query prompt.
        rows_per_block: pairs scored, and queries searched, at once.
        block_elements: scores of the consistency search held at once.
        work_dir: where vectors are kept; null = beside ``output_dir``, removed when all is done. A directory given here
            is kept, and used again while model, prompts and texts are the same: for another ``min_score``.
        reading: how strictly lines are read; ``skip_bad_lines`` puts bad ones into ``rejected/malformed.jsonl``.
    """

    model: str = "???"
    examples: str = "???"
    output_dir: str = "???"
    min_score: float | None = 0.7
    consistency_top_k: int | None = None
    tasks: list[str] = field(default_factory=list)
    instruction: str | None = None
    rows_per_block: int = 4096
    block_elements: int = 2**24
    work_dir: str | None = None
    reading: ReadingConfig = field(default_factory=ReadingConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_template("instruction", self.instruction)
        if self.min_score is None and self.consistency_top_k is None:
            raise ValueError("min_score and consistency_top_k are both null: every pair would be kept. Set one.")
        if self.min_score is not None and not -1 <= self.min_score < 1:
            raise ValueError(f"min_score={self.min_score}: is a cosine. Give a number from -1 to below 1.")
        for name in ("consistency_top_k", "rows_per_block", "block_elements"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: must be at least 1.")
