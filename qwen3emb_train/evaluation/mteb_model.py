"""Our embedders as mteb wants a model, and which instruction a task's texts carry.

mteb is imported where it is used: that costs seconds, and no other program needs it.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from qwen3emb_train.index.embedders import Embedder
from qwen3emb_train.models.pooling import truncate_and_normalize

_INSTALL = "evaluate_mteb needs mteb: pip install 'qwen3emb-train[eval]'."


def import_mteb() -> Any:
    """The package.

    Raises:
        ImportError: it is not installed; the message says how to install it.
    """
    try:
        import mteb
    except ImportError as error:
        raise ImportError(f"{_INSTALL} ({error})") from None
    return mteb


@dataclass(frozen=True)
class Instructions:
    """What stands before a task's texts, as in Qwen3-Embedding's own evaluation: before queries, and before every text
    of a task that has no queries and documents (STS, classification, clustering, ...); never before a document.

    Attributes:
        by_task: the user's, by task name; "": none.
        by_set: of local sets, whose instruction None is the model's own, as in ``evaluate``.
        default: of tasks that neither the user nor mteb gives one. None: mteb's sentence for that kind of task.
    """

    by_task: Mapping[str, str] = field(default_factory=dict)
    by_set: Mapping[str, str | None] = field(default_factory=dict)
    default: str | None = None

    def of(self, metadata: Any) -> str | None:
        """The instruction of a task (its ``TaskMetadata``); "": none, None: the model's own."""
        name = metadata.name
        if name in self.by_task:
            return self.by_task[name]
        if name in self.by_set:
            return self.by_set[name]
        prompt = metadata.prompt.get("query") if isinstance(metadata.prompt, Mapping) else metadata.prompt
        if prompt:
            return str(prompt)
        if self.default is not None:
            return self.default
        from mteb.abstasks.abstask import get_abstask_prompt

        return str(get_abstask_prompt(name))


class MtebModel:
    """mteb's ``EncoderProtocol`` around an ``Embedder``, which is loaded when a first task needs it.

    Attributes:
        mteb_model_meta: what mteb files the results under.
    """

    def __init__(
        self, load: Callable[[], Embedder], instructions: Instructions, meta: Any, dim: int | None = None
    ) -> None:
        self.mteb_model_meta = meta
        self._load, self._instructions, self._dim = load, instructions, dim
        self._embedder: Embedder | None = None

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **_: Any,
    ) -> Float[np.ndarray, "texts dim"]:
        """Vectors of all texts of a data loader: packed by our token budget, whatever its batches are.

        Raises:
            ValueError: a vector is not finite.
        """
        self._embedder = self._embedder or self._load()
        texts = [text for batch in inputs for text in batch["text"]]
        if prompt_type == "document":
            vectors = self._embedder.encode_documents(texts)
        else:
            vectors = self._embedder.encode_queries(texts, self._instructions.of(task_metadata))
        if not torch.isfinite(vectors).all():
            raise ValueError(
                f"the model gives vectors with NaN or infinity on {task_metadata.name}. Try precision=fp32."
            )
        return truncate_and_normalize(vectors, self._dim).numpy()

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Cosines of all pairs."""
        from mteb.similarity_functions import cos_sim

        return cos_sim(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Cosines row by row."""
        from mteb.similarity_functions import pairwise_cos_sim

        return pairwise_cos_sim(embeddings1, embeddings2)


def build_meta(name: str, revision: str, experiment: Mapping[str, Any]) -> Any:
    """mteb's ``ModelMeta``.

    Args:
        name: "organisation/model".
        revision: tells this model's contents from any other's.
        experiment: settings that change the figures and are not the defaults: mteb keeps their results apart.
    """
    from mteb.models.model_meta import ModelMeta, ScoringFunction

    return ModelMeta.create_empty(
        {
            "name": name,
            "revision": revision,
            "framework": ["PyTorch"],
            "similarity_fn_name": ScoringFunction.COSINE,
            "use_instructions": True,
            "open_weights": True,
            "experiment_kwargs": dict(experiment) or None,
        }
    )
