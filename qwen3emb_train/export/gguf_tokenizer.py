"""Converts a byte-level BPE tokenizer for llama.cpp: tokens, token types, merges, name of the pre-tokenizer."""

import json
from dataclasses import dataclass
from typing import Any

from qwen3emb_train.data.tokenization import TextTokenizer

# Regular expressions of pre-tokenizers are part of llama.cpp; a file only names one.
_QWEN2_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class GgufVocabulary:
    """Values of the ``tokenizer.ggml.*`` keys.

    Attributes:
        tokens: text of every id, in the byte alphabet of GPT-2; as many as the embedding has rows.
        token_types: kind of every id (gguf.TokenType).
        merges: "left right", best first.
        pre_tokenizer: its name in llama.cpp.
    """

    tokens: list[str]
    token_types: list[int]
    merges: list[str]
    pre_tokenizer: str


def gguf_vocabulary(tokenizer: TextTokenizer, num_rows: int) -> GgufVocabulary:
    """The vocabulary, filled up to ``num_rows`` rows of the embedding.

    Raises:
        ValueError: llama.cpp does not support the tokenizer.
    """
    from gguf import TokenType

    stored = json.loads(tokenizer.hf.backend_tokenizer.to_str())
    model = stored["model"]
    if model["type"] != "BPE" or model.get("byte_fallback") or model.get("ignore_merges"):
        raise ValueError(f"the tokenizer is no plain byte-level BPE (its model is {model['type']}); GGUF needs one.")
    tokens = [f"[UNUSED{row}]" for row in range(num_rows)]  # rows that only pad the embedding
    kinds = [int(TokenType.UNUSED)] * num_rows
    for token, row in model["vocab"].items():
        tokens[row], kinds[row] = token, int(TokenType.NORMAL)
    for added in stored["added_tokens"]:
        kind = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
        tokens[added["id"]], kinds[added["id"]] = added["content"], int(kind)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return GgufVocabulary(tokens, kinds, merges, pre_tokenizer_name(stored["pre_tokenizer"]))


def pre_tokenizer_name(pre_tokenizer: dict[str, Any] | None) -> str:
    """llama.cpp's name of a pre-tokenizer, given as in tokenizer.json.

    Raises:
        ValueError: its name is not known.
    """
    parts: list[dict[str, Any]] = (pre_tokenizer or {}).get("pretokenizers") or (
        [pre_tokenizer] if pre_tokenizer else []
    )
    kinds = [part["type"] for part in parts]
    *before, last = parts or [{"type": None}]
    if last["type"] == "ByteLevel" and not last["add_prefix_space"]:
        if kinds == ["ByteLevel"] and last["use_regex"]:
            return "gpt-2"
        if kinds == ["Digits", "ByteLevel"] and before[0]["individual_digits"] and last["use_regex"]:
            return "smollm"
        if kinds == ["Split", "ByteLevel"] and before[0]["pattern"] == {"Regex": _QWEN2_REGEX}:
            return "qwen2"
    raise ValueError(
        f"llama.cpp's name for the pre-tokenizer {json.dumps(pre_tokenizer)[:300]} is not known here; known are those "
        "of Qwen2/Qwen3, SmolLM and GPT-2."
    )
