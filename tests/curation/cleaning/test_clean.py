"""clean: every line is kept, or kept aside with its reason; planted evaluation texts are found, look-alikes stay."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from qwen3emb_train.curation.cleaning.clean import clean
from qwen3emb_train.curation.cleaning.config import (
    CleanConfig,
    Compared,
    DecontaminationConfig,
    EvaluationSetConfig,
    HeldOutDocuments,
    LanguageCheckConfig,
    NearDuplicateConfig,
    SplitConfig,
    TextLengthConfig,
)
from qwen3emb_train.data.readers import BadLinesError, ReadingConfig, read_examples
from qwen3emb_train.texts.overlap import OverlapRule
from tests.curation.cleaning.rows import cleaned, read_rows, reasons, row, write_rows, write_set

TEST_QUERY = "how can I wait until a child process has ended"
OTHER_QUERY = "which river flows through the town of Torun in the north"
TEST_DOCUMENT = (
    "Migrating geese store fat before the journey and fly in a wedge, where each bird gains lift from the wing tip "
    "vortex of the bird before it, so that the flock as a whole tires less than a bird that flies alone."
)
OTHER_DOCUMENT = "Bakers let the dough rise twice, because the second rise makes the crumb of the loaf finer."
PLANTED = {
    "exact": row(TEST_QUERY, "any document at all"),
    "case and white space": row("HOW can i wait  until a child\tprocess has ended", "any document"),
    "punctuation": row("How can I wait, until a child-process has ended?!", "any document"),
    "near-duplicate": row("how can i wait until the child process has ended", "any document"),
    "exact document": row("why geese", TEST_DOCUMENT),
    "document's case": row("why wedges", TEST_DOCUMENT.upper()),
    "13 words of a document": row("why", "Prologue. " + " ".join(TEST_DOCUMENT.split()[5:18]) + " and so on"),
    "hidden among the negatives": row("bread", "bread", negatives=[TEST_DOCUMENT]),
}
LOOK_ALIKES = {
    "12 words": row("why", "Prologue. " + " ".join(TEST_DOCUMENT.split()[5:17]) + " and so on"),
    "same subject": row("how can I wait until a thread pool has drained", "Call join."),
    "same words, other order": row("a child has ended, until can process how I wait", "Nobody says that."),
    "a part": row("geese fly in a wedge", "Yes, they do."),
}


@pytest.fixture
def test_set(tmp_path: Path) -> Path:
    return write_set(tmp_path / "set", [TEST_QUERY, OTHER_QUERY], [TEST_DOCUMENT, OTHER_DOCUMENT], [(0, 0)])


def test_planted_contamination_is_found_and_look_alikes_stay(tmp_path: Path, test_set: Path) -> None:
    rows = [*PLANTED.values(), *LOOK_ALIKES.values()]
    output = cleaned(tmp_path, rows, evaluation_sets={"geese": EvaluationSetConfig(path=str(test_set))})
    assert reasons(output) == dict.fromkeys(range(1, len(PLANTED) + 1), "contaminated")
    report = json.loads((output / "report.json").read_text())
    assert report["contamination"] == {"geese": {"equal": 5, "same_words": 1, "ngram": 1, "near_duplicate": 1}}
    assert report["evaluation_texts"] == {"geese": 3}, "the query of another split does not count"
    assert [example.query for example in read_examples(output / "train.jsonl")] == [
        r["query"] for r in LOOK_ALIKES.values()
    ]


def test_a_rejected_line_says_why_and_is_the_line_itself(tmp_path: Path, test_set: Path) -> None:
    output = cleaned(tmp_path, [*LOOK_ALIKES.values(), PLANTED["near-duplicate"]],
                     evaluation_sets={"geese": EvaluationSetConfig(path=str(test_set))})  # fmt: skip
    (rejected,) = read_rows(output / "rejected" / "contaminated.jsonl")
    assert rejected["line"] == len(LOOK_ALIKES) + 1
    assert rejected["file"].endswith("examples.jsonl")
    assert TEST_QUERY in rejected["detail"]
    assert "geese" in rejected["detail"]
    assert rejected["raw"] == (tmp_path / "examples.jsonl").read_text().splitlines()[-1]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"documents": HeldOutDocuments.all}, {1, 3, 4}),
        ({"documents": HeldOutDocuments.relevant}, {1, 3}),
        ({"documents": HeldOutDocuments.none}, {1}),
        ({"split": None}, {1, 2, 3, 4}),
        ({"split": None, "documents": HeldOutDocuments.none}, {1, 2}),
    ],
)
def test_which_part_of_a_set_is_kept_out_can_be_said(
    tmp_path: Path, test_set: Path, settings: dict[str, Any], expected: set[int]
) -> None:
    rows = [row(TEST_QUERY, "a"), row(OTHER_QUERY, "b"), row("geese", TEST_DOCUMENT), row("bread", OTHER_DOCUMENT)]
    output = cleaned(tmp_path, [*rows, row("clean", "d")],
                     evaluation_sets={"geese": EvaluationSetConfig(path=str(test_set), **settings)})  # fmt: skip
    assert reasons(output) == dict.fromkeys(expected, "contaminated")


def test_a_title_hides_no_document(tmp_path: Path, test_set: Path) -> None:
    write_rows(test_set / "corpus.jsonl", [{"_id": "d0", "title": "Loaves", "text": "Twice it rises."}])
    rows = [row("aa", "Twice it rises."), row("bb", "Loaves\nTwice it rises."), row("cc", "Loaves of the baker")]
    output = cleaned(tmp_path, rows, evaluation_sets={"bread": EvaluationSetConfig(path=str(test_set))})
    assert reasons(output) == {1: "contaminated", 2: "contaminated"}


def test_sets_and_examples_may_be_files_of_other_kinds(tmp_path: Path, test_set: Path) -> None:
    for name in ("queries", "corpus"):
        (test_set / f"{name}.jsonl.gz").write_bytes(gzip.compress((test_set / f"{name}.jsonl").read_bytes()))
        (test_set / f"{name}.jsonl").unlink()
    (tmp_path / "a.csv").write_text(f'Frage,Antwort\n{TEST_QUERY},a\nbread,"{TEST_DOCUMENT}"\nclean,d\n')
    sets = {"geese": EvaluationSetConfig(path=str(test_set))}
    columns = {"query": "Frage", "positive": "Antwort"}
    config = CleanConfig(
        examples=str(tmp_path / "*.csv"), columns=columns, output_dir=str(tmp_path / "out"), evaluation_sets=sets
    )
    assert reasons(clean(config)) == {2: "contaminated", 3: "contaminated"}


def test_rules_can_be_left_out(tmp_path: Path, test_set: Path) -> None:
    sets = {"geese": EvaluationSetConfig(path=str(test_set))}
    only_equal = DecontaminationConfig(rules=[OverlapRule.equal])
    output = cleaned(tmp_path, list(PLANTED.values()), evaluation_sets=sets, decontamination=only_equal)
    assert sorted(number for number, reason in reasons(output).items() if reason == "contaminated") == [1, 2, 5, 6, 8]


@pytest.mark.parametrize(
    ("break_it", "named"),
    [
        (lambda directory: (directory / "queries.jsonl").unlink(), "evaluation_sets.geese.path"),
        (lambda directory: (directory / "corpus.jsonl").unlink(), "documents=none"),
        (lambda directory: (directory / "qrels" / "test.tsv").unlink(), "test.tsv"),
        (lambda directory: (directory / "corpus.jsonl").write_text('{"_id": "d0"}\n'), "corpus.jsonl:1"),
        (lambda directory: (directory / "corpus.jsonl").write_text("{\n"), "corpus.jsonl:1"),
    ],
)
def test_a_set_that_is_no_set_is_named(tmp_path: Path, test_set: Path, break_it: Any, named: str) -> None:
    break_it(test_set)
    with pytest.raises((ValueError, FileNotFoundError), match=named.replace(".", r"\.")):
        cleaned(tmp_path, [row("a query", "b")], evaluation_sets={"geese": EvaluationSetConfig(path=str(test_set))})
    assert not (tmp_path / "out").exists()


def test_of_equal_rows_the_first_stays(tmp_path: Path) -> None:
    rows = [
        row("Sort a list", "Call sorted.", "Call sort."),
        row("sort  a LIST", "call sort.", "call sorted."),  # 2: the same, whatever the order of the positives
        row("Sort a list", "Call sorted.", "Call sort.", negatives=["Call len."]),  # 3
        row("Sort a list", "Use heapq."),  # another document
        row("sort-a-list", "Call sorted.", "Call sort."),  # punctuation may matter
        row("Sort a list", "Call sorted.", "Call sort.", task="sts"),
    ]
    off = NearDuplicateConfig(enabled=False)
    output = cleaned(tmp_path, rows, near_duplicates=off)
    assert reasons(output) == {2: "duplicate", 3: "duplicate"}
    assert "examples.jsonl:1" in read_rows(output / "rejected" / "duplicate.jsonl")[0]["detail"]
    assert not reasons(cleaned(tmp_path, rows, near_duplicates=off, duplicates=False))


LONG = "Python keeps the order of equal elements when it sorts, so a list can be sorted by several keys in turn."
NEAR = [
    row("how do I sort a list in python", LONG),
    row("how do I sort a list in Python?", LONG + " Really."),  # 2: both nearly the same
    row("how do I sort a list in python", "Use the heapq module, if only the smallest are wanted."),
    row("is the sort of lists stable", LONG),
]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {2}),
        ({"compare": Compared.query}, {2, 3}),
        ({"threshold": 1.0}, set()),
        ({"enabled": False}, set()),
    ],
)
def test_near_duplicates_are_the_same_question_with_the_same_document(
    tmp_path: Path, settings: dict[str, Any], expected: set[int]
) -> None:
    output = cleaned(tmp_path, NEAR, near_duplicates=NearDuplicateConfig(**settings))
    assert reasons(output) == dict.fromkeys(expected, "near_duplicate")


def test_a_row_that_goes_makes_no_other_go(tmp_path: Path, test_set: Path) -> None:
    """Only what is kept counts as seen before; else one bad row would hide the reason of the next."""
    rows = [row("sort a list", "Call sorted.", negatives=[TEST_DOCUMENT]), row("sort a list", "Call sorted.")]
    output = cleaned(tmp_path, rows, evaluation_sets={"geese": EvaluationSetConfig(path=str(test_set))})
    assert reasons(output) == {1: "contaminated"}


def test_lengths_hold_with_both_ends(tmp_path: Path) -> None:
    rows = [
        row("ab", "1"), row("abc", "12345"), row("abcd", "1"), row("a ", "1"),
        row("abc", "123456"), row("abc", "1", negatives=["123456"]), row("abc", "1"),
    ]  # fmt: skip
    lengths = TextLengthConfig(min_query=2, max_query=3, min_document=1, max_document=5)
    output = cleaned(tmp_path, rows, lengths=lengths, near_duplicates=NearDuplicateConfig(enabled=False))
    assert reasons(output) == {3: "too_long", 4: "too_short", 5: "too_long", 6: "too_long"}


@pytest.mark.slow
def test_a_text_in_another_language_goes(tmp_path: Path) -> None:
    pytest.importorskip("py3langid", reason="py3langid is not installed (extra mine)")
    german = "Wie lange muss ein Brotteig im Kühlschrank gehen, bevor er gebacken wird?"
    english = "How long must a dough rest in the fridge before it is baked?"
    rows = [
        row(german, "a", language="de"), row(english, "b", language="de"), row(english, "c", language="en-GB"),
        row(english, german, language="en"), row(german, "e"), row(english, "f"), row("ok", "g", language="de"),
    ]  # fmt: skip
    near = NearDuplicateConfig(enabled=False)

    def dropped(**settings: Any) -> set[int]:
        languages = LanguageCheckConfig(enabled=True, languages=["de", "en"], **settings)
        return set(reasons(cleaned(tmp_path, rows, languages=languages, near_duplicates=near)))

    assert dropped() == {2}
    assert dropped(documents=True) == {2, 4}
    assert dropped(allowed=["fr", "en"]) == {2, 5}


def test_every_line_is_accounted_for(tmp_path: Path, test_set: Path) -> None:
    """Read = kept + rejected, line by line; with a malformed one."""
    rows: list[Any] = [
        *PLANTED.values(),
        *NEAR,
        *LOOK_ALIKES.values(),
        {"query": "no positive"},
        row("q", "one letter"),
    ]
    output = cleaned(
        tmp_path, rows, evaluation_sets={"geese": EvaluationSetConfig(path=str(test_set))},
        reading=ReadingConfig(skip_bad_lines=True), split=SplitConfig(test_share=0.3),
    )  # fmt: skip
    report = json.loads((output / "report.json").read_text())
    assert report["malformed"] == 1
    assert report["dropped"] == {"contaminated": 8, "near_duplicate": 1, "too_short": 1}
    assert len(reasons(output)) == 8 + 1 + 1 + 1
    assert report["kept"] + len(reasons(output)) == len(rows)
    assert sum(split["rows"] for split in report["splits"].values()) == report["kept"]
    text = (output / "report.txt").read_text()
    assert "contaminated" in text
    assert "geese" in text


def test_a_bad_line_stops_unless_it_may_be_skipped(tmp_path: Path) -> None:
    with pytest.raises(BadLinesError, match=r"examples\.jsonl:2"):
        cleaned(tmp_path, [row("a query", "b"), {"query": "no positive"}])
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*")), "nothing half-written stays"


def test_a_second_run_is_up_to_date_and_a_changed_input_is_not(
    tmp_path: Path, test_set: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = {"geese": EvaluationSetConfig(path=str(test_set))}
    output = cleaned(tmp_path, list(LOOK_ALIKES.values()), evaluation_sets=sets)
    before = (output / "run.json").read_bytes()
    config = CleanConfig(examples=str(tmp_path / "examples.jsonl"), output_dir=str(output), evaluation_sets=sets)
    clean(config)
    assert "up to date" in capsys.readouterr().out
    assert (output / "run.json").read_bytes() == before
    write_rows(test_set / "queries.jsonl", [{"_id": "q0", "text": "geese fly in a wedge"}])
    clean(config)
    assert list(reasons(output).values()) == ["contaminated"]


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none is left.*too_short"):
        cleaned(tmp_path, [row("a", "b")])


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: TextLengthConfig(min_query=0), "min_query"),
        (lambda: TextLengthConfig(min_document=5, max_document=4), "max_document"),
        (lambda: NearDuplicateConfig(threshold=0.0), "near_duplicates.threshold"),
        (lambda: DecontaminationConfig(threshold=1.5), "decontamination.threshold"),
        (lambda: DecontaminationConfig(ngram=2), "ngram"),
        (lambda: DecontaminationConfig(min_run_share=1.5), "min_run_share"),
        (lambda: SplitConfig(dev_share=0.5, test_share=0.5), "test_share"),
        (lambda: SplitConfig(dev_share=-0.1), "dev_share"),
        (lambda: EvaluationSetConfig(path="p", split=None, documents=HeldOutDocuments.relevant), "split"),
    ],
)
def test_a_setting_without_sense_is_named(make: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make()


def test_a_corpus_shared_on_purpose_is_answered_with_the_setting_for_it(tmp_path: Path, test_set: Path) -> None:
    """Nine rows in ten gone is no finding but a wrong setting; one in four is a finding."""
    shared, own = row("why geese", TEST_DOCUMENT), LOOK_ALIKES["12 words"]
    said = []
    for name, rows in (("most", [shared, shared, own]), ("some", [shared, own, *LOOK_ALIKES.values()])):
        sets = {"geese": EvaluationSetConfig(path=str(test_set))}
        (tmp_path / name).mkdir()
        output = cleaned(tmp_path / name, rows, evaluation_sets=sets)
        said.append("evaluation_sets.NAME.documents=relevant" in (output / "report.txt").read_text())
    assert said == [True, False]
