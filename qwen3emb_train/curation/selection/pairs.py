"""The pairs of a file by index, and their texts: each encoded once, none kept in memory."""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int

from qwen3emb_train.curation.selection.config import SelectPairsConfig
from qwen3emb_train.data.instructions import format_query
from qwen3emb_train.data.readers import SourceLine, read_lines
from qwen3emb_train.data.records import TrainingExample
from qwen3emb_train.data.rows import source_path
from qwen3emb_train.data.tokenization import text_hash
from qwen3emb_train.index.query_prompts import QueryPrompts
from qwen3emb_train.texts.overlap import normal_form


@dataclass(frozen=True, eq=False)
class Numbering:
    """The index of each text among the distinct ones, in order of first occurrence.

    Attributes:
        rows: index of each text's distinct text.
        is_first: whether it occurs for the first time.
    """

    rows: Int[np.ndarray, " texts"]
    is_first: Bool[np.ndarray, " texts"]

    @staticmethod
    def of(hashes: array) -> "Numbering":  # type: ignore[type-arg]
        """Texts with equal hashes are equal: among 100 million, two different ones share 63 bits with p < 0.001."""
        _, first, which = np.unique(np.asarray(hashes, dtype=np.int64), return_index=True, return_inverse=True)
        order = np.argsort(first)
        numbers = np.empty_like(order)
        numbers[order] = np.arange(len(order))
        is_first = np.zeros(len(which), dtype=np.bool_)
        is_first[first] = True
        return Numbering(numbers[which], is_first)


class PairTexts:
    """The pairs of a file in its order, those of one example adjacent; read as often as needed.

    Memory: about 50 bytes per pair while they are indexed, 18 later.

    Args:
        config: which file, and how to read it.
        prompts: of the model.
        rejected_path: where bad lines go, if they are skipped.

    Raises:
        ValueError: no example is of one of the ``tasks``.

    Attributes:
        queries: of each pair, its prompt.
        documents: of each pair, its positive; those that differ only in case and white space are one.
    """

    def __init__(self, config: SelectPairsConfig, prompts: QueryPrompts, rejected_path: Path) -> None:
        self._config, self._prompts, self._rejected_path = config, prompts, rejected_path
        queries, documents = array("q"), array("q")
        for _, prompt, document in self._pairs():
            queries.append(text_hash(prompt))
            documents.append(text_hash(normal_form(document)))
        if not queries:
            raise ValueError(f"{config.examples}: tasks={config.tasks} finds no example there.")
        self.queries, self.documents = Numbering.of(queries), Numbering.of(documents)

    def __len__(self) -> int:
        return len(self.queries.rows)

    def lines(self) -> Iterator[SourceLine]:
        """All examples, including those that are not scored."""
        config = self._config
        examples = source_path(config.examples)
        return read_lines(examples, config.reading, rejected_path=self._rejected_path, columns=config.columns)

    def is_scored(self, example: TrainingExample) -> bool:
        return not self._config.tasks or example.task in self._config.tasks

    def different_queries(self) -> Iterator[tuple[str, str]]:
        """Id and prompt of each distinct query, by index."""
        pairs = zip(self._pairs(), self.queries.is_first, strict=True)
        return ((place, prompt) for (place, prompt, _), is_first in pairs if is_first)

    def different_documents(self) -> Iterator[tuple[str, str]]:
        """Id and text of each distinct document, by index."""
        pairs = zip(self._pairs(), self.documents.is_first, strict=True)
        return ((place, document) for (place, _, document), is_first in pairs if is_first)

    def _pairs(self) -> Iterator[tuple[str, str, str]]:
        """Id, prompt and document of each pair."""
        for line in self.lines():
            example = line.example
            if self.is_scored(example):
                prompt = self._prompt_of(example)
                for number, document in enumerate(example.positives):
                    yield f"{line.file.name}:{line.number}/positives/{number}", prompt, document

    def _prompt_of(self, example: TrainingExample) -> str:
        if not self._prompts.takes_instructions:
            return example.query
        instruction = self._config.instruction if example.instruction is None else example.instruction
        return self._prompts.own + example.query if instruction is None else format_query(instruction, example.query)
