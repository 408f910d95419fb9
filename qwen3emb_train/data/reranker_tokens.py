"""The reranker's prompt in token ids, shared by training, inference and checks.

Prefix, body and suffix are tokenised separately, as in the usage example of Qwen/Qwen3-Reranker; long bodies are
truncated at their end, so the prompt always ends where the answer follows. Nothing is appended.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qwen3emb_train.data.instructions import RERANKER_ANSWERS, RERANKER_PREFIX, RERANKER_SUFFIX, reranker_body
from qwen3emb_train.data.tokenization import ids_without_eos, load_fast_tokenizer, tokenizer_fingerprint

_MIN_BODY = 8  # tokens; with less there is no document to judge


class RerankerTokenizer:
    """A transformers tokenizer that appends nothing, and the ids of the template around a pair.

    Attributes:
        hf: the transformers tokenizer.
        prefix_ids, suffix_ids: before and after the body.
        answer_ids: of yes and no.
        fingerprint: digest of everything that determines the ids of a body.
    """

    def __init__(self, hf: Any) -> None:
        """
        Raises:
            ValueError: an answer is not a single token.
        """
        self.hf = hf
        _append_nothing(hf)
        self.prefix_ids, self.suffix_ids = (self._ids([text])[0] for text in (RERANKER_PREFIX, RERANKER_SUFFIX))
        yes, no = (_answer_id(answer, self._ids([answer])[0]) for answer in RERANKER_ANSWERS)
        self.answer_ids = (yes, no)
        self.fingerprint = tokenizer_fingerprint(hf)

    def tokenize(self, instruction: str, query: str, documents: Sequence[str], max_tokens: int) -> list[list[int]]:
        """The whole prompt of each document.

        Args:
            instruction, query: of the prompts.
            documents: one for each prompt.
            max_tokens: maximum tokens of a prompt, template included.

        Raises:
            ValueError: ``max_tokens`` leaves no room for a body.
        """
        limit = self.max_body_tokens(max_tokens)
        bodies = self._ids([reranker_body(instruction, query, document) for document in documents])
        return [[*self.prefix_ids, *body[:limit], *self.suffix_ids] for body in bodies]

    def max_body_tokens(self, max_tokens: int) -> int:
        """``max_tokens`` minus the template's tokens.

        Raises:
            ValueError: fewer than 8 tokens are left.
        """
        template = len(self.prefix_ids) + len(self.suffix_ids)
        if max_tokens < template + _MIN_BODY:
            raise ValueError(
                f"max_tokens is {max_tokens}, and the reranker's template alone takes {template}: use at least "
                f"{template + _MIN_BODY}, better a few hundred."
            )
        return max_tokens - template

    def save(self, directory: Path) -> None:
        """Writes the tokenizer files."""
        self.hf.save_pretrained(str(directory))

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return ids_without_eos(self.hf.backend_tokenizer, texts)


def load_reranker_tokenizer(path: str, *, trust_remote_code: bool = False) -> RerankerTokenizer:
    """Loads the tokenizer of a model directory or hub name; an appended EOS token is disabled.

    Raises:
        FileNotFoundError: nothing loadable at ``path``.
        ValueError: the tokenizer is not a fast one, or yes and no are not single tokens of it.
    """
    return RerankerTokenizer(load_fast_tokenizer(path, trust_remote_code=trust_remote_code))


def _append_nothing(hf: Any) -> None:
    from tokenizers import processors

    backend = hf.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    if backend.encode("a", add_special_tokens=True).ids != backend.encode("a", add_special_tokens=False).ids:
        backend.post_processor = processors.ByteLevel(trim_offsets=False)
    hf.chat_template = None  # the base's; a reranker's own is written at export


def _answer_id(answer: str, ids: list[int]) -> int:
    if len(ids) != 1:
        raise ValueError(
            f"the answer {answer!r} is {len(ids)} tokens {ids} of this tokenizer; a score needs one token."
        )
    return ids[0]
