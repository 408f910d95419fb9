"""Documents and personas -> one file of passages, before any request.

Items depend on a passage's personas, and an embedding model's scores differ slightly between machines. Stored once,
they are the same for every process and after every restart, and nothing is chunked or embedded twice.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import IO

from data_synth.documents import DetectLanguages, DocumentsConfig, Passage, RejectedDocument, read_passages
from data_synth.personas import STARTER_PERSONAS, PersonasConfig, build_persona_search
from data_synth.steps import StepProgress
from qwen3emb_train.lineage import Output, digest_cached, produce, read_record

PASSAGES_FILE = "passages.jsonl"
REJECTED_FILE = "rejected_documents.jsonl"
_PROGRAM = "prepare_passages"


@dataclass(frozen=True)
class PreparedPassages:
    """The passages of a directory, streamed from the file at each iteration.

    Attributes:
        directory: contains passages.jsonl, rejected_documents.jsonl, run.json.
    """

    directory: Path

    def __iter__(self) -> Iterator[Passage]:
        with (self.directory / PASSAGES_FILE).open("rb") as file:
            for line in file:
                yield Passage.from_json(json.loads(line))

    def parts(self, num_passages: int) -> list["PassageRange"]:
        """All passages in ranges of so many; reads the file once."""
        starts, place = [0], 0
        with (self.directory / PASSAGES_FILE).open("rb") as file:
            for number, line in enumerate(file, start=1):
                place += len(line)
                if number % num_passages == 0:
                    starts.append(place)
        if place > starts[-1] or not place:
            starts.append(place)
        return [PassageRange(self.directory / PASSAGES_FILE, start, end) for start, end in pairwise(starts)]

    def rejected(self) -> Iterator[RejectedDocument]:
        """The rejected documents."""
        with (self.directory / REJECTED_FILE).open("rb") as file:
            for line in file:
                yield RejectedDocument(**json.loads(line))

    @property
    def counts(self) -> dict[str, int]:
        """ "passages" and "rejected", as counted when they were written."""
        record = read_record(self.directory)
        return {} if record is None else {name: int(value) for name, value in record.metrics.items()}


@dataclass(frozen=True)
class PassageRange:
    """The passages between two places of the file."""

    path: Path
    start: int
    end: int

    def __iter__(self) -> Iterator[Passage]:
        with self.path.open("rb") as file:
            file.seek(self.start)
            place = self.start
            while place < self.end:
                line = file.readline()
                place += len(line)
                yield Passage.from_json(json.loads(line))


def prepare_passages(
    documents: Mapping[str, DocumentsConfig],
    personas: PersonasConfig | None,
    directory: Path,
    detect_languages: DetectLanguages | None = None,
) -> PreparedPassages:
    """Splits the documents, finds the personas and writes both, unless they exist already.

    Args:
        documents: sources by name, read in this order.
        personas: None gives passages without personas (not for retrieval).
        directory: written atomically.
        detect_languages: see ``read_passages``.

    Raises:
        FileNotFoundError: a source does not exist.
        ValueError: no source is named, or the sources give no passage.
    """
    if not documents:
        raise ValueError("documents: there is no source. Name one: documents.handbook.path=docs/.")
    inputs = {f"documents.{name}": _existing(name, config) for name, config in documents.items()}
    if personas is not None:
        inputs["personas"] = Path(personas.path) if personas.path else STARTER_PERSONAS
        if personas.model is not None:
            inputs["personas.model"] = Path(personas.model)
    settings = {
        "documents": {name: asdict(config) for name, config in documents.items()},
        "personas": None if personas is None else asdict(personas),
        "detects_language": detect_languages is not None,
    }

    def write(made: Output) -> dict[str, int]:
        num_passages, num_rejected = _write(made.directory, documents, personas, detect_languages)
        if not num_passages:
            raise ValueError(_nothing_message(made.directory, num_rejected))
        return {"passages": num_passages, "rejected": num_rejected}

    # Beside the output, which is replaced as a whole; a file counts as unchanged by size, time and inode.
    notes = directory.with_name(f".{directory.name}.digests")
    produce(_PROGRAM, directory, settings, inputs, write, partial(digest_cached, cache=notes))
    return PreparedPassages(directory)


def _existing(name: str, config: DocumentsConfig) -> Path:
    path = Path(config.path)
    if not config.path or not path.exists():
        raise FileNotFoundError(f"documents.{name}.path={config.path!r}: no such file or folder.")
    return path


def _write(
    directory: Path,
    documents: Mapping[str, DocumentsConfig],
    personas: PersonasConfig | None,
    detect_languages: DetectLanguages | None,
) -> tuple[int, int]:
    progress = StepProgress("preparation")
    search = None if personas is None else build_persona_search(personas)
    size = 64 if personas is None else personas.passages_per_batch
    num_passages = num_rejected = 0
    seen: set[int] = set()
    with (
        (directory / PASSAGES_FILE).open("w", encoding="utf-8", newline="\n") as written,
        (directory / REJECTED_FILE).open("w", encoding="utf-8", newline="\n") as set_aside,
    ):

        def reject(rejected: RejectedDocument) -> None:
            nonlocal num_rejected
            num_rejected += 1
            _write_line(set_aside, asdict(rejected))

        passages = (
            passage
            for name, config in documents.items()
            for passage in read_passages(name, config, reject, detect_languages, seen)
        )
        while batch := list(islice(passages, size)):
            found = search.nearest([passage.text for passage in batch]) if search else [()] * len(batch)
            for passage, nearest in zip(batch, found, strict=True):
                _write_line(written, replace(passage, personas=nearest).to_json())
            num_passages += len(batch)
            progress.show("passages", num_passages)
    return num_passages, num_rejected


def _write_line(file: IO[str], row: Mapping[str, object]) -> None:
    file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _nothing_message(directory: Path, num_rejected: int) -> str:
    with (directory / REJECTED_FILE).open(encoding="utf-8") as file:
        first = [RejectedDocument(**json.loads(line)) for line in islice(file, 3)]
    told = " ".join(f"{one.document}: {one.reason}: {one.detail}" for one in first)
    return f"documents: no passages; {num_rejected} files or rows were rejected. {told}"
