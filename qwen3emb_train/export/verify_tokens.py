"""Checks of the token ids of a folder under the installed transformers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qwen3emb_train.data.tokenization import TextTokenizer
from qwen3emb_train.export.checks import BrokenPromiseError, Finding

_TRUNCATED = 8


class FolderTokenizer:
    """The tokenizer as AutoTokenizer loads it.

    Attributes:
        hf: the transformers tokenizer.
        texts: samples.
        max_tokens: length limit of the folder.

    Args:
        directory: the folder.
        texts, max_tokens: as above.
    """

    def __init__(self, directory: Path, texts: Sequence[str], max_tokens: int) -> None:
        from transformers import AutoTokenizer

        self.hf: Any = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
        self.texts = list(texts)
        self.max_tokens = max_tokens

    def ids(self, limit: int) -> list[list[int]]:
        return list(self.hf(self.texts, truncation=True, max_length=limit)["input_ids"])

    def eos_token_id(self) -> int:
        """The id that is appended to every text.

        Raises:
            BrokenPromiseError: there is none.
        """
        cut = {"truncation": True, "max_length": self.max_tokens}
        bare = self.hf(self.texts, add_special_tokens=False, **cut)["input_ids"]
        for text, whole, own in zip(self.texts, self.ids(self.max_tokens), bare, strict=True):
            if whole[-1:] == own[-1:] and whole[-len(own) :] == own:
                raise BrokenPromiseError(
                    f"nothing is appended to {text[:40]!r}: its ids end with {whole[-1]}, a token of the text. The "
                    "EOS token is lost: transformers 5 ignores add_eos_token, only tokenizer.json's "
                    "post_processor counts"
                )
        last = {ids[-1] for ids in self.ids(self.max_tokens)}
        if len(last) > 1:
            raise BrokenPromiseError(f"texts end with different ids: {sorted(last)[:5]}")
        return int(last.pop())


def check_eos_token(tokenizer: FolderTokenizer, reference: TextTokenizer | None) -> Finding:
    """Every text ends with the same EOS token, and the ids are those of the reference.

    Raises:
        BrokenPromiseError: they are not.
    """
    eos = tokenizer.eos_token_id()
    if reference is not None:
        ids, wanted = tokenizer.ids(tokenizer.max_tokens), reference.tokenize(tokenizer.texts, tokenizer.max_tokens)
        for text, own, other in zip(tokenizer.texts, ids, wanted, strict=True):
            if own != other:
                raise BrokenPromiseError(f"{text[:40]!r} becomes {own[:8]}..., with the reference {other[:8]}...")
    return Finding(f"{tokenizer.hf.convert_ids_to_tokens(eos)} ({eos}) ends every text")


def check_truncation(tokenizer: FolderTokenizer) -> Finding:
    """A truncated text ends with the EOS token.

    Raises:
        BrokenPromiseError: it does not.
    """
    eos = tokenizer.eos_token_id()
    for limit in (2, _TRUNCATED):
        for text, ids in zip(tokenizer.texts, tokenizer.ids(limit), strict=True):
            if len(ids) > limit or ids[-1] != eos:
                raise BrokenPromiseError(f"cut to {limit} tokens, {text[:40]!r} becomes {ids[-limit:]}")
    return Finding(f"cut to 2 and to {_TRUNCATED} tokens, texts keep it")
