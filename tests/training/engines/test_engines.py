"""The gradient does not depend on who computes it: three steps on two ranks of every engine equal one process.

Loss, gradient norm and weights after three AdamW steps, with ragged negatives, several positives, texts shared across
ranks, Matryoshka prefixes, chunks of uneven number on the ranks, graphs kept or replayed. Likewise a reranker's: ragged
documents, a head that is the embedding or is not. A planted factor must show.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from qwen3emb_train.data.batches import PackedTokens
from qwen3emb_train.losses.point_wise import Answers, PointWise
from qwen3emb_train.losses.reranking_sum import RerankingSum
from qwen3emb_train.models.loading import ModelConfig, load_encoder
from qwen3emb_train.models.precision import Precision
from qwen3emb_train.training.engines.launch import build_engine, start
from qwen3emb_train.training.engines.probe import require_products
from qwen3emb_train.training.optimization import OptimizerConfig
from tests.ranks import run_on_ranks
from tests.tiny import make_tiny_causal_lm_directory
from tests.training.engines import reranking_steps as reranking
from tests.training.engines import steps as embedding
from tests.training.engines.steps import Outcome, Problem, Settings, alone, float64_norms, on_this_rank

DIRECT = Settings(dims=(32, 8))
CACHED = Settings(dims=(32, 8), tokens_per_chunk=17)
KEPT = Settings(dims=(32, 8), tokens_per_chunk=17, retained_graph_tokens=40)
DROPOUT = Settings(dims=(32, 8), lora=4, dropout=0.3)
WRONG = Settings(dims=(32, 8), tokens_per_chunk=17, wrong_factor=0.999)
FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
HSDP = FSDP | {"PARALLELISM_CONFIG_DP_REPLICATE_SIZE": "2"}


def zero(stage: int) -> dict[str, str]:
    return {
        "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(stage),
        "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "none",
        "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "none",
    }


@pytest.fixture
def _norms_in_float64() -> object:
    before = Qwen3RMSNorm.forward
    float64_norms()
    yield
    Qwen3RMSNorm.forward = before


def difference(found: list[Outcome], expected: Outcome) -> float:
    """The largest relative difference in loss (mean over ranks), gradient norm and weights."""
    losses = torch.tensor([outcome.losses for outcome in found], dtype=torch.float64).mean(0)
    errors = [float((losses / torch.tensor(expected.losses, dtype=torch.float64) - 1).abs().max())]
    for outcome in found:
        norms = torch.tensor(outcome.norms, dtype=torch.float64)
        errors.append(float((norms / torch.tensor(expected.norms, dtype=torch.float64) - 1).abs().max()))
    for name, weight in found[0].weights.items():
        errors.append(float((weight - expected.weights[name]).norm() / expected.weights[name].norm()))
    assert found[0].weights.keys() == expected.weights.keys()
    return max(errors)


MASKED = replace(DROPOUT, tokens_per_chunk=17, retained_graph_tokens=40)
VARIANTS = [DIRECT, CACHED, KEPT, replace(CACHED, sync_every_chunk=True), WRONG, DROPOUT, MASKED]
# DeepSpeed's own buffers are float32.
TWO_RANKS = [
    *(({}, settings) for settings in VARIANTS),
    *((FSDP, settings) for settings in VARIANTS),
    *((zero(stage), replace(settings, double=False)) for stage in (1, 2, 3) for settings in VARIANTS),
]
FOUR_RANKS = [(HSDP, settings) for settings in (CACHED, KEPT, WRONG)]

FULL = reranking.Settings(tokens_per_chunk=70)
TWO_WAY = reranking.Settings(PointWise(Answers.two_way), tokens_per_chunk=70, tied=False)
SEVERAL = reranking.Settings(
    RerankingSum(reranker_distillation_weight=1.0, list_net_weight=1.0), tokens_per_chunk=70, share_prefixes=False
)
ADAPTERS = reranking.Settings(tokens_per_chunk=70, lora=4, dropout=0.3)
RERANKERS = [FULL, TWO_WAY, SEVERAL, ADAPTERS, replace(FULL, wrong_factor=0.999)]
RERANKERS_ON_TWO_RANKS = [
    *(({}, settings) for settings in RERANKERS),
    *((FSDP, settings) for settings in (*RERANKERS, replace(FULL, sync_every_chunk=True))),
    *((zero(stage), replace(settings, double=False)) for stage in (2, 3) for settings in RERANKERS),
]


@pytest.fixture(scope="module")
def tiny_rerankers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("rerankers")
    for tied in (True, False):
        make_tiny_causal_lm_directory(base / reranking.NAMES[tied], tied=tied)
    return base


def assert_as_expected(
    results: list[list[Outcome]], cases: list[tuple[dict[str, str], Any]], expected: list[Outcome]
) -> None:
    """Of each case on every rank: equal, unless it was planted not to be."""
    for (environment, settings), outcome, *per_rank in zip(cases, expected, *results, strict=True):
        error = difference(per_rank, outcome)
        bound = 1e-10 if settings.double else 1e-5
        if settings.wrong_factor == 1:
            assert error < bound, (environment, settings, error)
        else:
            assert error > 20 * bound, (environment, settings, error)


@pytest.mark.parametrize(
    ("num_ranks", "cases", "rerankers"),
    [(2, TWO_RANKS, RERANKERS_ON_TWO_RANKS), (4, FOUR_RANKS, [])],
    ids=["two", "four"],
)
@pytest.mark.usefixtures("_norms_in_float64")
def test_every_engine_equals_one_process(
    tiny_qwen3: Path,
    tiny_rerankers: Path,
    num_ranks: int,
    cases: list[tuple[dict[str, str], Settings]],
    rerankers: list[tuple[dict[str, str], reranking.Settings]],
) -> None:
    plain, dropped = alone(tiny_qwen3, DIRECT), alone(tiny_qwen3, DROPOUT)
    expected = [dropped if settings.dropout else plain for _, settings in cases]
    problems: list[tuple[dict[str, str], Problem]] = [
        *((place, partial(embedding.three_steps, str(tiny_qwen3), settings)) for place, settings in cases),
        *((place, partial(reranking.three_steps, str(tiny_rerankers), settings)) for place, settings in rerankers),
    ]
    alike = {repr(s): s for s in (reranking.in_one_piece(settings) for _, settings in rerankers)}
    whole = {
        name: reranking.three_steps(str(tiny_rerankers), settings, start("cpu")) for name, settings in alike.items()
    }
    expected += [whole[repr(reranking.in_one_piece(settings))] for _, settings in rerankers]
    results = run_on_ranks(on_this_rank, num_ranks, problems)
    assert_as_expected(results, [*cases, *rerankers], expected)


@pytest.mark.usefixtures("_norms_in_float64")
def test_one_process_takes_the_same_steps_in_chunks_and_dropout_is_real(tiny_qwen3: Path) -> None:
    """Masks belong to texts: chunks, kept graphs and replays see the same ones."""
    expected = alone(tiny_qwen3, DROPOUT)
    assert difference([alone(tiny_qwen3, replace(DROPOUT, dropout=0.0))], expected) > 1e-3, "without dropout: vacuous"
    for retained_graph_tokens in (0, 40, 10_000):
        cached = alone(tiny_qwen3, replace(DROPOUT, tokens_per_chunk=17, retained_graph_tokens=retained_graph_tokens))
        assert difference([cached], expected) < 1e-10


def layouts_seen(model: Path) -> int:
    """How many layouts the layers of one FSDP2 forward pass in bf16 receive."""
    launch = start("cpu")
    encoder = load_encoder(ModelConfig(path=str(model)))
    engine = build_engine(launch, encoder, OptimizerConfig(), Precision.bf16, max_grad_norm=1.0)
    seen = []  # the objects themselves: ids of dropped ones would be used again
    for layer in encoder.backbone.layers:
        layer.self_attn.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(kwargs["layout"]), with_kwargs=True
        )
    with torch.no_grad():
        engine.forward(PackedTokens.from_lists([[5, 6, 7, 0], [9, 0]]))
    assert len(seen) == len(encoder.backbone.layers) > 1
    return len({id(layout) for layout in seen})


def test_all_layers_share_one_layout_under_fsdp2(tiny_qwen3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its mixed precision takes dataclasses apart; each copy would cost a wait for the device in every layer."""
    for name, value in FSDP.items():
        monkeypatch.setenv(name, value)
    assert run_on_ranks(layouts_seen, 2, tiny_qwen3) == [1, 1]


def products_seen(model: Path, precision: Precision) -> str:
    """What the probe says where CUDA's autocast flag is set around the engine, as a loop on a GPU might."""
    engine = build_engine(
        start("cpu"), load_encoder(ModelConfig(path=str(model))), OptimizerConfig(), precision, max_grad_norm=1.0
    )
    require_products(engine)
    torch.set_autocast_enabled("cuda", True)  # all that DeepSpeed asks before it turns the device's autocast off
    try:
        require_products(engine)
        if engine.name != "ddp":  # it enters autocast anew each time, the others have decided
            engine.precision = Precision.fp32 if precision is Precision.bf16 else Precision.bf16
            with pytest.raises(ValueError, match="linear layers give torch"):
                require_products(engine)
    finally:
        torch.set_autocast_enabled("cuda", False)
    return engine.name


@pytest.mark.parametrize(
    ("launcher", "precision"),
    [(zero(2), Precision.bf16), (zero(3), Precision.bf16), (FSDP, Precision.bf16), ({}, Precision.bf16)],
)
def test_products_run_in_the_type_that_was_asked_for(
    tiny_qwen3: Path, monkeypatch: pytest.MonkeyPatch, launcher: dict[str, str], precision: Precision
) -> None:
    for name, value in launcher.items():
        monkeypatch.setenv(name, value)
    assert len(set(run_on_ranks(products_seen, 2, tiny_qwen3, precision))) == 1
