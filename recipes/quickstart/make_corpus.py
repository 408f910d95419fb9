"""A retrieval data set made of the running Python's standard library: no download, no model, a few seconds.

    python -m recipes.quickstart.make_corpus OUTPUT_DIR [--max-pretrain N] [--max-finetune N] [--max-test-documents N]

writes, atomically,

    pretrain.jsonl   weak pairs of documentation: first sentence -> the rest of the passage, name -> docstring
    finetune.jsonl   question -> source code of the function that answers it, without its docstring
    dev/  test/      corpus.jsonl, queries.jsonl, qrels/dev.tsv or qrels/test.tsv (BEIR): the same task, other modules

Whole modules are held out, so no document or question of ``test`` and ``dev`` occurs in training. Hard negatives are
left to mining. The same Python version gives the same bytes. The texts are under Python's PSF License.
"""

import argparse
import json
import platform
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from qwen3emb_train import lineage
from qwen3emb_train.data.records import TrainingExample, write_examples
from recipes.quickstart.pairs import (
    FINETUNE_INSTRUCTION,
    RetrievalSet,
    finetuning_examples,
    first_by_hash,
    pretraining_examples,
    retrieval_set,
    sample_documents,
    stable_hash,
)
from recipes.quickstart.sources import Definition, library_directory, read_library

PROGRAM = "python_library"
RULES_VERSION = 1  # increment when the rules of pairs or questions change, so that old output is replaced
# With this seed no package makes up more than a sixth of the test documents.
_SPLIT_SEED = 2904


class Split(str, Enum):
    train = "train"
    dev = "dev"
    test = "test"


@dataclass
class PythonLibraryConfig:
    """Settings of ``write_python_library``.

    Attributes:
        output_dir: the directory to write.
        library: the standard library's directory; default: the running Python's.
        max_pretrain, max_finetune: maximum number of lines, chosen by hash; default: all.
        max_test_documents: maximum number of documents in the test corpus, with their questions; default: all.
    """

    output_dir: str
    library: str | None = None
    max_pretrain: int | None = None
    max_finetune: int | None = None
    max_test_documents: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_pretrain", "max_finetune", "max_test_documents"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: must be at least 1. Leave it out to keep all.")


def split_of(module: str) -> Split:
    """The split of a module; one for all modules of a top-level package, and ``_pyio`` goes with ``io``."""
    family = re.sub(r"^_+(py)?", "", module.split(".")[0])
    place = stable_hash(f"{_SPLIT_SEED} {family}") % 100
    return Split.test if place < 15 else Split.dev if place < 19 else Split.train


def write_python_library(config: PythonLibraryConfig) -> Path:
    """Reads the library and writes the data set; returns its directory. Does nothing if it exists already."""
    output = Path(config.output_dir)
    source = Path(config.library) if config.library else library_directory()
    definitions, digest = read_library(source)
    settings = {**asdict(config), "python": platform.python_version(), "library_digest": digest, "rules": RULES_VERSION}
    del settings["output_dir"], settings["library"]  # the data does not depend on the location
    lineage.require_apart(output, {"library": source})  # its digest is in the settings
    lineage.produce(PROGRAM, output, settings, {}, lambda made: _write(config, definitions, made.directory))
    return output


def _write(config: PythonLibraryConfig, definitions: Sequence[Definition], directory: Path) -> dict[str, Any]:
    by_split: dict[Split, list[Definition]] = {split: [] for split in Split}
    for definition in definitions:
        by_split[split_of(definition.module)].append(definition)
    test = retrieval_set(by_split[Split.test])
    dev = retrieval_set(by_split[Split.dev], exclude=test.texts)
    held_out = test.texts | dev.texts
    finetune = _limited(finetuning_examples(retrieval_set(by_split[Split.train], held_out)), config.max_finetune)
    pretrain = _limited(pretraining_examples(by_split[Split.train], held_out), config.max_pretrain)
    test = sample_documents(test, config.max_test_documents)

    counts = {"pretrain": len(pretrain), "finetune": len(finetune)}
    write_examples(directory / "pretrain.jsonl", pretrain)
    write_examples(directory / "finetune.jsonl", finetune)
    for split, task in ((Split.dev, dev), (Split.test, test)):
        _write_beir(directory / split.value, split.value, task)
        counts[f"{split.value}_queries"], counts[f"{split.value}_documents"] = len(task.queries), len(task.documents)
    _report(Path(config.output_dir), counts, pretrain, finetune)
    return {"counts": counts, "query_instruction": FINETUNE_INSTRUCTION}


def _limited(examples: Iterable[TrainingExample], count: int | None) -> list[TrainingExample]:
    by_query = {example.query: example for example in examples}
    return [by_query[query] for query in first_by_hash(list(by_query), count)]


def _write_beir(directory: Path, split: str, task: RetrievalSet) -> None:
    def jsonl(rows: Iterable[dict[str, str]]) -> str:
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    corpus = ({"_id": key, "title": "", "text": text} for key, text in task.documents.items())
    lineage.write_text(directory / "corpus.jsonl", jsonl(corpus))
    lineage.write_text(directory / "queries.jsonl", jsonl({"_id": key, "text": q} for key, q in task.queries.items()))
    qrels = (f"{key}\t{document_id}\t1\n" for key, ids in task.answers.items() for document_id in ids)
    lineage.write_text(directory / "qrels" / f"{split}.tsv", "query-id\tcorpus-id\tscore\n" + "".join(qrels))


def _report(
    output: Path, counts: dict[str, int], pretrain: list[TrainingExample], finetune: list[TrainingExample]
) -> None:
    print(f"{output}/pretrain.jsonl: {counts['pretrain']} weak pairs")
    print(f"{output}/finetune.jsonl: {counts['finetune']} questions with the functions that answer them")
    for split in ("dev", "test"):
        print(f"{output}/{split}/: {counts[split + '_queries']} queries, {counts[split + '_documents']} documents")
    for example in [*pretrain[:1], *finetune[:2]]:
        document = example.positives[0].replace("\n", "\n      ")
        print(f"\n  [{example.source}] {example.query}\n   -> {document[:300]}")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.quickstart.make_corpus",
        description="Writes a retrieval data set made of the running Python's standard library.",
    )
    parser.add_argument("output_dir", metavar="OUTPUT_DIR")
    parser.add_argument("--library", metavar="DIR", help="standard library to read (default: the running Python's)")
    parser.add_argument("--max-pretrain", type=int, metavar="N", help="at most N weak pairs (default: all)")
    parser.add_argument("--max-finetune", type=int, metavar="N", help="at most N questions (default: all)")
    parser.add_argument("--max-test-documents", type=int, metavar="N", help="at most N test documents (default: all)")
    options = parser.parse_args(arguments)
    try:
        write_python_library(PythonLibraryConfig(**vars(options)))
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
