"""Counting a text's tokens, by a rule or a tokenizer, and cutting what is longer than a passage."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

TokenCounter = Callable[[str], int]

_PIECE = re.compile(r"\w+|[^\w\s]")
_BYTES_PER_TOKEN = 6  # of a word's UTF-8: one token for most English words, near two thirds for a Han character


def estimate_tokens(text: str) -> int:
    """A deterministic estimate of the number of tokens: one per six bytes of a word, rounded up, one per other sign."""
    return sum(-(-len(piece.encode("utf-8", "surrogatepass")) // _BYTES_PER_TOKEN) for piece in _PIECE.findall(text))


def load_token_counter(directory: str | None) -> TokenCounter:
    """``estimate_tokens``, or the count of the tokenizer in a directory (``tokenizer.json``).

    Raises:
        FileNotFoundError: where the directory has no ``tokenizer.json``.
    """
    if directory is None:
        return estimate_tokens
    path = Path(directory) / "tokenizer.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file. tokenizer names a directory with a fast tokenizer.")
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def cut_anywhere(sentence: str, max_tokens: int, count: TokenCounter) -> Iterator[str]:
    """Splits a text longer than a passage at white space, or in the middle if it has none.

    Args:
        sentence: the text.
        max_tokens: of a piece at most.
        count: number of tokens of a text.
    """
    pending = [sentence]
    while pending:
        part = pending.pop()
        if count(part) <= max_tokens or len(part) < 2:
            yield part
            continue
        middle = len(part) // 2
        space = max(part.rfind(" ", 1, middle), part.rfind("\n", 1, middle))
        at = space + 1 if space > middle // 2 else middle
        pending += [part[at:], part[:at]]
