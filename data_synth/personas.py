"""Personas that might ask about a passage: the nearest few of a file, as in the report's appendix A.1.

The report retrieves five personas per document with a retrieval model from Persona Hub (Ge et al. 2024,
arXiv:2406.20094). A file of that format is one ``{"persona": "..."}`` a line; ``personas.jsonl`` beside this module is
a small starter list of our own. Without an embedding model, BM25 ranks them, which is less accurate: a passage that
shares no word with any persona (e.g. in another language) gets personas by its hash.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

STARTER_PERSONAS = Path(__file__).parent / "personas.jsonl"

_MAX_PERSONA_CHARACTERS = 2000
_PERSONAS_PER_BLOCK = 65_536  # scored at once: 64 passages x 65,536 float32 = 16 MiB


@dataclass
class PersonasConfig:
    """Where personas come from and how they are found.

    Attributes:
        path: file of {"persona": ...} lines; as in Persona Hub; null = the starter list.
        num_personas: nearest personas kept per passage.
        model: directory of an embedding model (Sentence-Transformers layout, our exports included); null compares
            words.
        passage_prompt: put before each passage for a model that takes instructions, e.g.
            "Instruct: Given a text, find who would be interested in it\\nQuery:".
        max_passage_characters: characters of a passage that are embedded.
        passages_per_batch: passages embedded at once.
        device: "cpu", "cuda" ...; null leaves it to the library.
    """

    path: str | None = None
    num_personas: int = 5
    model: str | None = None
    passage_prompt: str = ""
    max_passage_characters: int = 4000
    passages_per_batch: int = 64
    device: str | None = None

    def __post_init__(self) -> None:
        for key in ("num_personas", "max_passage_characters", "passages_per_batch"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key}={getattr(self, key)}: give a whole number of at least 1.")


@runtime_checkable
class PersonaSearch(Protocol):
    """Ranks personas for passages."""

    def nearest(self, texts: Sequence[str]) -> list[tuple[str, ...]]:
        """For each text its personas, nearest first."""
        ...


def load_personas(path: Path) -> list[str]:
    """The personas of a file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line is malformed; names it.
    """
    if not path.is_file():
        raise FileNotFoundError(f'{path}: no such persona file. Give one {{"persona": ...}} a line, or path=null.')
    personas = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                personas.append(_persona(line, f"{path}:{number}"))
    if not personas:
        raise ValueError(f"{path}: there is no persona in it.")
    return list(dict.fromkeys(personas))


def _persona(line: str, place: str) -> str:
    try:
        row = json.loads(line)
        persona = row["persona"].strip()
        persona.encode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError(f'{place}: no persona. Write {{"persona": "A ..."}}.') from None
    if not 1 <= len(persona) <= _MAX_PERSONA_CHARACTERS:
        raise ValueError(f"{place}: a persona has 1 to {_MAX_PERSONA_CHARACTERS} characters, this one {len(persona)}.")
    return " ".join(persona.split())


def build_persona_search(config: PersonasConfig) -> PersonaSearch:
    """Loads the personas and builds their index.

    Raises:
        FileNotFoundError: no persona file, or no model directory.
        ValueError: the file is malformed, or has fewer personas than ``num_personas``.
    """
    personas = load_personas(Path(config.path) if config.path else STARTER_PERSONAS)
    if len(personas) < config.num_personas:
        raise ValueError(f"num_personas={config.num_personas}, but the file has {len(personas)}.")
    if config.model is None:
        return LexicalPersonas(personas, config)
    return EmbeddedPersonas(personas, config)


class LexicalPersonas:
    """BM25 over the personas."""

    def __init__(self, personas: Sequence[str], config: PersonasConfig) -> None:
        import bm25s

        self._personas = list(personas)
        self._config = config
        self._tokenize: Any = bm25s.tokenization.Tokenizer(stopwords="en", stemmer=_singular)
        self._bm25 = bm25s.BM25(backend="numpy")
        self._bm25.index(self._tokenize.tokenize(self._personas, show_progress=False), show_progress=False)

    def nearest(self, texts: Sequence[str]) -> list[tuple[str, ...]]:
        """See ``PersonaSearch``."""
        return [self._nearest(text[: self._config.max_passage_characters]) for text in texts]

    def _nearest(self, text: str) -> tuple[str, ...]:
        (ids,) = self._tokenize.tokenize([text], update_vocab=False, show_progress=False, return_as="ids")
        scores = self._bm25.get_scores_from_ids(ids) if len(ids) else np.zeros(len(self._personas), np.float32)
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
        # Ties (usually scores of zero) are broken by the text's hash, not by the order of the file.
        tie_breaker = np.random.Generator(np.random.PCG64(seed)).permutation(len(scores))
        order = np.lexsort((tie_breaker, -scores))[: self._config.num_personas]
        return tuple(self._personas[index] for index in order)


class EmbeddedPersonas:
    """Cosine of passage and persona under a Sentence-Transformers model."""

    def __init__(self, personas: Sequence[str], config: PersonasConfig) -> None:
        from sentence_transformers import SentenceTransformer

        if not Path(str(config.model)).is_dir():
            raise FileNotFoundError(f"model={config.model}: no such directory. Nothing is downloaded here.")
        self._model: Any = SentenceTransformer(config.model, device=config.device, local_files_only=True)
        self._personas = list(personas)
        self._config = config
        self._vectors = self._encode(self._personas, prompt="")

    def _encode(self, texts: Sequence[str], prompt: str) -> Float[np.ndarray, "texts dim"]:
        vectors = self._model.encode(
            list(texts), prompt=prompt, batch_size=self._config.passages_per_batch, normalize_embeddings=True,
            convert_to_numpy=True, show_progress_bar=False,
        )  # fmt: skip
        return np.asarray(vectors, dtype=np.float32)

    def nearest(self, texts: Sequence[str]) -> list[tuple[str, ...]]:
        """See ``PersonaSearch``."""
        if not texts:
            return []
        cut = [text[: self._config.max_passage_characters] for text in texts]
        found = nearest_rows(self._encode(cut, self._config.passage_prompt), self._vectors, self._config.num_personas)
        return [tuple(self._personas[index] for index in row) for row in found]


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") else word


def nearest_rows(
    queries: Float[np.ndarray, "queries dim"], rows: Float[np.ndarray, "rows dim"], num: int
) -> Int[np.ndarray, "queries num"]:
    """Indices of the ``num`` rows with the largest inner product, best first, block by block.

    Of rows with equal products at the end of the list, any may be kept.

    Args:
        queries: float32 [queries, dim].
        rows: float32 [rows, dim].
        num: rows per query.
    """
    best_scores = np.empty((len(queries), 0), np.float32)
    best = np.empty((len(queries), 0), np.int64)
    for start in range(0, len(rows), _PERSONAS_PER_BLOCK):
        scores = queries @ rows[start : start + _PERSONAS_PER_BLOCK].T
        kept = np.argpartition(-scores, min(num, scores.shape[1]) - 1, axis=1)[:, :num]
        best_scores = np.hstack((best_scores, np.take_along_axis(scores, kept, 1)))
        best = np.hstack((best, kept + start))
        order = np.argsort(-best_scores, axis=1, kind="stable")[:, :num]
        best_scores, best = np.take_along_axis(best_scores, order, 1), np.take_along_axis(best, order, 1)
    return best
