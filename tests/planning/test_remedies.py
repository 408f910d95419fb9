"""What a refusal for memory advises: everything named fits, can be chosen, and stands in the order of its speed."""

import re
from dataclasses import replace

import pytest

from qwen3emb_train.models.loading import ModelConfig
from qwen3emb_train.models.lora import LoraConfig
from qwen3emb_train.models.quantization import Quantization
from qwen3emb_train.planning.config import PlanConfig
from qwen3emb_train.planning.gpus import GPUS
from qwen3emb_train.planning.load import RankPlan, TracedModels, plan_rank
from qwen3emb_train.planning.memory import Parallelism
from qwen3emb_train.planning.plan import plan
from qwen3emb_train.planning.refusals import refuse_split
from qwen3emb_train.planning.remedies import Remedy, find_remedies
from qwen3emb_train.planning.work import RowShape
from tests.planning.test_plan import config_of

MODELS = TracedModels(True, "h100", 115.0)  # made once for all tests
ROW = RowShape(30.0, 200.0, 1.0, 0.0, None, "made up")
LARGE = ModelConfig(path="Qwen/Qwen3-8B")
CASES = {
    "one chunk too large": {"tokens_per_chunk": 131_072, "num_gpus": "1"},
    "graphs kept": {"tokens_per_chunk": 8_192, "retained_graph_tokens": 1_000_000, "num_gpus": "8"},
    "replicated": {"model": LARGE, "tokens_per_chunk": 2048, "num_gpus": "64"},
    "gradients whole": {
        "model": LARGE, "tokens_per_chunk": 2048, "num_gpus": "64", "engine": Parallelism.fsdp2, "gpu": "l40s",
    },
    "too large": {"model": LARGE, "gpu": "l40s", "num_gpus": "1", "tokens_per_chunk": 512},
}  # fmt: skip


def planned(config: PlanConfig, ranks: int) -> RankPlan:
    return plan_rank(config, MODELS, ROW, ranks)


def case(name: str) -> PlanConfig:
    return config_of(**({"batch_size": 8192} | CASES[name]))


def remedies_of(config: PlanConfig) -> list[Remedy]:
    return find_remedies(config, config.ranks[0], planned)


def applied(config: PlanConfig, remedy: Remedy) -> PlanConfig:
    """Does what is said, by the names of the command line."""
    for key, value in remedy.settings.items():
        match key:
            case "engine":
                config = replace(config, engine=Parallelism[value])
            case "sync_every_chunk":
                config = replace(config, sync_every_chunk=value == "true")
            case "model.activation_checkpointing":
                config = replace(config, model=replace(config.model, activation_checkpointing=value == "true"))
            case "model.lora.rank":
                config = replace(config, model=replace(config.model, lora=LoraConfig(rank=int(value))))
            case "gpu" | "num_gpus":
                config = replace(config, **{key: value})
            case _:
                config = replace(config, **{key: int(value)})
    return config


@pytest.mark.parametrize("name", CASES)
def test_every_remedy_fits_and_takes_what_is_said(name: str) -> None:
    """Invariant: planned again with the change, memory and time are the ones said, and nothing is refused."""
    config = case(name)
    assert planned(config, config.ranks[0]).memory.total > GPUS[config.gpu].memory
    remedies = remedies_of(config)
    assert remedies
    for remedy in remedies:
        changed = applied(config, remedy)
        found = planned(changed, changed.ranks[0])
        assert found.memory.total == remedy.total <= GPUS[changed.gpu].memory
        assert found.time.total == pytest.approx(remedy.seconds)
        assert not refuse_split(changed, changed.ranks[0])
    assert [remedy.seconds for remedy in remedies] == sorted(remedy.seconds for remedy in remedies)


def test_checkpointing_and_early_reduction_are_among_them() -> None:
    assert any(
        "model.activation_checkpointing" in remedy.settings for remedy in remedies_of(case("one chunk too large"))
    )
    assert any("sync_every_chunk" in remedy.settings for remedy in remedies_of(case("gradients whole")))


def test_the_suggested_chunk_is_the_largest_that_fits() -> None:
    config = case("one chunk too large")
    smaller = next(remedy for remedy in remedies_of(config) if remedy.settings.keys() == {"tokens_per_chunk"})
    chosen = int(smaller.settings["tokens_per_chunk"])
    assert planned(replace(config, tokens_per_chunk=chosen + 256), 1).memory.total > GPUS["h100"].memory


def test_kept_graphs_are_given_up_before_chunks_are_cut() -> None:
    assert any(remedy.settings.keys() == {"retained_graph_tokens"} for remedy in remedies_of(case("graphs kept")))


def test_nothing_invalid_is_advised() -> None:
    """One rank has no other engine, 12 ranks no whole nodes of 8, and four-bit weights cannot be sharded."""
    alone = remedies_of(case("one chunk too large"))
    assert not any({"engine", "sync_every_chunk"} & remedy.settings.keys() for remedy in alone)
    odd = replace(case("replicated"), num_gpus="12", batch_size=8400)
    assert not any(remedy.settings.get("engine") == "hsdp" for remedy in remedies_of(odd))
    model = ModelConfig("Qwen/Qwen3-0.6B", lora=LoraConfig(rank=16), quantization=Quantization.nf4)
    quantised = replace(case("one chunk too large"), model=model, num_gpus="2")
    assert remedies_of(quantised)
    assert not any("engine" in remedy.settings for remedy in remedies_of(quantised))


def test_adapters_larger_and_more_gpus_only_where_nothing_else_helps() -> None:
    kinds = set().union(*(remedy.settings.keys() for remedy in remedies_of(case("too large"))))
    assert {"model.lora.rank", "gpu"} <= kinds
    others = set().union(*(remedy.settings.keys() for remedy in remedies_of(case("replicated"))))
    assert not {"model.lora.rank", "gpu", "num_gpus"} & others


def test_the_refusal_says_saving_and_time() -> None:
    text = "\n".join(plan(case("one chunk too large"))[0].columns[0].refusals)
    assert re.search(r"needs [\d.]+ GiB a GPU, h100 has 79.1; what fits, fastest first:\n", text)
    assert re.search(r"\n  use tokens_per_chunk=\d+: [\d.]+ GiB \(-[\d.]+\), [\d.]+ x the time of a step", text)
    hopeless = config_of(model=replace(LARGE, lora=LoraConfig(8)), gpu="h200", num_gpus="1", batch_size=2,
                         tokens_per_chunk=10**7, mean_document_tokens=2e6)  # fmt: skip
    assert "no setting, adapter or number of GPUs" in plan(hopeless)[0].columns[0].refusals[0]
