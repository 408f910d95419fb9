"""Settings of the program ``plan``: those of ``train_embedding``, and the machine."""

import difflib
from dataclasses import dataclass

from qwen3emb_train.planning.gpus import GPUS
from qwen3emb_train.planning.memory import Parallelism
from qwen3emb_train.training.config import TrainEmbeddingConfig


@dataclass
class PlanConfig(TrainEmbeddingConfig):
    """A training configuration and the machine it is to run on.

    Attributes:
        gpu: h100, h200, a100-80, l40s, 4090 or cpu.
        num_gpus: one number or several with commas: each becomes a column: num_gpus=8,64.
        engine: what shards the training state.
        gpus_per_node: within a node the links are fast.
        price_per_gpu_hour: in any currency; null = no cost is shown.
        mean_query_tokens: tokens of a query, for data that is not there yet; null = from a sample of the data, else
            the limit.
        mean_document_tokens: the same for a document.
        mean_negatives: the same for the number of a query's hard negatives.
        sample_rows: rows of each source to read for the means.
        dry_run: also do one step of the real objective on fake ranks, and shard the real shapes without memory.
        json_path: write the plan there, too.
        output_dir: where the run would write; plan itself writes nothing there.
    """

    output_dir: str = "outputs"
    gpu: str = "h100"
    num_gpus: str = "8"
    engine: Parallelism = Parallelism.ddp
    gpus_per_node: int = 8
    price_per_gpu_hour: float | None = None
    mean_query_tokens: float | None = None
    mean_document_tokens: float | None = None
    mean_negatives: float | None = None
    sample_rows: int = 1000
    dry_run: bool = False
    json_path: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gpu not in GPUS:
            close = difflib.get_close_matches(self.gpu, GPUS, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise ValueError(f"gpu is {self.gpu}; known are {', '.join(GPUS)}.{hint}")
        if not self.ranks or min(self.ranks) < 1:
            raise ValueError(f"num_gpus is {self.num_gpus}; give one or several numbers from 1 on, such as 8,64.")
        for name in ("gpus_per_node", "sample_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")

    @property
    def ranks(self) -> list[int]:
        """The numbers in ``num_gpus``; empty if it holds anything else."""
        words = self.num_gpus.strip("[] ").replace(",", " ").split()
        return [int(word) for word in words] if all(word.isdigit() for word in words) else []
