"""What a model can take: token ids with a row in its embedding, texts no longer than its learned positions."""

import re
from typing import Any

from torch import nn

_POSITIONS = re.compile(r"(^|\.)(wpe|position_embeddings|embed_positions)$")


def require_rows_for(tokenizer: Any, backbone: Any, path: str) -> None:
    """Checks that every token of a transformers tokenizer has a row in the embedding.

    Args:
        tokenizer: the transformers tokenizer.
        backbone: the transformers model, adapters or not.
        path: of the model, for the message.

    Raises:
        ValueError: one has none.
    """
    rows = int(backbone.get_input_embeddings().num_embeddings)
    token, number = max(tokenizer.get_vocab().items(), key=lambda item: item[1])
    if number >= rows:
        raise ValueError(
            f"{path}: its tokenizer has token {token!r} with id {number}, but the embedding has {rows} rows. Add rows "
            "with transformers' model.resize_token_embeddings(len(tokenizer)), or use the tokenizer of this model."
        )


def max_learned_positions(backbone: nn.Module) -> int | None:
    """Tokens for which the model has a learned position; None where positions are computed (rotary, ALiBi)."""
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Embedding) and _POSITIONS.search(name):
            # OPT's table begins with unused rows; RoBERTa's positions begin after the padding id.
            after_padding = 0 if module.padding_idx is None else module.padding_idx + 1
            return int(module.num_embeddings - getattr(module, "offset", after_padding))
    return None


def require_positions(backbone: nn.Module, longest: int, setting: str) -> None:
    """Checks that texts fit the learned positions.

    Args:
        backbone: the transformers model.
        longest: tokens of the longest text.
        setting: that limits it, for the message.

    Raises:
        ValueError: they do not.
    """
    limit = max_learned_positions(backbone)
    if limit is not None and longest > limit:
        raise ValueError(
            f"{setting} is {longest}, but the model has learned only {limit} positions. Use at most {limit}."
        )
