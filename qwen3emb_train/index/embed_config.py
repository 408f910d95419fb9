"""Settings of encoding and of vector stores."""

from dataclasses import dataclass, fields
from enum import Enum

from qwen3emb_train.data.instructions import refuse_template
from qwen3emb_train.index.vector_bytes import VectorType
from qwen3emb_train.models.precision import Precision


class TextRole(str, Enum):
    """Documents have no instruction, queries do."""

    document = "document"
    query = "query"


@dataclass
class EncodingConfig:
    """How a program's texts become vectors; programs that encode inherit these keys.

    Attributes:
        max_tokens: longest text, EOS token included.
        num_layers: use only the first layers of the model; null = all.
        precision: precision of the matrix products that encode.
        tokens_per_batch: tokens encoded at once by our encoder.
        texts_per_batch: texts or pairs encoded at once by Sentence-Transformers.
        num_processes: processes on this machine's CPU, each with the whole model. For GPUs start one rank each, with
            ``accelerate launch``.
        overwrite: replace vectors that were made of other texts or by another model; else they are refused.
    """

    max_tokens: int = 512
    num_layers: int | None = None
    precision: Precision = Precision.auto
    tokens_per_batch: int = 8192
    texts_per_batch: int = 32
    num_processes: int = 1
    overwrite: bool = False


@dataclass
class EmbedConfig(EncodingConfig):
    """How texts become a vector store.

    Attributes:
        role: what the texts are.
        instruction: of ``role=query``; null = the model's own, "" = none.
        dim: Matryoshka dimension; null = the full vector.
        dtype: data type of the stored vectors.
        rows_per_shard: texts encoded between two points from which a killed run continues.
        threads_per_process: threads of each process; null = torch's own number, shared out among the processes. Vectors
            do not depend on the number of processes; on this number they may, in the last bits.
        verify: read every byte of the shards that are there already and compare it with what was written.
    """

    role: TextRole = TextRole.document
    instruction: str | None = None
    dim: int | None = None
    dtype: VectorType = VectorType.float32
    rows_per_shard: int = 16_384
    threads_per_process: int | None = None
    verify: bool = False

    def __post_init__(self) -> None:
        for name in ("dim", "rows_per_shard", "tokens_per_batch", "texts_per_batch", "num_processes", "num_layers",
                     "threads_per_process"):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: must be at least 1.")
        if self.max_tokens < 2:
            raise ValueError(f"max_tokens={self.max_tokens}: a text needs one token and the EOS token (>= 2).")
        if self.instruction and self.role is TextRole.document:
            raise ValueError(
                f"instruction={self.instruction!r}: documents carry none. Set role=query, or leave it out."
            )
        refuse_template("instruction", self.instruction)


def embed_config(encoding: EncodingConfig, role: TextRole, instruction: str | None = None) -> EmbedConfig:
    """The ``EmbedConfig`` of a program's encoding settings.

    Args:
        encoding: any configuration that inherits ``EncodingConfig``.
        role: what the texts are.
        instruction: of queries; None: the model's own; "": none.
    """
    settings = {field.name: getattr(encoding, field.name) for field in fields(EncodingConfig)}
    return EmbedConfig(role=role, instruction=instruction, **settings)
