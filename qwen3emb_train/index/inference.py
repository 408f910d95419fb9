"""Embeddings of many texts: packed, sorted by length, in batches of a token budget; in one process or several.

For mining, selection, evaluation, search. A vector store (``embed_texts.py``) has processes that write whole shards.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from qwen3emb_train.data.batches import PackedTokens, chunk_by_tokens
from qwen3emb_train.data.prefixes import share_prefixes
from qwen3emb_train.data.tokenization import TextTokenizer, load_tokenizer
from qwen3emb_train.index.processes import ModelProcesses
from qwen3emb_train.models.limits import require_positions, require_rows_for
from qwen3emb_train.models.loading import ModelConfig, load_encoder
from qwen3emb_train.models.precision import Precision, autocast, resolve_device, resolve_precision
from qwen3emb_train.models.text_model import Encoder, truncate_and_normalize

# More exceeds a CPU core's cache and mixes lengths in a grid; half as many tokens per second at 8192.
_CPU_TOKENS = 2048


class TextEncoder:
    """An encoder with its tokenizer, for inference.

    Attributes:
        encoder, tokenizer: the parts.
        max_tokens: maximum tokens of a text, EOS token included; longer ones are truncated.
    """

    def __init__(
        self,
        encoder: Encoder,
        tokenizer: TextTokenizer,
        *,
        max_tokens: int = 512,
        precision: Precision = Precision.auto,
        device: str = "auto",
    ) -> None:
        """
        Args:
            encoder, tokenizer: the parts.
            max_tokens: maximum tokens of a text.
            precision: of matrix products.
            device: "auto" is CUDA where there is one, else the CPU.
        """
        self.device = resolve_device(device)
        self.precision = resolve_precision(precision, self.device)
        self.encoder = encoder.to(self.device).eval()
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens

    @staticmethod
    def load(
        path: str,
        *,
        num_layers: int | None = None,
        max_tokens: int = 512,
        precision: str = "auto",
        device: str = "auto",
    ) -> "TextEncoder":
        """Loads a model.

        Args:
            path: model directory (a checkpoint's ``model/``, a merge, an export) or hub name.
            num_layers: keep only the first layers; None = all.
            max_tokens, precision, device: as in the constructor.
        """
        tokenizer = load_tokenizer(path)
        encoder = load_encoder(ModelConfig(path=path, num_layers=num_layers))
        require_rows_for(tokenizer.hf, encoder.backbone, path)
        require_positions(encoder.backbone, max_tokens, f"{path}: max_tokens")
        if resolve_precision(Precision(precision), resolve_device(device)) is Precision.bf16:
            _round_once(encoder)
        return TextEncoder(encoder, tokenizer, max_tokens=max_tokens, precision=Precision(precision), device=device)

    @property
    def dim(self) -> int:
        return self.encoder.dim

    def encode(
        self, texts: Sequence[str], *, dim: int | None = None, tokens_per_batch: int = 8192
    ) -> Float[Tensor, "texts kept"]:
        """L2-normalised float32 vectors on the CPU, in the order of ``texts``.

        Args:
            texts: to encode.
            dim: Matryoshka dimension (truncated before the norm); None = the full vector.
            tokens_per_batch: tokens encoded at once; at most 2048 on a CPU, which is faster.
        """
        tokens = self.tokenizer.tokenize(texts, self.max_tokens)
        budget = _budget(tokens_per_batch, self.device)
        return _in_batches(tokens, budget, self.dim, dim, lambda batches: enumerate(map(self.raw_vectors, batches)))

    @torch.inference_mode()
    def raw_vectors(self, tokens: list[list[int]]) -> Float[Tensor, "texts dim"]:
        """One batch of tokenised texts, not normalised."""
        packed = PackedTokens.from_lists(tokens)
        if self.encoder.shares_prefixes:
            packed = share_prefixes(packed)
        with autocast(self.precision, self.device):
            return self.encoder(packed.to(self.device)).float().cpu()


class ParallelTextEncoder:
    """``TextEncoder`` in several processes, each with the whole model: on a CPU, or one for each GPU.

    Use it as a context manager, or ``close`` it. The batches are those of one process, so with as many threads per
    process the vectors are identical. Processes are spawned: a script needs its ``if __name__ == "__main__"``.

    Args:
        path, num_layers, max_tokens, precision, device: as in ``TextEncoder.load``. With device "auto" or "cuda"
            process i uses GPU i.
        num_processes: number of processes.
        threads_per_process: None: torch's number divided by the number of processes.

    Raises:
        ValueError: there are fewer GPUs than processes.
    """

    def __init__(
        self,
        path: str,
        *,
        num_processes: int,
        num_layers: int | None = None,
        max_tokens: int = 512,
        precision: str = "auto",
        device: str = "auto",
        threads_per_process: int | None = None,
    ) -> None:
        self.device = resolve_device(device)
        settings = [
            {"path": path, "num_layers": num_layers, "max_tokens": max_tokens, "precision": precision, "device": each}
            for each in _devices(self.device, num_processes)
        ]
        threads = threads_per_process or max(1, torch.get_num_threads() // num_processes)
        self.tokenizer = load_tokenizer(path)
        self.max_tokens = max_tokens
        self._processes = ModelProcesses(_load, _raw_vectors, settings, threads)

    @cached_property
    def dim(self) -> int:
        """Components of a vector."""
        ((_, vector),) = self._processes.run([[[self.tokenizer.eos_token_id]]])
        return int(vector.shape[1])

    def encode(
        self, texts: Sequence[str], *, dim: int | None = None, tokens_per_batch: int = 8192
    ) -> Float[Tensor, "texts kept"]:
        """As ``TextEncoder.encode``.

        Args:
            texts, dim, tokens_per_batch: as there.

        Raises:
            BrokenProcessPool: a process was killed, most likely for lack of memory.
        """
        tokens = self.tokenizer.tokenize(texts, self.max_tokens)
        return _in_batches(tokens, _budget(tokens_per_batch, self.device), self.dim, dim, self._processes.run)

    def close(self) -> None:
        """Ends the processes."""
        self._processes.close()

    def __enter__(self) -> "ParallelTextEncoder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _round_once(encoder: Encoder) -> None:
    """Rounds weights once, not in every batch, and states once, not for each layer that reads them; same results."""
    for module in encoder.modules():
        if isinstance(module, nn.Linear):
            module.to(torch.bfloat16)
        elif hasattr(module, "q_proj") or hasattr(module, "gate_proj"):  # these read through linear layers only
            module.register_forward_pre_hook(_round_states, with_kwargs=True)


def _round_states(
    _: nn.Module, states: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if "hidden_states" in named:
        return states, named | {"hidden_states": named["hidden_states"].to(torch.bfloat16)}
    return (states[0].to(torch.bfloat16), *states[1:]), named


def _budget(tokens_per_batch: int, device: torch.device) -> int:
    return min(tokens_per_batch, _CPU_TOKENS) if device.type == "cpu" else tokens_per_batch


def _in_batches(
    tokens: Sequence[list[int]],
    tokens_per_batch: int,
    width: int,
    dim: int | None,
    run: Callable[[Iterable[list[list[int]]]], Iterator[tuple[int, Any]]],
) -> Float[Tensor, "texts kept"]:
    """Encodes tokenised texts; ``run`` yields each batch's number and raw vectors, in any order."""
    vectors = torch.empty(len(tokens), width)
    chunks = chunk_by_tokens(torch.tensor([len(ids) for ids in tokens], dtype=torch.long), tokens_per_batch)
    for number, raw in run([tokens[i] for i in chosen.tolist()] for chosen in chunks):
        vectors[chunks[number]] = torch.as_tensor(raw)
    return truncate_and_normalize(vectors, dim)


def _devices(device: torch.device, num_processes: int) -> list[str]:
    """One for each process."""
    if device.type != "cuda":
        return [str(device)] * num_processes
    if num_processes > torch.cuda.device_count():
        raise ValueError(f"num_processes={num_processes}: there are {torch.cuda.device_count()} GPUs, one for each.")
    return [f"cuda:{number}" for number in range(num_processes)]


def _load(settings: dict[str, Any]) -> TextEncoder:
    return TextEncoder.load(**settings)


def _raw_vectors(
    encoder: TextEncoder, tokens: list[list[int]], raise_if_stopped: Callable[[], None]
) -> Float[np.ndarray, "texts dim"]:
    raise_if_stopped()
    return encoder.raw_vectors(tokens).numpy()  # an array is sent as bytes, a tensor through a file descriptor
