"""The gradient does not depend on who computes it: three steps on two ranks of every engine equal one process.

Loss, gradient norm and weights after three AdamW steps, with ragged negatives, several positives, texts shared across
ranks, Matryoshka prefixes, chunks of uneven number on the ranks, graphs kept or replayed. A planted factor must show.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from tests.ranks import run_on_ranks
from tests.training.engines.steps import Outcome, Settings, alone, float64_norms, on_this_rank

DIRECT = Settings(dims=(32, 8))
CACHED = Settings(dims=(32, 8), tokens_per_chunk=17)
KEPT = Settings(dims=(32, 8), tokens_per_chunk=17, tokens_with_graph=40)
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


MASKED = replace(DROPOUT, tokens_per_chunk=17, tokens_with_graph=40)
VARIANTS = [DIRECT, CACHED, KEPT, replace(CACHED, sync_every_chunk=True), WRONG, DROPOUT, MASKED]
# DeepSpeed's own buffers are float32.
TWO_RANKS = [
    *(({}, settings) for settings in VARIANTS),
    *((FSDP, settings) for settings in VARIANTS),
    *((zero(stage), replace(settings, double=False)) for stage in (1, 2, 3) for settings in VARIANTS),
]
FOUR_RANKS = [(HSDP, settings) for settings in (CACHED, KEPT, WRONG)]


@pytest.mark.parametrize(("num_ranks", "cases"), [(2, TWO_RANKS), (4, FOUR_RANKS)], ids=["two", "four"])
@pytest.mark.usefixtures("_norms_in_float64")
def test_every_engine_equals_one_process(
    tiny_qwen3: Path, num_ranks: int, cases: list[tuple[dict[str, str], Settings]]
) -> None:
    plain, dropped = alone(tiny_qwen3, DIRECT), alone(tiny_qwen3, DROPOUT)
    results = run_on_ranks(on_this_rank, num_ranks, str(tiny_qwen3), cases)
    for (environment, settings), *per_rank in zip(cases, *results, strict=True):
        error = difference(per_rank, dropped if settings.dropout else plain)
        bound = 1e-10 if settings.double else 1e-5
        if settings.wrong_factor == 1:
            assert error < bound, (environment, settings, error)
        else:
            assert error > 20 * bound, (environment, settings, error)


@pytest.mark.usefixtures("_norms_in_float64")
def test_one_process_takes_the_same_steps_in_chunks_and_dropout_is_real(tiny_qwen3: Path) -> None:
    """Masks belong to texts: chunks, kept graphs and replays see the same ones."""
    expected = alone(tiny_qwen3, DROPOUT)
    assert difference([alone(tiny_qwen3, replace(DROPOUT, dropout=0.0))], expected) > 1e-3, "without dropout: vacuous"
    for tokens_with_graph in (0, 40, 10_000):
        cached = alone(tiny_qwen3, replace(DROPOUT, tokens_per_chunk=17, tokens_with_graph=tokens_with_graph))
        assert difference([cached], expected) < 1e-10
