"""Settings of a merge: models, method, merge weights."""

from dataclasses import dataclass, field
from enum import Enum

from qwen3emb_train.merging.checkpoints import Selection


class MergeMethod(str, Enum):
    """``slerp``: as in arXiv 2506.05176, section 3.2. ``karcher``: its symmetric form for many
    models. The last three need a base."""

    slerp = "slerp"
    karcher = "karcher"
    linear = "linear"
    ties = "ties"
    dare = "dare"
    dare_ties = "dare_ties"

    @property
    def needs_base(self) -> bool:
        return self in (MergeMethod.ties, MergeMethod.dare, MergeMethod.dare_ties)


class MergeDtype(str, Enum):
    """``same``: each tensor in the dtype of the inputs (the wider one where they differ)."""

    same = "same"
    float32 = "float32"
    bfloat16 = "bfloat16"


@dataclass
class MergeSourceConfig:
    """Models and method: the settings that ``merge`` and ``merge_search`` share.

    Attributes:
        models: model directories (a checkpoint's is ``.../checkpoints/step_000100/model``, an export is one too) or
            LoRA adapter directories, which are merged into their base first.
        run: instead of ``models``: a training run's output directory, whose checkpoints are taken.
        select: which of the run's checkpoints.
        count: how many checkpoints.
        metric: of ``select=lowest`` and ``highest``: a key of the run's metrics.jsonl, averaged since the checkpoint
            before.
        method: how weights are combined.
        base: the model that the others were trained from: for ties and dare, and for adapters whose own record of it
            is no directory here.
        density: weight of each task vector that ties and dare keep.
        scale: factor of the merged task vector (ties and dare).
        seed: decides what dare drops.
        dtype: data type of the stored result; the arithmetic is float32.
        max_shard_bytes: size limit of one weights file, in bytes.
    """

    models: list[str] = field(default_factory=list)
    run: str | None = None
    select: Selection = Selection.evenly
    count: int = 2
    metric: str = "loss"
    method: MergeMethod = MergeMethod.slerp
    base: str | None = None
    density: float = 0.5
    scale: float = 1.0
    seed: int = 0
    dtype: MergeDtype = MergeDtype.same
    max_shard_bytes: int = 5_000_000_000

    def __post_init__(self) -> None:
        if self.models and self.run is not None:
            raise ValueError("models and run are both given: name the models, or the run that they are taken from.")
        if self.run is None and len(self.models) < 2:
            raise ValueError(
                f"models names {len(self.models)} directories {self.models}; a merge takes at least two (or a run=, "
                "whose checkpoints are merged)."
            )
        if self.count < 2:
            raise ValueError(f"count is {self.count}; a merge takes at least two checkpoints.")
        if self.method.needs_base and self.base is None:
            raise ValueError(
                f"method={self.method.value} merges what fine-tuning changed: set base to the model directory that "
                "the others were trained from."
            )
        if not 0.0 < self.density <= 1.0:
            raise ValueError(f"density is {self.density}; use a fraction above 0, up to 1 (nothing is dropped).")
        if self.max_shard_bytes < 1:
            raise ValueError(f"max_shard_bytes is {self.max_shard_bytes}; use a positive number, e.g. 5000000000.")


@dataclass
class MergeConfig(MergeSourceConfig):
    """A merge with given weights. Without t, weights, layer_t and group_t all models have equal weights.

    Attributes:
        weights: one for each model, at any scale; they are normalised to the sum 1.
        t: for two models: position between them, 0 is the first model, 1 the second.
        layer_t: for two models: values of t over the depth, evenly spaced and interpolated: [0.2, 0.8] is 0.2 in the
            first layer and 0.8 in the last. Embeddings take the first value, tensors after the layers the last.
        group_t: for two models: t of the tensors whose name contains a text, e.g. ``group_t.mlp=0.3``; the first entry
            that matches takes precedence over layer_t and t.
        output_dir: the model directory to write.
    """

    weights: list[float] = field(default_factory=list)
    t: float | None = None
    layer_t: list[float] = field(default_factory=list)
    group_t: dict[str, float] = field(default_factory=dict)
    output_dir: str = "???"

    def __post_init__(self) -> None:
        super().__post_init__()
        num_models = len(self.models) if self.run is None else self.count
        positions = {
            "t": [] if self.t is None else [self.t],
            "layer_t": self.layer_t,
            "group_t": list(self.group_t.values()),
        }
        for key, values in positions.items():
            if any(not 0.0 <= t <= 1.0 for t in values):
                raise ValueError(
                    f"{key} is {getattr(self, key)}; use a value from 0 (only the first model) to 1 (only the second)."
                )
            if values and num_models != 2:
                raise ValueError(f"{key} is a position between two models, and there are {num_models}: set weights.")
            if values and self.weights:
                raise ValueError(f"weights and {key} are both given: t says the same as weights [1 - t, t].")
        if self.t is not None and self.layer_t:
            raise ValueError("t and layer_t are both given: layer_t alone says t for every layer.")
        if self.weights and len(self.weights) != num_models:
            raise ValueError(f"weights has {len(self.weights)} values for {num_models} models; give one for each.")
        if self.weights and (min(self.weights) < 0.0 or sum(self.weights) <= 0.0):
            raise ValueError(f"weights is {self.weights}; give values from 0 up, not all of them 0.")
