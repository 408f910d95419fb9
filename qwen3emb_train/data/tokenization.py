"""Texts to token ids that always end with the EOS token.

The vector of a text is the last layer's state at one appended token. Qwen3-Embedding appends ``<|endoftext|>`` (151643)
although the tokenizer's ``eos_token`` is ``<|im_end|>`` (151645); since transformers 5 an ``add_eos_token`` flag is
ignored and only the post-processor inside ``tokenizer.json`` counts (mteb issue 5237). So the EOS token is *looked up
in, or written into, that post-processor*, and not taken from ``eos_token`` by default. Truncation never removes the EOS
token, and no mask is ever derived from a pad id (pad == EOS here).
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qwen3emb_train.model_directory import reading_model, shard_names
from qwen3emb_train.texts.words import hash64

# The end-of-text token of the families that pool on it, in order of preference, before the tokenizer's eos_token.
_END_OF_TEXT = "<|endoftext|>"


class TextTokenizer:
    """A transformers tokenizer whose post-processor appends exactly one EOS token.

    What it puts in front of a text (the BOS of Llama, Mistral, Gemma) stays: the model was pretrained with it.

    Attributes:
        hf: the transformers tokenizer; ``hf(text)`` ends with the EOS token.
        eos_token, eos_token_id: the appended token.
        bos_ids: what stands before every text; mostly nothing.
    """

    def __init__(self, hf: Any, eos_token: str | None = None) -> None:
        self.hf = hf
        self.eos_token = eos_token or _eos_token_of(hf)
        self.eos_token_id = _token_id(hf, self.eos_token)
        self.bos_ids, appended = _added_ids(hf)
        if appended != self.eos_token_id:
            _append_in_post_processor(hf, self.bos_ids, self.eos_token, self.eos_token_id)
        self.fingerprint = tokenizer_fingerprint(hf)

    def tokenize(self, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
        """Ids of each text, at most ``max_tokens`` of them, the last one always the EOS token.

        Raises:
            ValueError: ``max_tokens`` leaves no room for a token of the text.
        """
        limit = self.max_text_tokens(max_tokens)
        return [[*self.bos_ids, *ids[:limit], self.eos_token_id] for ids in self.tokenize_without_eos(texts)]

    def max_text_tokens(self, max_tokens: int) -> int:
        """``max_tokens`` minus the EOS token and what stands before a text.

        Raises:
            ValueError: nothing is left.
        """
        added = len(self.bos_ids) + 1
        if max_tokens <= added:
            kinds = "the EOS token" if added == 1 else "the tokenizer's BOS and EOS tokens"
            raise ValueError(
                f"max_tokens is {max_tokens}: a text needs at least one token and {kinds} (>= {added + 1})."
            )
        return max_tokens - added

    def tokenize_without_eos(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, untruncated and without special tokens (an empty text gives an empty list)."""
        return ids_without_eos(self.hf.backend_tokenizer, texts)

    def save(self, directory: Path) -> None:
        """Writes the tokenizer files, the EOS token inside the post-processor, no truncation or padding state."""
        self.hf.backend_tokenizer.no_truncation()
        self.hf.backend_tokenizer.no_padding()
        self.hf.save_pretrained(str(directory))


def ids_without_eos(backend: Any, texts: Sequence[str]) -> list[list[int]]:
    """``TextTokenizer.tokenize_without_eos`` of its bare ``tokenizers.Tokenizer``."""
    if not texts:
        return []
    return [encoding.ids for encoding in backend.encode_batch_fast(list(texts), add_special_tokens=False)]


def text_hash(text: str) -> int:
    """A 63-bit hash of the characters, the same on every machine."""
    return hash64(text) >> 1


def load_tokenizer(path: str, eos_token: str | None = None, *, trust_remote_code: bool = False) -> TextTokenizer:
    """Loads the tokenizer of a model directory or hub name.

    Args:
        path: the directory or name.
        eos_token: the token to append. None: the one the tokenizer appends already, else ``<|endoftext|>`` if the
            vocabulary has it, else the tokenizer's ``eos_token``.
        trust_remote_code: run Python that comes with the model.

    Raises:
        FileNotFoundError: nothing loadable at ``path``.
        ValueError: the tokenizer is not a fast one, or lacks the EOS token.
    """
    return TextTokenizer(load_fast_tokenizer(path, trust_remote_code=trust_remote_code), eos_token)


def load_fast_tokenizer(path: str, *, trust_remote_code: bool = False) -> Any:
    """The transformers tokenizer of a model directory or hub name.

    Raises:
        FileNotFoundError: nothing loadable at ``path``.
        ValueError: the tokenizer is not a fast one, or gives different texts the same ids.
    """
    from transformers import AutoTokenizer

    refuse_missing_directory(path)
    try:
        with reading_model(path):
            hf = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        told = str(error).strip().split("\n")[0]
        raise FileNotFoundError(f"{path}: no tokenizer can be loaded from there ({told}).") from error
    if not getattr(hf, "is_fast", False):
        raise ValueError(
            f"{path}: its tokenizer has no tokenizer.json (a fast tokenizer), which packing and export need."
        )
    hf.backend_tokenizer.no_truncation()  # a saved truncation length would silently apply to every text
    hf.backend_tokenizer.no_padding()
    _require_vocabulary(hf, path)
    return hf


def _require_vocabulary(hf: Any, path: str) -> None:
    """transformers makes an empty tokenizer, without an error, where a directory has no tokenizer files."""
    different = ("Boil the eggs.", "重力", "a b c 1 2 3")
    if len({tuple(ids) for ids in ids_without_eos(hf.backend_tokenizer, different)}) < len(different):
        raise ValueError(
            f"{path}: its tokenizer ({len(hf.get_vocab())} tokens) gives different texts the same ids. Copy the "
            "tokenizer files (tokenizer.json, tokenizer_config.json) of the model it was trained from into it."
        )


def refuse_missing_directory(path: str) -> None:
    """Refuses a mistyped local path, which would otherwise be looked up as a hub name for a minute.

    Raises:
        FileNotFoundError: ``path`` can only be a local directory, and does not exist.
        ValueError: its weight index names files elsewhere, which transformers would read.
    """
    looks_local = path.startswith((".", "/", "~", "outputs/", "exports/")) or path.count("/") > 1
    if looks_local and not Path(path).is_dir():
        raise FileNotFoundError(f"model {path}: no such directory. Run the stage that writes it, or correct the path.")
    for index in sorted(Path(path).glob("*.index.json")):
        shard_names(index)


def _eos_token_of(hf: Any) -> str:
    _, appended = _added_ids(hf)
    if appended is not None:
        token: str = hf.convert_ids_to_tokens(appended)
        return token
    if _END_OF_TEXT in hf.get_vocab():
        return _END_OF_TEXT
    if hf.eos_token is None:
        raise ValueError("The tokenizer appends no token, has no <|endoftext|> and no eos_token: set model.eos_token.")
    return str(hf.eos_token)


def _token_id(hf: Any, token: str) -> int:
    vocabulary = hf.get_vocab()
    if token not in vocabulary:
        raise ValueError(
            f"eos_token {token!r} is not in the tokenizer's vocabulary. Choose one of {hf.all_special_tokens}."
        )
    return int(vocabulary[token])


def _added_ids(hf: Any) -> tuple[tuple[int, ...], int | None]:
    """What the post-processor puts before a text, and the single token after it; None if it appends nothing.

    Raises:
        ValueError: it appends several tokens.
    """
    backend = hf.backend_tokenizer
    bare = backend.encode("a", add_special_tokens=False).ids
    whole = backend.encode("a", add_special_tokens=True).ids
    for before in range(len(whole) - len(bare) + 1):
        after = whole[before + len(bare) :]
        if whole[before : before + len(bare)] == bare and len(after) <= 1:
            return tuple(whole[:before]), (int(after[0]) if after else None)
    raise ValueError(
        f"The tokenizer turns 'a' into {whole}, without special tokens {bare}: tokens before a text and one after it "
        "are supported. Remove the others from tokenizer.json's post_processor."
    )


def _append_in_post_processor(hf: Any, bos_ids: tuple[int, ...], token: str, token_id: int) -> None:
    """Appends ``token`` by a TemplateProcessing after the existing post-processor's ByteLevel (Qwen3), if any."""
    from tokenizers import processors

    backend = hf.backend_tokenizer
    before = [str(one) for one in hf.convert_ids_to_tokens(list(bos_ids))]
    template = processors.TemplateProcessing(
        single=[*before, "$A", token],
        pair=[*before, "$A", token, *(f"{one}:1" for one in before), "$B:1", f"{token}:1"],
        special_tokens=[*zip(before, bos_ids, strict=True), (token, token_id)],
    )
    existing = json.loads(backend.to_str())["post_processor"]
    keep_byte_level = existing is not None and "ByteLevel" in json.dumps(existing)
    byte_level = processors.ByteLevel(trim_offsets=False)
    backend.post_processor = processors.Sequence([byte_level, template]) if keep_byte_level else template
    if _added_ids(hf) != (bos_ids, token_id):
        raise AssertionError("the post-processor was written but does not append the EOS token")


def tokenizer_fingerprint(hf: Any) -> str:
    """Digest of everything that determines the ids: the whole tokenizer.json (without per-call state)."""
    return hashlib.sha256(hf.backend_tokenizer.to_str().encode()).hexdigest()
