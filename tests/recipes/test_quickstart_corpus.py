"""The corpus made of the standard library: nothing leaks, docstrings are gone, every run writes the same bytes."""

import ast
import json
from pathlib import Path

import pytest

from qwen3emb_train.data.records import TrainingExample
from recipes.quickstart.make_corpus import PythonLibraryConfig, Split, main, split_of, write_python_library
from recipes.quickstart.pairs import (
    cut_at_line,
    name_in_words,
    normalised,
    passages,
    pretraining_examples,
    retrieval_set,
    weak_pairs,
)
from recipes.quickstart.questions import question, split_docstring
from recipes.quickstart.sources import Definition, Kind, parse_module, read_library, source_files

_FILES = ("pretrain.jsonl", "finetune.jsonl")


def _rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _all_bytes(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != "run.json"
    }


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole data set of the running Python, written once."""
    return write_python_library(PythonLibraryConfig(output_dir=str(tmp_path_factory.mktemp("library") / "data")))


def test_all_files_are_there_and_of_a_useful_size(corpus: Path) -> None:
    counts = {name: len(_rows(corpus / name)) for name in _FILES}
    assert counts["pretrain.jsonl"] > 3000
    assert counts["finetune.jsonl"] > 1000
    for split in ("dev", "test"):
        assert len(_rows(corpus / split / "queries.jsonl")) > 30
        assert len(_rows(corpus / split / "corpus.jsonl")) > 60
    assert json.loads((corpus / "run.json").read_text())["metrics"]["counts"]["pretrain"] == counts["pretrain.jsonl"]


def test_lines_are_valid_examples(corpus: Path) -> None:
    for name in _FILES:
        for row in _rows(corpus / name):
            example = TrainingExample.from_json(row)
            assert example.instruction
            assert example.negatives == ()


def test_no_text_of_a_held_out_split_occurs_in_training(corpus: Path) -> None:
    """Neither a document nor a query, whatever its case and white space; nor is a test text in dev."""
    training = set()
    for name in _FILES:
        for row in _rows(corpus / name):
            training |= {normalised(str(row["query"])), *map(normalised, row["positives"])}  # type: ignore[call-overload]
    held_out = {}
    for split in ("dev", "test"):
        held_out[split] = {
            normalised(str(row["text"]))
            for file in ("corpus.jsonl", "queries.jsonl")
            for row in _rows(corpus / split / file)
        }
        assert held_out[split]
        assert training.isdisjoint(held_out[split])
    assert held_out["dev"].isdisjoint(held_out["test"])


def test_documents_and_queries_are_unique_and_judged(corpus: Path) -> None:
    for split in ("dev", "test"):
        documents = {row["_id"]: normalised(str(row["text"])) for row in _rows(corpus / split / "corpus.jsonl")}
        queries = {row["_id"]: row["text"] for row in _rows(corpus / split / "queries.jsonl")}
        assert len(set(documents.values())) == len(documents)
        assert len(set(queries.values())) == len(queries)
        header, *lines = (corpus / split / "qrels" / f"{split}.tsv").read_text().splitlines()
        assert header == "query-id\tcorpus-id\tscore"
        judged = [line.split("\t") for line in lines]
        assert {query for query, _, _ in judged} == set(queries)
        assert {document for _, document, _ in judged} <= set(documents)


def test_a_second_run_writes_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    again = write_python_library(PythonLibraryConfig(output_dir=str(tmp_path / "again")))
    assert _all_bytes(again) == _all_bytes(corpus)


def test_a_finished_directory_is_left_alone(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = (corpus / "run.json").stat().st_mtime_ns
    main([str(corpus)])
    assert "up to date" in capsys.readouterr().out
    assert (corpus / "run.json").stat().st_mtime_ns == written


def test_caps_keep_a_part_of_the_same_lines(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = tmp_path / "small"
    main([str(small), "--max-pretrain", "50", "--max-finetune", "20", "--max-test-documents", "40"])
    assert "40 documents" in capsys.readouterr().out
    for name, count in zip(_FILES, (50, 20), strict=True):
        lines = (small / name).read_text().splitlines()
        assert len(lines) == count
        assert set(lines) <= set((corpus / name).read_text().splitlines())
    kept = {str(row["_id"]) for row in _rows(small / "test" / "corpus.jsonl")}
    assert len(kept) == 40
    qrels = (small / "test" / "qrels" / "test.tsv").read_text().splitlines()[1:]
    assert qrels
    assert {line.split("\t")[1] for line in qrels} <= kept


def test_a_cap_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"max_finetune=0.*Leave it out"):
        PythonLibraryConfig(output_dir="x", max_finetune=0)


def test_a_directory_without_sources_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no Python source files"):
        read_library(tmp_path)


def test_modules_that_implement_one_another_share_a_split() -> None:
    assert split_of("_pyio") is split_of("io")
    assert split_of("_pydecimal") is split_of("decimal")
    assert split_of("email.message") is split_of("email")
    assert {split_of(f"module{i}") for i in range(200)} == set(Split)


def test_tests_private_packages_and_third_parties_are_skipped(tmp_path: Path) -> None:
    for name in ("good/__init__.py", "good/part.py", "good/tests/a.py", "site-packages/b.py", "ensurepip/c.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
    (tmp_path / "python-config.py").write_text("not a module name\n")
    assert [module for module, _ in source_files(tmp_path)] == ["good", "good.part"]


_MODULE = '''"""A module."""
import os

@os.decorate
def outer(a, b=1):
    """Return the sum.

    More.
    """
    # a comment stays
    def inner():
        """Inner docstring."""
        return a

    return inner() + b

def _private():
    """Hidden."""
    return 1

class Box:
    """A box.

    It holds things.
    """
    def put(self, thing):
        "Put a thing in."
        self.thing = thing
    async def get(self): return self.thing
    def empty(self):
        """Empty it."""
        raise NotImplementedError
if os.name == "nt":
    def only_there():
        """Do it there."""
        return 2
'''


def test_sources_carry_no_docstring_and_still_parse() -> None:
    definitions = {d.qualified_name: d for d in parse_module("m", _MODULE.encode())}
    assert list(definitions) == ["m", "m.outer", "m.Box", "m.Box.put", "m.Box.get", "m.Box.empty", "m.only_there"]
    source = definitions["m.outer"].source
    assert source.startswith("@os.decorate\ndef outer(a, b=1):")
    assert "# a comment stays" in source
    assert "Return the sum" not in source
    assert "Inner docstring" not in source
    ast.parse(source)
    assert definitions["m.Box.put"].source == "def put(self, thing):\n    self.thing = thing"
    assert definitions["m.Box.empty"].source == ""
    assert definitions["m.Box"].methods == ("put(self, thing)", "empty(self)")
    assert definitions["m"].docstring == "A module."


def test_line_numbers_survive_form_feeds_and_windows_line_ends() -> None:
    code = b'X = 1\r\n\x0c\r\ndef f(a):\r\n    """Doc."""\r\n    return a + 1\r\n'
    functions = [d for d in parse_module("m", code) if d.kind is Kind.function]
    assert functions[0].source == "def f(a):\n    return a + 1"


def test_a_file_that_does_not_parse_is_passed_over() -> None:
    assert parse_module("m", b"def f(:\n") == []


def test_first_sentence_and_rest() -> None:
    text = "frob(x) -> y\n\nReturn the :class:`Frob` of ``x``, e.g. A frob. It is cached.\n\nMore."
    assert split_docstring(text) == ("Return the Frob of x, e.g. A frob.", "It is cached.\n\nMore.")
    assert split_docstring("") == ("", "")
    assert split_docstring("Only a heading\n\n>>> f()\n1") == ("Only a heading", ">>> f()\n1")


@pytest.mark.parametrize(
    ("summary", "words"),
    [
        ("Return the number of days in the month.", "the number of days in the month"),
        ("Returns True if the path is absolute, otherwise False.", "whether the path is absolute"),
        ("Recursively deletes a directory tree.", "recursively delete"),
    ],
)
def test_questions_keep_what_is_asked(summary: str, words: str) -> None:
    asked = question(summary, "f")
    assert asked is not None
    if asked.startswith(("how", "function that")):
        assert words in asked.replace("deletes", "delete")
    assert "otherwise" not in asked
    assert not asked.endswith(".")
    assert asked[0].islower()
    assert asked == question(summary, "f")


def test_question_forms_vary() -> None:
    asked = [question(f"Return the number of {thing} in the month.", "f") or "" for thing in "abcdefghijklmnopqrst"]
    starts = {text.split(" the ")[0] for text in asked}
    assert {"how do I get", "how to get", "function that returns", "how can I get"} <= starts
    assert any(text.startswith("number ") for text in asked)


@pytest.mark.parametrize(
    ("summary", "name"),
    [
        ("Close it.", "close"),  # too short
        ("Same as above but with a lock.", "f"),  # speaks of other code
        ("Return the result of make_frob for all items.", "make_frob"),  # gives the name away
        ("Return what 'walk' returned the last time.", "walk"),
        ("address = mailbox / group", "f"),  # a grammar rule
        (" ".join(["Return"] + ["word"] * 40), "f"),  # an essay
    ],
)
def test_summaries_that_make_no_question_are_refused(summary: str, name: str) -> None:
    assert question(summary, name) is None


def test_an_ordinary_word_that_is_also_the_name_may_stay() -> None:
    assert question("Close the connection to the server.", "close") is not None


def _function(name: str, summary: str, body: str) -> Definition:
    return Definition(Kind.function, "m", name, summary, f"def {name}(value):\n    # {'x' * 60}\n    return {body}")


def test_equal_questions_share_their_documents_and_vague_ones_go() -> None:
    summary = "Return the number of days in the month."
    task = retrieval_set([_function("a", summary, "1"), _function("b", summary, "2")])
    assert task.answers == {"q0": ["m.a", "m.b"]}
    crowd = retrieval_set([_function(f"f{i}", summary, str(i)) for i in range(5)])
    assert not crowd.queries
    assert len(crowd.documents) == 5


def test_equal_sources_are_one_document() -> None:
    twice = [_function("a", "Return the number of days.", "1"), _function("a", "Return the number of weeks.", "1")]
    task = retrieval_set(twice)
    assert list(task.documents) == ["m.a"]
    assert set(task.answers.values().__iter__().__next__()) == {"m.a"}
    assert len(task.queries) == 2


def test_excluded_sources_and_summaries_do_not_come_back() -> None:
    """An equal source is dropped; an equal summary loses its question, though the wording of questions varies."""
    held_out = retrieval_set([_function("a", "Return the number of days.", "1")])
    train = retrieval_set(
        [_function("a", "Return the age of it all.", "1"), _function("c", "Return  the number of Days", "3")],
        held_out.texts,
    )
    assert list(train.documents) == ["m.c"]
    assert not train.queries


def test_weak_pairs_use_each_docstring_once() -> None:
    body = "It is used where all else fails, and it takes its time to do so thoroughly."
    long = Definition(Kind.function, "m", "f", f"Frob the thing.\n\n{body}")
    assert weak_pairs(long) == [("Frob the thing.", body)]
    short = Definition(Kind.function, "json.tool", "dumpAll", "Frob all things that are there.")
    assert weak_pairs(short) == [("json tool dump all", "Frob all things that are there.")]
    box = Definition(Kind.class_, "m", "Box", "A box.", methods=("a(self)", "b(self, x)", "c(self)"))
    assert weak_pairs(box) == [("A box.", "def a(self)\ndef b(self, x)\ndef c(self)")]
    assert len(list(pretraining_examples([long, long, short], frozenset()))) == 2
    assert not list(pretraining_examples([long], frozenset({"frob the thing"})))


def test_passages_are_whole_paragraphs_and_break_at_headings() -> None:
    paragraph = "word " * 60
    text = f"{paragraph}\n\n{paragraph}\n\n{paragraph}\n\nHeading\n=======\n\nshort"
    found = passages(text)
    assert [p.count(paragraph.strip()) for p in found] == [2, 1, 0]
    assert found[2].startswith("Heading")
    section = Definition(Kind.topic, "t", "x", f"Heading\n*******\n\n{paragraph}")
    assert weak_pairs(section) == [("Heading", paragraph.strip())]


def test_texts_are_cut_at_a_line_end() -> None:
    lines = "\n".join(f"line {i}" for i in range(400))
    cut = cut_at_line(lines)
    assert len(cut) <= 1200
    assert lines.startswith(cut + "\n")
    assert cut_at_line("x" * 2000) == "x" * 1200


def test_names_become_words() -> None:
    assert name_in_words("email.message.EmailMessage.get_payload") == "email message get payload"
    assert name_in_words("lib2to3.HTTPServer") == "lib2to3 http server"
