"""Our embedders behind mteb's model interface, and the instruction of each task.

mteb is imported inside functions, because that takes seconds and most programs do not need it.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from qwen3emb_train.index.embedders import Embedder
from qwen3emb_train.models.text_model import truncate_and_normalize

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
    """The instruction of each task, as in the evaluation of Qwen3-Embedding: before queries, and before every text of a
    task without queries and documents (STS, classification, clustering, ...); never before a document.

    Attributes:
        by_task: given by the user, by task name; "": none.
        by_set: of local sets; None is the model's own, as in ``evaluate``.
        default: where neither the user nor mteb gives one. None: mteb's for that kind of task.
        is_bare: the model was trained on bare queries: only the user's instructions stand before its texts.
    """

    by_task: Mapping[str, str] = field(default_factory=dict)
    by_set: Mapping[str, str | None] = field(default_factory=dict)
    default: str | None = None
    is_bare: bool = False

    def of(self, metadata: Any) -> str | None:
        """The instruction of a task (its ``TaskMetadata``); "": none, None: the model's own."""
        name = metadata.name
        if name in self.by_task:
            return self.by_task[name]
        if name in self.by_set:
            return self.by_set[name]
        prompt = metadata.prompt.get("query") if isinstance(metadata.prompt, Mapping) else metadata.prompt
        if prompt and not self.is_bare:
            return str(prompt)
        if self.default is not None:
            return self.default
        if self.is_bare:
            return ""
        from mteb.abstasks.abstask import get_abstask_prompt

        return str(get_abstask_prompt(name))


class MtebModel:
    """mteb's ``EncoderProtocol`` around an ``Embedder``, which is loaded when a first task needs it.

    Attributes:
        mteb_model_meta: name and revision under which mteb stores results.

    Args:
        load: makes the embedder.
        instructions: of the tasks.
        meta: becomes ``mteb_model_meta``.
        dim: components kept of each vector; None = all.
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
        """Vectors of all texts of a data loader, batched by our token budget instead of its batches.

        Args:
            inputs: batches with a list of strings under ``text``.
            task_metadata: of the task, for its instruction.
            hf_split, hf_subset: not used.
            prompt_type: "document" for documents; everything else is encoded as queries.

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
        revision: identifies the contents of the model.
        experiment: settings other than the defaults that change the metrics; mteb stores their results separately.
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
