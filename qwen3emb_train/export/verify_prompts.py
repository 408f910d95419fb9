"""Whether what stands before an export's queries is what stood there in training."""

from dataclasses import dataclass
from pathlib import Path

from qwen3emb_train.export.backbone import read_json
from qwen3emb_train.export.checks import BrokenPromiseError, Finding, NotApplicableError
from qwen3emb_train.model_directory import PROMPTS_FILE, Prompts


@dataclass(frozen=True)
class TrainedQueryPrompt:
    """Kept in an export's ``run.json``.

    Attributes:
        prompt: what stood before most queries in training ("": nothing), a reranker's instruction; None: not known.
        is_replaced: whether the export was asked for an instruction, which may be another one.
    """

    prompt: str | None = None
    is_replaced: bool = False


def check_trained_prompt(directory: Path, trained: TrainedQueryPrompt) -> Finding:
    """The folder's prompt "query" is that of training, or was asked for.

    Raises:
        NotApplicableError: it is not known what the model was trained with.
        BrokenPromiseError: another one, which nobody asked for.
    """
    if trained.prompt is None:
        raise NotApplicableError("the model does not say what it was trained with")
    file = directory / PROMPTS_FILE
    own = Prompts.of(read_json(file)) if file.is_file() else None
    query = "" if own is None else own.query
    if query == trained.prompt:
        return Finding(repr(query) if query else "bare queries")
    if trained.is_replaced:
        return Finding(f"differs from training, as asked: {query!r}, trained with {trained.prompt!r}")
    raise BrokenPromiseError(f"{query!r} stands before queries, but the model was trained with {trained.prompt!r}")
