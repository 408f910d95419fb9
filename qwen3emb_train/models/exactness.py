"""How a loaded model may read several texts at once: packed, padded, or not at all, found by trying.

Packing replaces a model's attention function and nothing else. State-space and convolution layers, position ids counted
inside the model, and attention that adds to the logits (ALiBi) then leak from one text into the next or lose a term,
without an error. So each loaded model encodes three short texts in both ways, and what transformers itself gives for
each text alone decides.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from qwen3emb_train.data.batches import PackedTokens
from qwen3emb_train.distributed import is_main_process
from qwen3emb_train.models.packing import PACKED, PackedLayout
from qwen3emb_train.models.quantization import is_quantized
from qwen3emb_train.models.text_model import pad

_LENGTHS = (7, 11, 5)  # of the probe texts, in tokens
_REACH = 4  # tokens: windows and chunks while probing, so that short texts exceed them
_REACHES = ("sliding_window", "attention_chunk_size", "local_attention", "floor_scale")
_TOLERANCE = 1e-3  # relative, in float32; what leaks is above 1e-2
_TOLERANCE_4_BIT = 0.05  # products of a 4-bit base run in bf16


def settle_attention(backbone: Any, path: str, *, want_packed: bool) -> None:
    """Leaves ``backbone`` with the attention it is exact with: packed where wanted and exact, else transformers' own.

    Call it on the CPU with the final weights, before adapters are added and before anything is sharded.

    Args:
        backbone: as transformers loaded it, in evaluation mode.
        path: of the model, for messages.
        want_packed: whether packing is asked for (``model.attention=packed``).

    Raises:
        ValueError: neither way gives the vectors that transformers gives for single texts.
    """
    kind, native = backbone.config.model_type, backbone.config._attn_implementation
    if getattr(backbone.config, "is_encoder_decoder", False):
        raise ValueError(
            f"model.path {path}: {kind} is an encoder-decoder. Use a model that reads one sequence (a decoder such as "
            "Qwen3, Llama, Gemma)."
        )
    with _probing(backbone):
        try:
            alone = _alone(backbone)
        except Exception as error:
            raise ValueError(
                f"model.path {path}: transformers cannot run this {kind} model ({_line(error)})."
            ) from error
        why = ""
        if want_packed:
            why = _difference(backbone, alone, _packed)
            if not why:
                return
            backbone.config._attn_implementation_internal = native
        problem = _difference(backbone, alone, _padded)
    if problem:
        how = f"packed: {why}; padded: {problem}" if why else f"padded: {problem}"
        raise ValueError(
            f"model.path {path}: {kind} gives other vectors for several texts at once than for each alone ({how}). "
            "Use another model."
        )
    if why and is_main_process():
        message = f"{path}: packing is not exact for {kind} ({why}); model.attention=padded is used, which is."
        print(message, file=sys.stderr, flush=True)


def _texts(backbone: Any) -> list[Tensor]:
    """Ids from the middle of the vocabulary, where no special tokens are."""
    rows = backbone.get_input_embeddings().num_embeddings
    ids = rows // 4 + torch.arange(sum(_LENGTHS)) * 7 % max(1, rows // 2)
    return list(ids.split(_LENGTHS))


@torch.no_grad()
def _alone(backbone: Any) -> Float[Tensor, "tokens hidden"]:
    """transformers' own states of every token, text by text."""
    texts = [ids.unsqueeze(0) for ids in _texts(backbone)]
    return torch.cat([_states(backbone, input_ids=ids, attention_mask=torch.ones_like(ids))[0] for ids in texts])


def _packed(backbone: Any) -> Float[Tensor, "tokens hidden"]:
    backbone.set_attn_implementation(PACKED)
    if backbone.config._attn_implementation != PACKED:
        raise ValueError("its attention function cannot be replaced")
    tokens = PackedTokens.from_lists([ids.tolist() for ids in _texts(backbone)])
    return _states(
        backbone,
        input_ids=tokens.input_ids.unsqueeze(0),
        position_ids=tokens.position_ids.unsqueeze(0),
        attention_mask=None,
        layout=PackedLayout.of(tokens),
    )[0]


def _padded(backbone: Any) -> Float[Tensor, "tokens hidden"]:
    input_ids, mask = pad(PackedTokens.from_lists([ids.tolist() for ids in _texts(backbone)]))
    return _states(backbone, input_ids=input_ids, attention_mask=mask)[mask.bool()]


def _states(backbone: Any, **inputs: Any) -> Tensor:
    return backbone(**inputs, use_cache=False).last_hidden_state.float()


@torch.no_grad()
def _difference(
    backbone: Any, alone: Float[Tensor, "tokens hidden"], encode: Callable[[Any], Float[Tensor, "tokens hidden"]]
) -> str:
    """What is wrong with this way, in a few words; "" where it is exact.

    Whatever a foreign model raises here means that it cannot be run this way, hence the broad ``except``.
    """
    try:
        found = encode(backbone)
    except Exception as error:
        return _line(error)
    largest = float(((found - alone).norm(dim=1) / alone.norm(dim=1)).nan_to_num(torch.inf).max())
    tolerance = _TOLERANCE_4_BIT if any(map(is_quantized, backbone.modules())) else _TOLERANCE
    return "" if largest <= tolerance else f"states differ by {100 * largest:.1f} %"


def _line(error: Exception) -> str:
    first = (str(error).strip().splitlines() or [""])[0][:120]
    return first if type(error) is ValueError and first else f"{type(error).__name__}: {first}"


@contextmanager
def _probing(backbone: Any) -> Iterator[None]:
    """Short windows meanwhile; transformers' warnings hidden."""
    from transformers.utils import logging

    changed: list[tuple[Any, str, Any]] = []
    for holder in (backbone.config, *backbone.modules()):
        for name in _REACHES:
            value = getattr(holder, name, None)
            if isinstance(value, int | float) and value > _REACH:
                changed.append((holder, name, value))
                setattr(holder, name, _REACH)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        for holder, name, value in changed:
            setattr(holder, name, value)
        for module in backbone.modules():
            if is_quantized(module):
                module.state_dict()  # bitsandbytes repacked it for the CPU; this restores the order that GPUs read
