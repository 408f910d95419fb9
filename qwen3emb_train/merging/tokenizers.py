"""Whether models give the same texts the same ids, and whose tokenizer a merge carries on.

Files may differ where ids do not: transformers writes the tokenizer of a published model in other words, and training
writes the EOS token into it. So vocabulary and merges are compared as such, and the rest by the ids of probe texts.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from qwen3emb_train.data.tokenization import load_tokenizer

_PER_CALL_STATE = ("truncation", "padding")
_NUM_VOCABULARY_PROBES = 2000
_PROBES = (
    "Boil the eggs for 7 minutes, don't stir!", "  two  spaces\tand a tab\n\n  a line\r\n", "", " ", "A" * 40,
    "def f(x_1): return {'a': [1, 22, 333, 4444, 1234567.89]}  # done", "I'LL say WE'RE late; they'd x's",
    "Grüße aus Köln: „naïve“ cafe\u0301 café ﬁ ½ ①", "重力は物体を引く。北京是中国的首都。한국어 문장",
    "Сила тяжести שלום مرحبا हिन्दी ไทย", "👩‍👩‍👧 🏳️‍🌈 \u200b\u00a0\ufeff", "http://example.org/a?b=c&d=%20#e",
)  # fmt: skip


def require_same_ids(first: Path, second: Path) -> None:
    """Checks that the tokenizers of two directories give every text the same ids.

    Raises:
        FileNotFoundError: a tokenizer.json is missing.
        ValueError: they do not; names a section of the file, or a text.
    """
    files = [_read(directory) for directory in (first, second)]
    sections = sorted({*files[0], *files[1]} - set(_PER_CALL_STATE))
    different = [name for name in sections if files[0].get(name) != files[1].get(name)]
    if not different:
        return
    advice = "Merge models trained with one tokenizer (a post_processor alone: save both with the same EOS token)."
    if _pieces(files[0]) != _pieces(files[1]):
        raise ValueError(
            f"{first} and {second}: their tokenizer.json differ in {different}, so the same text gives other ids"
            f"{_vocabulary_difference(*files)}. {advice}"
        )
    added = [_added(directory) for directory in (first, second)]
    if added[0] != added[1]:
        raise ValueError(
            f"{first} and {second}: training puts {added[0]} and {added[1]} before and after a text (tokenizer.json: "
            f"{different}). {advice}"
        )
    ours, theirs = (Tokenizer.from_file(str(directory / "tokenizer.json")) for directory in (first, second))
    for text in _probe_texts(ours, files):
        ids = [tokenizer.encode(text, add_special_tokens=False).ids for tokenizer in (ours, theirs)]
        if ids[0] != ids[1]:
            raise ValueError(
                f"{first} and {second}: their tokenizer.json differ in {different}; {text!r:.60} gets the ids "
                f"{ids[0][:8]} and {ids[1][:8]}. {advice}"
            )


def carried_tokenizer(directories: Sequence[Path]) -> Path:
    """The first directory whose tokenizer.json itself ends a text with a token; else the first.

    A published base's does not, and other programs than ours then pool at the wrong token.
    """
    for directory in directories:
        tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        bare, whole = (tokenizer.encode("a", add_special_tokens=added).ids for added in (False, True))
        if whole and whole[-1:] != bare[-1:]:
            return directory
    return directories[0]


def _read(directory: Path) -> dict[str, Any]:
    path = directory / "tokenizer.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing. Copy the tokenizer files of the model it was trained from.")
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _pieces(file: dict[str, Any]) -> tuple[Any, list[Any]]:
    """Vocabulary and merges; a merge may be written "a b" or ["a", "b"]."""
    merges = file["model"].get("merges") or []
    return file["model"].get("vocab"), [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]


def _added(directory: Path) -> tuple[tuple[int, ...], int]:
    """Ids before a text, and the EOS token's, as training adds them."""
    tokenizer = load_tokenizer(str(directory))
    return tokenizer.bos_ids, tokenizer.eos_token_id


def _probe_texts(tokenizer: Tokenizer, files: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield from _PROBES
    for token in {added["content"] for file in files for added in file.get("added_tokens") or ()}:
        yield f"a {token} b{token}"
    size = tokenizer.get_vocab_size()
    for number in range(0, size, max(1, size // _NUM_VOCABULARY_PROBES)):
        yield tokenizer.decode([number])


def _vocabulary_difference(first: dict[str, Any], second: dict[str, Any]) -> str:
    ours, theirs = (dict(tokenizer["model"].get("vocab") or {}) for tokenizer in (first, second))
    moved = sorted(token for token in {*ours, *theirs} if ours.get(token) != theirs.get(token))
    if not moved:
        return ""
    examples = ", ".join(f"{token!r}: {ours.get(token)} and {theirs.get(token)}" for token in moved[:3])
    return f" ({len(ours)} and {len(theirs)} tokens; {len(moved)} differ: {examples})"
