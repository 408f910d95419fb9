"""Words of any script, for overlaps and lengths: the normalisation that all filters share.

Case, width and punctuation are ignored. In scripts written without spaces (Han, kana, Thai, Lao, Khmer, Burmese) each
character is a word, so that n-grams are comparable across scripts.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence

_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
)
# Vowel signs of Indic scripts and Arabic and Hebrew points are no letters to ``re``; a word would be cut at each.
_MARKS = "\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0670\u0900-\u0963\u0966-\u0dff"
_WORD = re.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])(?:[^\W_]|[{_MARKS}]))+")


def words(text: str) -> list[str]:
    """The text's words, folded to one case and width."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def ngrams(tokens: Sequence[str], size: int) -> Iterator[str]:
    """Runs of ``size`` words; none where there are fewer."""
    for start in range(len(tokens) - size + 1):
        yield " ".join(tokens[start : start + size])


def hash64(text: str) -> int:
    """A stable 64-bit hash (Python's own differs from process to process)."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
