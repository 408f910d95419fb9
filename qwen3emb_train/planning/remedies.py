"""What to change where memory is short: settings that fit, the fastest first, each with what it saves and costs.

Every remedy is planned like the configuration itself, so none is named that would not fit or cannot be chosen.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product

from qwen3emb_train.models.quantization import Quantization
from qwen3emb_train.planning.config import PlanConfig
from qwen3emb_train.planning.gpus import GIB, GPUS
from qwen3emb_train.planning.load import RankPlan
from qwen3emb_train.planning.memory import Parallelism
from qwen3emb_train.planning.refusals import refuse_split

_CHUNK_GRAIN = 256
_LORA_RANK = 32  # a usual one
_MOST_RANKS = 1024
_SHOWN = 4
_SHARDED = (Parallelism.zero2, Parallelism.zero3, Parallelism.fsdp2, Parallelism.hsdp)
_OTHER_ENGINES = (Parallelism.zero1, Parallelism.zero2, Parallelism.hsdp, Parallelism.fsdp2)

PlanRank = Callable[[PlanConfig, int], RankPlan]
_Other = tuple[dict[str, str], PlanConfig, int]  # what is changed, the configuration, ranks


@dataclass(frozen=True)
class Remedy:
    """A configuration that fits.

    Attributes:
        settings: what differs, by key.
        total: bytes of one GPU.
        seconds: of a step.
    """

    settings: dict[str, str]
    total: int
    seconds: float

    @property
    def words(self) -> str:
        return " ".join(f"{key}={value}" for key, value in self.settings.items())


def remedy_for_memory(config: PlanConfig, ranks: int, plan_rank: PlanRank) -> str:
    """A refusal: what is needed, and what to use instead.

    Args:
        config: the settings, which do not fit.
        ranks: number of ranks.
        plan_rank: plans a configuration on a number of ranks.
    """
    now = plan_rank(config, ranks)
    need = f"needs {now.memory.total / GIB:.1f} GiB a GPU, {config.gpu} has {GPUS[config.gpu].memory / GIB:.1f}"
    found = find_remedies(config, ranks, plan_rank)
    if not found:
        return f"{need}: no setting, adapter or number of GPUs that is known here fits; take a smaller model."
    lines = [
        f"  use {remedy.words}: {remedy.total / GIB:.1f} GiB ({(remedy.total - now.memory.total) / GIB:+.1f}), "
        f"{remedy.seconds / now.time.total:.2f} x the time of a step"
        for remedy in found
    ]
    return "\n".join([f"{need}; what fits, fastest first:", *lines])


def find_remedies(config: PlanConfig, ranks: int, plan_rank: PlanRank) -> list[Remedy]:
    """At most four, the fastest first. Adapters, more or larger GPUs only where nothing else fits.

    Args:
        config, ranks, plan_rank: as in ``remedy_for_memory``.
    """
    found = _without_excess(_same_run(config, ranks, plan_rank))
    for others in () if found else (_adapters(config, ranks), _larger_gpus(config, ranks), _more_gpus(config, ranks)):
        for settings, changed, number in others:
            if remedies := _same_run(changed, number, plan_rank):
                simplest = min(remedies, key=lambda remedy: (len(remedy.settings), remedy.seconds))
                found.append(replace(simplest, settings={**settings, **simplest.settings}))
                break  # the smallest of its kind
    return sorted(found, key=lambda remedy: remedy.seconds)[:_SHOWN]


def _same_run(config: PlanConfig, ranks: int, plan_rank: PlanRank) -> list[Remedy]:
    """Every choice of engine, reduction and checkpointing, each with the largest chunks that fit; same gradients."""
    found = []
    is_checkpointing = config.model.activation_checkpointing
    for engine, checkpoints in product(_engines(config, ranks), dict.fromkeys((is_checkpointing, True))):
        syncs = (False, True) if ranks > 1 and engine in _SHARDED else (False,)
        for sync in dict.fromkeys((config.sync_every_chunk, *syncs)):
            model = replace(config.model, activation_checkpointing=checkpoints)
            changed = replace(config, engine=engine, sync_every_chunk=sync, model=model)
            settings = {
                **({} if engine is config.engine else {"engine": engine.value}),
                **({} if sync is config.sync_every_chunk else {"sync_every_chunk": str(sync).lower()}),
                **({} if checkpoints is is_checkpointing else {"model.activation_checkpointing": "true"}),
            }
            if (remedy := _largest_chunks(changed, settings, ranks, plan_rank)) is not None:
                found.append(remedy)
    return found


def _engines(config: PlanConfig, ranks: int) -> Iterator[Parallelism]:
    yield config.engine
    if ranks == 1 or config.model.quantization is not Quantization.none:
        return
    for engine in _OTHER_ENGINES:
        nodes, rest = divmod(ranks, config.gpus_per_node)
        if engine is not config.engine and (engine is not Parallelism.hsdp or (nodes > 1 and not rest)):
            yield engine


def _largest_chunks(config: PlanConfig, settings: dict[str, str], ranks: int, plan_rank: PlanRank) -> Remedy | None:
    """Fewer kept graphs where that is enough, else none and smaller chunks; None where nothing fits."""
    memory = GPUS[config.gpu].memory

    def with_kept(chunks: int) -> PlanConfig:
        return replace(
            config, retained_graph_tokens=min(chunks * config.tokens_per_chunk, config.retained_graph_tokens)
        )

    def with_chunks(grains: int) -> PlanConfig:
        tokens = min(grains * _CHUNK_GRAIN, config.tokens_per_chunk)
        return replace(config, tokens_per_chunk=tokens, retained_graph_tokens=0)

    def remedy(changed: PlanConfig) -> Remedy | None:
        planned = plan_rank(changed, ranks)
        names = ("tokens_per_chunk", "retained_graph_tokens")
        own = {name: str(getattr(changed, name)) for name in names if getattr(changed, name) != getattr(config, name)}
        fits = planned.memory.total <= memory
        return Remedy({**settings, **own}, planned.memory.total, planned.time.total) if fits else None

    if (unchanged := remedy(config)) is not None:
        return unchanged
    if config.retained_graph_tokens:
        most = math.ceil(
            min(config.retained_graph_tokens, plan_rank(config, ranks).load.tokens) / config.tokens_per_chunk
        )
        if (fewer := _largest(0, most - 1, lambda chunks: remedy(with_kept(chunks)))) is not None:
            return fewer
    longest = max(config.lengths.max_query_tokens, config.lengths.max_document_tokens)
    smallest = math.ceil(min(longest, config.tokens_per_chunk) / _CHUNK_GRAIN)
    return _largest(smallest, math.ceil(config.tokens_per_chunk / _CHUNK_GRAIN) - 1, lambda g: remedy(with_chunks(g)))


def _largest(low: int, high: int, remedy: Callable[[int], Remedy | None]) -> Remedy | None:
    """Of the largest number within the limits that fits."""
    if low > high or (best := remedy(low)) is None:
        return None
    while low < high:
        middle = (low + high + 1) // 2
        if (found := remedy(middle)) is not None:
            low, best = middle, found
        else:
            high = middle - 1
    return best


def _adapters(config: PlanConfig, ranks: int) -> Iterator[_Other]:
    if config.model.lora.rank == 0:
        lora = replace(config.model.lora, rank=_LORA_RANK)
        yield {"model.lora.rank": str(_LORA_RANK)}, replace(config, model=replace(config.model, lora=lora)), ranks


def _larger_gpus(config: PlanConfig, ranks: int) -> Iterator[_Other]:
    for name, gpu in sorted(GPUS.items(), key=lambda item: item[1].memory):
        if gpu.memory > GPUS[config.gpu].memory:
            yield {"gpu": name}, replace(config, gpu=name), ranks


def _more_gpus(config: PlanConfig, ranks: int) -> Iterator[_Other]:
    number = 2 * ranks
    while number <= _MOST_RANKS:
        if not refuse_split(config, number):
            yield {"num_gpus": str(number)}, replace(config, num_gpus=str(number)), number
        number *= 2


def _without_excess(remedies: list[Remedy]) -> list[Remedy]:
    """Without those that change more than another one and are not faster."""
    return [
        remedy
        for remedy in remedies
        if not any(
            other.settings.keys() < remedy.settings.keys() and other.seconds <= remedy.seconds for other in remedies
        )
    ]
