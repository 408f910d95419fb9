"""Retrieval sets during training: ``evaluate``'s metrics on the same checkpoint, whatever engine runs and however the
texts fall on the ranks; the best checkpoint by nDCG is kept; a signal is heeded."""

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from qwen3emb_train.data.batches import PackedTokens
from qwen3emb_train.data.mixture import LengthConfig, SourceConfig
from qwen3emb_train.data.retrieval_set import load_retrieval_set
from qwen3emb_train.data.tokenization import load_tokenizer
from qwen3emb_train.distributed import rank, world_size
from qwen3emb_train.evaluation.evaluate import EvaluateConfig, SetConfig, evaluate
from qwen3emb_train.index.nearest import top_k_documents
from qwen3emb_train.models.loading import ModelConfig, load_encoder
from qwen3emb_train.models.lora import LoraConfig
from qwen3emb_train.models.precision import Precision
from qwen3emb_train.training.checkpoints import Checkpoints, read_state
from qwen3emb_train.training.engines.engine import SingleEngine
from qwen3emb_train.training.engines.launch import build_engine, start
from qwen3emb_train.training.optimization import OptimizerConfig
from qwen3emb_train.training.retrieval_validation import (
    Share,
    ValidationSetConfig,
    _search,
    chosen_documents,
    open_validation_set,
    retrieval_metrics,
)
from qwen3emb_train.training.signals import StoppedBySignal, StopSignal
from qwen3emb_train.training.train_embedding import TrainEmbeddingConfig, train_embedding
from qwen3emb_train.training.validation import BestBy, Validation, ValidationConfig
from tests.ranks import run_on_ranks
from tests.training.engines.test_engines import FSDP, zero
from tests.training.setup import WORDS, make_config, write_rows


def write_set(path: Path, num_documents: int, num_queries: int, seed: int = 0) -> Path:
    """Documents of very different lengths, some judged for each query; ids not in the order of the lines."""
    draw = random.Random(seed)
    path.mkdir(parents=True)
    texts = [" ".join(draw.choices(WORDS, k=draw.choice([1, 3, 12]))) + f" {i}" for i in range(num_documents)]
    queries = [" ".join(draw.choices(WORDS, k=3)) for _ in range(num_queries)]
    ids = [f"d{(i * 7) % num_documents}" for i in range(num_documents)]
    (path / "corpus.jsonl").write_text(
        "\n".join(json.dumps({"_id": d, "text": t}) for d, t in zip(ids, texts, strict=True))
    )
    (path / "queries.jsonl").write_text(
        "\n".join(json.dumps({"_id": f"q{i}", "text": text}) for i, text in enumerate(queries))
    )
    judged = [
        f"q{i}\t{d}\t{draw.randint(0, 2) or 1}"
        for i in range(num_queries)
        for d in draw.sample(ids, num_documents // 12)
    ]
    judged.append("q0\tnot in the corpus\t2")  # counts as not found
    (path / "qrels.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]))
    return path


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """ "one" has fewer queries than there are ranks; "wide" more documents than recall looks at."""
    base = tmp_path_factory.mktemp("sets")
    return {"wide": write_set(base / "wide", 121, 9), "one": write_set(base / "one", 12, 1, seed=1)}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl")


def config_of(
    base: Path, rows: Path, output_dir: Path, sets: dict[str, Path], /, **changes: Any
) -> TrainEmbeddingConfig:
    chosen = {name: ValidationSetConfig(str(path)) for name, path in sets.items()}
    chosen["one"] = ValidationSetConfig(str(sets["one"]), instruction="Find it")
    settings: dict[str, Any] = {
        "eval_sets": chosen, "validation": ValidationConfig(every=1, best_by=BestBy.ndcg), "steps": 2,
        "tokens_per_chunk": 120, "keep_last": None,
    }  # fmt: skip
    return make_config(base, rows, output_dir, **(settings | changes))


def tracked(output_dir: Path) -> dict[int, dict[str, float]]:
    """The validation metrics by step."""
    lines = [json.loads(line) for line in (output_dir / "metrics.jsonl").read_text().splitlines()]
    return {
        line["step"]: {name: value for name, value in line.items() if name.startswith("validation/")}
        for line in lines
        if any(name.startswith("validation/") for name in line)
    }


def evaluated(model: Path, sets: dict[str, Path], output_dir: Path) -> dict[str, float]:
    """What ``evaluate`` says, under the names of the validation's metrics."""
    chosen = {"wide": SetConfig(str(sets["wide"])), "one": SetConfig(str(sets["one"]), instruction="Find it")}
    config = EvaluateConfig(models={"m": str(model)}, sets=chosen, output_dir=str(output_dir), precision=Precision.fp32)
    metrics = {}
    for row in (row for row in evaluate(config) if row.set in chosen):
        metrics |= {f"validation/{row.set}/{name}": row.scores[name] for name in ("ndcg@10", "recall@100")}
    for name in ("ndcg@10", "recall@100"):
        metrics[f"validation/{name}"] = sum(metrics[f"validation/{s}/{name}"] for s in chosen) / 2
    return metrics


def test_the_metrics_are_those_of_evaluate_on_the_checkpoint(
    tiny_qwen3: Path, rows: Path, sets: dict[str, Path], tmp_path: Path
) -> None:
    """At each step, beside those of held-out rows, with dropout in training."""
    config = config_of(
        tiny_qwen3, rows, tmp_path / "run", sets, save_every=1, validation_data={"held": SourceConfig(str(rows))},
        model=ModelConfig(path=str(tiny_qwen3), lora=LoraConfig(rank=4, dropout=0.3)),
        validation=ValidationConfig(every=1, batch_size=8, best_by=BestBy.ndcg),
        optimizer=OptimizerConfig(lr=1e-2),
    )  # fmt: skip
    train_embedding(config)
    found = tracked(tmp_path / "run")
    for step in (1, 2):
        model = tmp_path / "run" / "checkpoints" / f"step_{step:06d}" / "model"
        expected = evaluated(model, sets, tmp_path / f"evaluated_{step}")
        assert {name: found[step][name] for name in expected} == pytest.approx(expected, abs=1e-6)
        assert {"validation/held/mrr", "validation/mrr", "validation/held/loss"} <= found[step].keys()
    assert 0.01 < found[1]["validation/wide/ndcg@10"] < 0.9
    assert found[1]["validation/wide/recall@100"] < 1
    assert found[1]["validation/wide/ndcg@10"] != found[2]["validation/wide/ndcg@10"], "training moved nothing: vacuous"


def on_this_rank(cases: list[tuple[dict[str, str], TrainEmbeddingConfig]]) -> list[list[dict[str, float]]]:
    """Trains on every engine; what each validation gave on this rank."""
    before, original, outcomes = dict(os.environ), Validation.__call__, []
    for environment, config in cases:
        given: list[dict[str, float]] = []

        def noted(self: Validation, stop: StopSignal, given: list[dict[str, float]] = given) -> dict[str, float] | None:
            metrics = original(self, stop)
            given.append(metrics or {})
            return metrics

        os.environ.clear()
        os.environ.update(before | environment)
        Validation.__call__ = noted  # type: ignore[method-assign]
        train_embedding(config)
        outcomes.append(given)
    return outcomes


def test_on_two_ranks_of_every_engine_the_metrics_are_the_same_and_evaluates(
    tiny_qwen3: Path, rows: Path, sets: dict[str, Path], tmp_path: Path
) -> None:
    """Shares of uneven size and length, one rank without any query; training goes on after each validation."""
    engines = {"ddp": {}, "fsdp2": FSDP, "zero3": zero(3)}
    cases = [(environment, config_of(tiny_qwen3, rows, tmp_path / name, sets)) for name, environment in engines.items()]
    first, second = run_on_ranks(on_this_rank, 2, cases)
    assert first == second
    for name, given in zip(engines, first, strict=True):
        expected = evaluated(tmp_path / name / "model", sets, tmp_path / f"{name}_evaluated")
        assert given[-1] == pytest.approx(expected, abs=1e-6), name
        assert len(given) == 2


def test_best_by_ndcg_keeps_the_checkpoint_with_the_highest_mean(
    tiny_qwen3: Path, rows: Path, sets: dict[str, Path], tmp_path: Path
) -> None:
    config = config_of(
        tiny_qwen3, rows, tmp_path / "run", sets, steps=4, keep_last=1, optimizer=OptimizerConfig(lr=1e-2)
    )
    train_embedding(config)
    found = {step: metrics["validation/ndcg@10"] for step, metrics in tracked(tmp_path / "run").items()}
    best = max(found, key=lambda step: (found[step], -step))
    assert 1 < best < 4, f"{found}: the first or the last: vacuous"
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    assert checkpoints.steps() == [best, 4]
    latest = checkpoints.latest()
    assert latest is not None
    state = read_state(latest)
    assert (state.best_step, state.best_value) == (best, found[best])


@pytest.fixture(scope="module")
def engine(tiny_qwen3: Path) -> SingleEngine:
    encoder = load_encoder(ModelConfig(path=str(tiny_qwen3)))
    built = build_engine(start("cpu"), encoder, OptimizerConfig(), Precision.fp32, max_grad_norm=None)
    assert isinstance(built, SingleEngine)
    built.model.eval()
    return built


def test_chunks_change_no_figure_and_leave_no_graph_and_texts_are_tokenised_once(
    tiny_qwen3: Path, sets: dict[str, Path], engine: SingleEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = load_tokenizer(str(tiny_qwen3))
    data = open_validation_set("wide", ValidationSetConfig(str(sets["wide"])), tokenizer, LengthConfig())
    monkeypatch.setattr(type(tokenizer), "tokenize", pytest.fail)
    most: list[int] = []
    forward = SingleEngine.forward

    def counted(self: SingleEngine, tokens: Any, *, last: bool = False) -> torch.Tensor:
        vectors = forward(self, tokens, last=last)
        assert not vectors.requires_grad
        most.append(tokens.num_tokens)
        return vectors

    monkeypatch.setattr(SingleEngine, "forward", counted)
    whole = retrieval_metrics(data, engine, 10**6, StopSignal())
    assert len(most) == 2
    most.clear()
    assert retrieval_metrics(data, engine, 200, StopSignal()) == pytest.approx(whole, abs=1e-12)
    assert 100 < max(most) <= 200


def test_a_signal_ends_it_before_the_next_forward(
    tiny_qwen3: Path, sets: dict[str, Path], engine: SingleEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = open_validation_set(
        "one", ValidationSetConfig(str(sets["one"])), load_tokenizer(str(tiny_qwen3)), LengthConfig()
    )
    stop = StopSignal()
    forward, calls = SingleEngine.forward, []

    def forward_then_ask(self: SingleEngine, tokens: Any, *, last: bool = False) -> torch.Tensor:
        stop.requested = True
        calls.append(tokens)
        return forward(self, tokens, last=last)

    monkeypatch.setattr(SingleEngine, "forward", forward_then_ask)
    assert retrieval_metrics(data, engine, 100, stop) is None
    assert len(calls) == 1


def test_a_run_stopped_during_it_validates_again_and_ends_as_if_unbroken(
    tiny_qwen3: Path, rows: Path, sets: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qwen3emb_train.training import validation as module

    config = config_of(tiny_qwen3, rows, tmp_path / "cut", sets)
    with monkeypatch.context() as context:

        def asked(data: Any, engine: Any, tokens: int, stop: StopSignal) -> dict[str, float] | None:
            stop.requested = True
            return retrieval_metrics(data, engine, tokens, stop)

        context.setattr(module, "retrieval_metrics", asked)
        with pytest.raises(StoppedBySignal):
            train_embedding(config)
    assert tracked(tmp_path / "cut") == {}
    train_embedding(config)
    train_embedding(config_of(tiny_qwen3, rows, tmp_path / "whole", sets))
    assert tracked(tmp_path / "cut") == tracked(tmp_path / "whole")


def test_vectors_that_are_not_finite_are_refused_by_name(
    tiny_qwen3: Path, sets: dict[str, Path], engine: SingleEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = open_validation_set(
        "one", ValidationSetConfig(str(sets["one"])), load_tokenizer(str(tiny_qwen3)), LengthConfig()
    )
    forward = SingleEngine.forward
    monkeypatch.setattr(SingleEngine, "forward", lambda self, tokens, last=False: forward(self, tokens) * torch.nan)
    with pytest.raises(ValueError, match=r"eval_sets\.one: .*NaN"):
        retrieval_metrics(data, engine, 100, StopSignal())


def found_on_ranks(queries: Tensor, documents: Tensor) -> list[list[int]]:
    """The rows found where documents are dealt unevenly: the last rank has none."""
    rows = torch.randperm(len(documents), generator=torch.Generator().manual_seed(1))
    dealt = [rows] if world_size() == 1 else [rows[: len(rows) // 3], rows[len(rows) // 3 :], rows[:0]]
    own = dealt[rank()]
    share = Share(None, own, len(documents), PackedTokens.from_lists([[0]]))
    found: list[list[int]] = _search(queries, documents[own], share, torch.device("cpu")).tolist()
    return found


@pytest.mark.parametrize("num_documents", [400, 30])
def test_the_search_of_all_ranks_is_that_of_one_also_among_equal_scores(num_documents: int) -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(num_documents + 20, 8, generator=generator)
    vectors[5:60:3] = vectors[4]  # copies of a text
    vectors = torch.nn.functional.normalize(vectors, dim=-1)
    queries, documents = vectors[-20:], vectors[:-20]
    _, expected = top_k_documents(queries, documents, 101)  # one more than counts: a query may be a document itself
    assert found_on_ranks(queries, documents) == expected.tolist()
    assert run_on_ranks(found_on_ranks, 3, queries, documents) == [expected.tolist()] * 3


def test_a_query_that_is_a_document_is_left_out_of_its_own_ranking(
    tiny_qwen3: Path, engine: SingleEngine, sets: dict[str, Path], tmp_path: Path
) -> None:
    with_query = shutil.copytree(sets["one"], tmp_path / "with_query")
    with (with_query / "corpus.jsonl").open("a") as corpus:
        corpus.write("\n" + (with_query / "queries.jsonl").read_text())
    tokenizer = load_tokenizer(str(tiny_qwen3))
    plain, found = (
        retrieval_metrics(
            open_validation_set("s", ValidationSetConfig(str(path), instruction=""), tokenizer, LengthConfig()),
            engine, 100, StopSignal(),
        )
        for path in (sets["one"], with_query)
    )  # fmt: skip
    assert plain is not None
    assert plain["ndcg@10"] > 0
    assert found == pytest.approx(plain, abs=1e-12)


def test_max_documents_keeps_what_is_judged_and_always_the_same_others(sets: dict[str, Path]) -> None:
    data = load_retrieval_set(sets["wide"])
    judged = {row for row, d in enumerate(data.document_ids) if any(d in one for one in data.relevance.values())}
    few, more = chosen_documents(data, 80), chosen_documents(data, 90)
    assert (len(few), len(more)) == (80, 90)
    assert few == sorted(few)
    assert judged < set(few) < set(more)
    assert set(chosen_documents(data, 1)) == judged
    assert chosen_documents(data, 10_000) == chosen_documents(data, None) == list(range(121))


def test_max_documents_is_the_figure_of_the_smaller_corpus(
    tiny_qwen3: Path, sets: dict[str, Path], engine: SingleEngine, tmp_path: Path
) -> None:
    data = load_retrieval_set(sets["wide"])
    kept = {data.document_ids[row] for row in chosen_documents(data, 80)}
    smaller = tmp_path / "smaller"
    smaller.mkdir()
    for name in ("queries.jsonl", "qrels.tsv"):
        (smaller / name).write_bytes((sets["wide"] / name).read_bytes())
    lines = (sets["wide"] / "corpus.jsonl").read_text().splitlines()
    (smaller / "corpus.jsonl").write_text("\n".join(line for line in lines if json.loads(line)["_id"] in kept))
    tokenizer = load_tokenizer(str(tiny_qwen3))
    found = [
        retrieval_metrics(open_validation_set("s", chosen, tokenizer, LengthConfig()), engine, 500, StopSignal())
        for chosen in (
            ValidationSetConfig(str(sets["wide"]), max_documents=80),
            ValidationSetConfig(str(smaller)),
            ValidationSetConfig(str(sets["wide"])),
        )
    ]
    assert found[0] == found[1]
    assert found[0] != found[2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation": ValidationConfig()}, "best_by is mrr.*validation.best_by=ndcg"),
        ({"eval_sets": {}}, "best_by=ndcg needs a retrieval set"),
        ({"validation_data": {"one": SourceConfig("x")}}, r"both have \['one'\]"),
    ],
)
def test_settings_that_contradict_one_another_are_refused(
    tiny_qwen3: Path, sets: dict[str, Path], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        config_of(tiny_qwen3, tmp_path / "rows.jsonl", tmp_path / "run", sets, **changes)
    with pytest.raises(ValueError, match="max_documents is 0"):
        ValidationSetConfig("x", max_documents=0)
