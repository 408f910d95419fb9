"""What only an accelerator would show: where tensors are, what the host waits for, in which precision products run."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import yaml
from torch import Tensor

from qwen3emb_train.data.batches import PackedTokens
from qwen3emb_train.data.prefixes import share_prefixes
from qwen3emb_train.distributed import all_gather_with_grad, gather_all_counts, rank, world_size
from qwen3emb_train.losses import ragged
from qwen3emb_train.losses.by_task import TaskLosses
from qwen3emb_train.losses.infonce import InfoNCE
from qwen3emb_train.losses.label_contrast import LabelContrast
from qwen3emb_train.models import packing
from qwen3emb_train.models.loading import LoraConfig, ModelConfig, load_encoder
from qwen3emb_train.models.packing import PackedLayout
from qwen3emb_train.models.precision import Precision
from qwen3emb_train.training.determinism import deterministic_algorithms
from qwen3emb_train.training.engines.launch import build_engine, start
from qwen3emb_train.training.health import gradients
from qwen3emb_train.training.health.weights import WeightWatch
from qwen3emb_train.training.objectives import EmbeddingObjective
from qwen3emb_train.training.optimization import OptimizerConfig
from tests.ranks import run_on_ranks
from tests.tiny import make_tiny_model_directory
from tests.training.engines.steps import batch_of

ROOT = Path(__file__).parents[2]
META = torch.device("meta")  # whoever asks it for a value fails, as a wait for a GPU would be noticed


@pytest.mark.parametrize(
    ("asked", "local_rank", "expected"), [("cuda:1", None, 1), ("cuda", None, 0), ("cuda", "3", 3), ("cuda:3", "3", 3)]
)
def test_the_gpu_that_was_named_is_taken(
    monkeypatch: pytest.MonkeyPatch, asked: str, local_rank: str | None, expected: int
) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local_rank is not None:
        monkeypatch.setenv("LOCAL_RANK", local_rank)
    taken: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    assert start(asked).device == torch.device("cuda", expected)
    assert taken == [torch.device("cuda", expected)]


def test_one_gpu_for_several_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    with pytest.raises(ValueError, match="device=cuda:1 names one GPU, and 2 processes"):
        start("cuda:1")


def test_sums_for_collectives_are_on_the_engines_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL refuses a CPU tensor: a rank that holds nothing (ZeRO-3), or whose weights are offloaded, gave one."""
    nothing = WeightWatch([], META).movement([])
    offloaded = [("norm.weight", torch.ones(3))]
    moved = WeightWatch(offloaded, META).movement(offloaded)
    assert {value.device for value in (*nothing.values(), *moved.values())} == {META}
    seen = []

    def summed(sums: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.extend(value.device for value in sums.values())
        return {name: torch.zeros(value.shape) for name, value in sums.items()}

    monkeypatch.setattr(gradients, "sum_over_ranks", summed)
    for named in ([], offloaded):
        gradients.gradient_norms_by_group(named, 2, META, sharded=True)
    assert seen == [META, META]


@pytest.mark.parametrize("shares", [False, True])
def test_a_kernels_sizes_are_known_without_asking_the_device(shares: bool) -> None:
    texts = [[*range(1, 80), 90 + i, *range(i)] for i in range(4)] + [[5, 0], [7, 8, 0]]
    tokens = PackedTokens.from_lists(texts)
    if shares:
        tokens = share_prefixes(tokens)
        assert tokens.prefix_of is not None
    expected = PackedLayout.of(tokens)
    layout = PackedLayout.of(tokens.to(META))
    found = layout.spans
    assert (found.longest_query, found.longest_key) == (expected.spans.longest_query, expected.spans.longest_key)
    if shares:
        assert layout.key_tokens.shape == expected.key_tokens.shape


@pytest.mark.parametrize("lora", [LoraConfig(), LoraConfig(rank=4, dropout=0.1)], ids=["full", "adapters"])
@pytest.mark.parametrize("family", ["qwen3", "gemma3"])
def test_a_chunk_waits_for_nothing(
    lora: LoraConfig, family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forwards and backwards, with a prefix that is shared and without."""
    path = make_tiny_model_directory(tmp_path / "model", family=family)
    encoder = load_encoder(ModelConfig(path=str(path), lora=lora)).to(META)
    monkeypatch.setattr(
        packing, "varlen_kernel_for", lambda *_: lambda query, key, value, *_, **__: query + value.sum()
    )
    tokens = PackedTokens.from_lists([[*range(1, 80), 90 + i, *range(i), 0] for i in range(4)])
    for one in [tokens, share_prefixes(tokens)] if encoder.shares_prefixes else [tokens]:
        encoder(one.to(META)).sum().backward()
    assert any(p.grad is not None for p in encoder.parameters())


def test_counting_a_losss_groups_waits_for_nothing() -> None:
    segment, counted = torch.tensor([0, 0, 2, 2, 2]), torch.tensor([True, False, True, True, False])
    assert ragged.count_items(segment, 4).tolist() == [2, 0, 3, 0]
    assert ragged.count_items(segment, 4, counted).tolist() == [1, 0, 2, 0]
    assert ragged.count_items(segment.to(META), 4, counted.to(META)).shape == (4,)


class Recording(InfoNCE):
    """InfoNCE that notes the process's precision of CUDA's products in its forward and its backward pass."""

    seen: list[str] = []  # noqa: RUF012 - of the process

    def on_prefixes(self, local: Any, *args: Any, **kwargs: Any) -> Any:
        self.seen.append(torch.backends.cuda.matmul.fp32_precision)
        if local.queries.requires_grad:
            local.queries.register_hook(lambda _: self.seen.append(torch.backends.cuda.matmul.fp32_precision))
        return super().on_prefixes(local, *args, **kwargs)


@pytest.fixture
def _tf32() -> Iterator[None]:
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"  # as TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1 leaves it
    yield
    torch.backends.cuda.matmul.fp32_precision = before


@pytest.mark.usefixtures("_tf32")
def test_the_losss_products_are_full_float32(tiny_qwen3: Path) -> None:
    """TF32 rounds cosines to 0.0005, which is 0.025 in a logit."""
    encoder = load_encoder(ModelConfig(path=str(tiny_qwen3)))
    engine = build_engine(start("cpu"), encoder, OptimizerConfig(), Precision.fp32, max_grad_norm=1.0)
    objective = EmbeddingObjective(engine, Recording())
    Recording.seen.clear()
    objective.forward_backward(batch_of(0, 0, 4))
    assert Recording.seen == ["ieee", "ieee"]
    objective.evaluate(batch_of(0, 0, 4))
    assert len(Recording.seen) >= 3
    assert set(Recording.seen) == {"ieee"}
    assert torch.backends.cuda.matmul.fp32_precision == "tf32"


def test_deterministic_algorithms_are_on_inside_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with deterministic_algorithms(False):
        assert not torch.are_deterministic_algorithms_enabled()
        assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    with deterministic_algorithms(True):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert not torch.are_deterministic_algorithms_enabled()


def gathered_gradient(num_rows: list[int]) -> tuple[list[str], Tensor, list[list[int]]]:
    """The collectives of the backward pass, and the gradient of this rank's rows."""
    called = []
    for name in ("reduce_scatter", "all_reduce"):
        real = getattr(dist, name)
        setattr(dist, name, lambda *a, name=name, real=real, **k: (called.append(name), real(*a, **k))[1])
    own = num_rows[rank()]
    rows = torch.arange(own * 3, dtype=torch.float64).view(own, 3).requires_grad_()
    everything = all_gather_with_grad(rows)
    weights = torch.arange(everything.numel(), dtype=torch.float64).view_as(everything) * (1 + rank())
    (everything * weights).sum().backward()
    assert rows.grad is not None
    return called, rows.grad, gather_all_counts([own, world_size(), rank()], torch.device("cpu"))


@pytest.mark.parametrize(
    ("num_rows", "collective"), [([2, 2], "reduce_scatter"), ([3, 1], "all_reduce"), ([0, 2], "all_reduce")]
)
def test_equal_rows_are_scattered_others_summed_with_the_same_gradient(num_rows: list[int], collective: str) -> None:
    total = torch.arange(sum(num_rows) * 3, dtype=torch.float64).view(-1, 3) * (1 + 2)
    expected = total.split(num_rows)
    for number, (called, gradient, counts) in enumerate(run_on_ranks(gathered_gradient, 2, num_rows)):
        assert called == [collective]
        assert torch.equal(gradient, expected[number])
        assert counts == [[num_rows[0], 2, 0], [num_rows[1], 2, 1]]


def test_diagnostics_name_the_temperature_of_the_loss_that_served_the_step(tiny_qwen3: Path) -> None:
    encoder = load_encoder(ModelConfig(path=str(tiny_qwen3)))
    engine = build_engine(start("cpu"), encoder, OptimizerConfig(), Precision.fp32, max_grad_norm=1.0)
    losses = TaskLosses(classification=LabelContrast(temperature=0.07))
    objective = EmbeddingObjective(engine, InfoNCE(temperature=0.03), task_losses=losses)
    for task, temperature, has_margin in (("retrieval", 0.03, True), ("classification", 0.07, False)):
        objective.forward_backward(replace(batch_of(0, 0, 8), task=task))
        metrics = objective.diagnostics()
        assert metrics["temperature"] == temperature
        assert ("health/hardest_masked_share" in metrics) == has_margin


def test_launch_files_say_what_a_cluster_needs() -> None:
    for name in ("fsdp2", "hsdp"):  # else transformers leaves the weights of all processes but one empty
        settings = yaml.safe_load((ROOT / f"scripts/launch/{name}.yaml").read_text())
        assert settings["fsdp_config"]["fsdp_cpu_ram_efficient_loading"] is False
    for path in (ROOT / "scripts/launch").glob("*.yaml"):
        assert "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True accelerate launch" in path.read_text(), path
    batch_file = (ROOT / "scripts/slurm/train_embedding.sbatch").read_text()
    for setting in (
        "SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK", "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True",
        "FSDP_CPU_RAM_EFFICIENT_LOADING=false",
    ):  # fmt: skip
        assert setting in batch_file
        assert setting.split("=")[0] in "".join(line for line in batch_file.splitlines() if line.startswith("export "))
