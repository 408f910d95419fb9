"""The released example over again, one prompt at a time, from its description (docs/sources.md) and not from ours."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

PREFIX = (
    "<|im_start|>system\n"
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n"
)
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
WEB_SEARCH = "Given a web search query, retrieve relevant passages that answer the query"


def released_ids(tokenizer: Any, instruction: str, query: str, document: str, max_tokens: int) -> list[int]:
    """Ids as the released example makes them, which truncates a body in the tokenizer and puts prefix and suffix on."""
    prefix = tokenizer.encode(PREFIX, add_special_tokens=False)
    suffix = tokenizer.encode(SUFFIX, add_special_tokens=False)
    pair = "<Instruct>: " + instruction + "\n<Query>: " + query + "\n<Document>: " + document
    body = tokenizer(
        [pair], padding=False, truncation="longest_first", return_attention_mask=False, add_special_tokens=False,
        max_length=max_tokens - len(prefix) - len(suffix),
    )["input_ids"][0]  # fmt: skip
    return prefix + body + suffix


class PlainReranker:
    """transformers' own model in float64, without packing, batches or shared beginnings."""

    def __init__(self, path: Path, max_tokens: int = 8192) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(path)
        self.model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64).eval()
        self.max_tokens = max_tokens

    def score(self, query: str, documents: Sequence[str], instruction: str = WEB_SEARCH) -> list[float]:
        yes, no = (self.tokenizer.convert_tokens_to_ids(answer) for answer in ("yes", "no"))
        scores = []
        for document in documents:
            ids = released_ids(self.tokenizer, instruction, query, document, self.max_tokens)
            with torch.inference_mode():
                logits = self.model(torch.tensor([ids])).logits[0, -1]
            scores.append(float(logits[yes] - logits[no]))
        return scores
