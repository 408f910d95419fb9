"""Personas that might ask about a passage: a few near ones of a file, as in the report's appendix A.1.

The report retrieves the five nearest personas of Persona Hub (Ge et al. 2024, arXiv:2406.20094) with an embedding
model. A file of that format is one ``{"persona": "..."}`` a line; ``personas.jsonl`` beside this module is a list of
our own. Without a model, sparse vectors of words and subjects are compared (``subjects.py``), across eleven
languages; they know fields, not meanings. A passage that shares nothing with any persona gets some by its hash.

In a collection on one matter the same few personas are the nearest of every passage. So a passage gets ``num_personas``
of its nearest ``num_personas / max_share``, drawn by hash: no persona is offered for more than that share of any
collection's passages, on average. The draw knows the passage and the personas only, so another document changes none.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from data_synth.persona_index import DenseIndex, SparseIndex
from data_synth.subjects import features
from qwen3emb_train.texts.words import hash64

STARTER_PERSONAS = Path(__file__).parent / "personas.jsonl"

_MAX_PERSONA_CHARACTERS = 2000


@dataclass
class PersonasConfig:
    """Where personas come from and how they are found.

    Attributes:
        path: file of {"persona": ...} lines, as in Persona Hub; null = the list that comes with the package.
        num_personas: personas offered for each passage.
        max_share: largest share of any collection's passages that one persona is offered for, on average: they are
            drawn from the num_personas / max_share nearest. 1 = always the nearest, as in the report.
        model: directory of an embedding model (Sentence-Transformers layout, our exports included), as in the report;
            null compares words and subjects, in eleven languages.
        passage_prompt: put before each passage for a model that takes instructions, e.g.
            "Instruct: Given a text, find who would be interested in it\\nQuery:".
        max_passage_characters: characters of a passage that are embedded.
        passages_per_batch: passages embedded at once.
        device: "cpu", "cuda" ...; null leaves it to the library.
    """

    path: str | None = None
    num_personas: int = 5
    max_share: float = 0.2
    model: str | None = None
    passage_prompt: str = ""
    max_passage_characters: int = 4000
    passages_per_batch: int = 64
    device: str | None = None

    def __post_init__(self) -> None:
        for key in ("num_personas", "max_passage_characters", "passages_per_batch"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key}={getattr(self, key)}: give a whole number of at least 1.")
        if not 0 < self.max_share <= 1:
            raise ValueError(f"max_share={self.max_share}: not a share. Give a number in (0, 1]; 1 = the nearest.")

    @property
    def num_candidates(self) -> int:
        """The nearest personas that a passage's are drawn from."""
        return math.ceil(self.num_personas / self.max_share)


@runtime_checkable
class PersonaSearch(Protocol):
    """Ranks personas for passages."""

    def nearest(self, texts: Sequence[str]) -> list[tuple[str, ...]]:
        """For each text its personas, nearest first."""
        ...


@runtime_checkable
class Ranking(Protocol):
    """Ranks personas by nearness."""

    def ranked(self, texts: Sequence[str], num: int) -> list[list[int]]:
        """For each text the places of the nearest ``num`` in the list of personas, or fewer."""
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
    is_plain = config.model is None
    return DrawnPersonas(
        personas, SubjectPersonas(personas) if is_plain else EmbeddedPersonas(personas, config), config
    )


class DrawnPersonas:
    """The personas of each text: some of the nearest, drawn by the text's hash.

    Args:
        personas: all.
        ranking: of them.
        config: how many, of how many.
    """

    def __init__(self, personas: Sequence[str], ranking: Ranking, config: PersonasConfig) -> None:
        self._personas, self._ranking, self._config = personas, ranking, config

    def nearest(self, texts: Sequence[str]) -> list[tuple[str, ...]]:
        """See ``PersonaSearch``."""
        if not texts:
            return []
        cut = [text[: self._config.max_passage_characters] for text in texts]
        num = min(self._config.num_candidates, len(self._personas))
        ranked = self._ranking.ranked(cut, num)
        return [self._drawn(text, found, num) for text, found in zip(cut, ranked, strict=True)]

    def _drawn(self, text: str, found: list[int], num: int) -> tuple[str, ...]:
        mark = hash64(text)
        if len(found) < num:  # nothing else is near: any may ask
            known = set(found)
            steps = (hash64(f"{mark}/{step}") % len(self._personas) for step in count())
            while len(found) < num:
                if (place := next(steps)) not in known:
                    known.add(place)
                    found = [*found, place]
        lots = {place: hash64(f"{mark}/{self._personas[place]}") for place in found}
        drawn = set(sorted(found, key=lambda place: lots[place])[: self._config.num_personas])
        return tuple(self._personas[place] for place in found if place in drawn)


class SubjectPersonas:
    """Cosine of sparse vectors of words and subjects."""

    def __init__(self, personas: Sequence[str]) -> None:
        self._index = SparseIndex([features(persona) for persona in personas])

    def ranked(self, texts: Sequence[str], num: int) -> list[list[int]]:
        """See ``Ranking``."""
        return [self._index.nearest(features(text), num)[0] for text in texts]


class EmbeddedPersonas:
    """Cosine of passage and persona under a Sentence-Transformers model."""

    def __init__(self, personas: Sequence[str], config: PersonasConfig) -> None:
        from sentence_transformers import SentenceTransformer

        if not Path(str(config.model)).is_dir():
            raise FileNotFoundError(f"model={config.model}: no such directory. Nothing is downloaded here.")
        self._model: Any = SentenceTransformer(config.model, device=config.device, local_files_only=True)
        self._config = config
        self._index = DenseIndex(self._encode(personas, prompt=""))

    def _encode(self, texts: Sequence[str], prompt: str) -> np.ndarray:
        vectors = self._model.encode(
            list(texts), prompt=prompt, batch_size=self._config.passages_per_batch, normalize_embeddings=True,
            convert_to_numpy=True, show_progress_bar=False,
        )  # fmt: skip
        return np.asarray(vectors, dtype=np.float32)

    def ranked(self, texts: Sequence[str], num: int) -> list[list[int]]:
        """See ``Ranking``."""
        return self._index.nearest(self._encode(texts, self._config.passage_prompt), num).tolist()
