"""Splits: no document and no query is in two, whatever links them; what is held out reads as a retrieval set."""

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3emb_train.curation.cleaning.config import NearDuplicateConfig, SplitConfig
from qwen3emb_train.curation.cleaning.duplicates import NearDocuments
from qwen3emb_train.curation.cleaning.splits import Splits
from qwen3emb_train.data.readers import read_examples
from qwen3emb_train.data.records import TrainingExample
from qwen3emb_train.data.retrieval_set import load_retrieval_set
from qwen3emb_train.texts.overlap import normal_form
from tests.curation.cleaning.rows import cleaned, read_rows, row

SPLIT = SplitConfig(dev_share=0.25, test_share=0.25)
OFF = NearDuplicateConfig(enabled=False)


def rows_of(output: Path) -> dict[str, dict[str, set[str]]]:
    """Queries and documents of each split, in normal form."""
    train = list(read_examples(output / "train.jsonl"))
    texts = {
        "train": {
            "queries": {normal_form(example.query) for example in train},
            "documents": {normal_form(text) for example in train for text in (*example.positives, *example.negatives)},
        }
    }
    for split in ("dev", "test"):
        found = load_retrieval_set(output / split, split)
        texts[split] = {
            "queries": {normal_form(text) for text in found.queries},
            "documents": {normal_form(text) for text in found.documents},
        }
    return texts


def mixed_rows(num_rows: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows that share documents and queries here and there, with negatives taken from anywhere."""
    draw = random.Random(seed)
    documents = [f"Document number {draw.randrange(10**9)} of the collection." for _ in range(num_rows)]
    rows = []
    for number in range(num_rows):
        text = documents[draw.randrange(num_rows)] if draw.random() < 0.2 else documents[number]
        query = f"query {draw.randrange(num_rows) if draw.random() < 0.1 else number * 7919 + 10**6}"
        negatives = [other for other in draw.sample(documents, 2) if other != text] + [f"Only negative {number % 9}."]
        rows.append(row(query, text.upper() if draw.random() < 0.5 else text, negatives=[
            other for other in negatives if other.lower() != text.lower()]))  # fmt: skip
    return rows


def test_no_document_and_no_query_is_in_two_splits(tmp_path: Path) -> None:
    """Negatives included; and all rows are somewhere."""
    rows = mixed_rows(300)
    output = cleaned(tmp_path, rows, split=SPLIT, near_duplicates=OFF, duplicates=False)
    splits = rows_of(output)
    for kind in ("queries", "documents"):
        seen = [text for split in splits.values() for text in split[kind]]
        assert len(seen) == len(set(seen)), kind
    assert {normal_form(one["query"]) for one in rows} == set().union(*(split["queries"] for split in splits.values()))
    positives = {normal_form(one["positives"][0]) for one in rows}
    assert positives <= set().union(*(split["documents"] for split in splits.values()))
    sizes = {name: len(split["queries"]) for name, split in splits.items()}
    assert sizes["train"] > sizes["dev"] > 20
    assert sizes["test"] > 20


def test_the_held_out_sets_judge_each_query_by_its_own_documents(tmp_path: Path) -> None:
    rows = [row(f"query {number // 2}", f"document {number}", negatives=[f"wrong {number}"]) for number in range(80)]
    output = cleaned(tmp_path, [*rows, *rows], split=SPLIT, near_duplicates=OFF, duplicates=False)  # judged once
    found = load_retrieval_set(output / "test", "test")
    documents = dict(zip(found.document_ids, found.documents, strict=True))
    assert found.queries
    for text_id, query in zip(found.query_ids, found.queries, strict=True):
        number = int(query.split()[1])
        relevant = {documents[document] for document in found.relevance[text_id]}
        assert relevant == {f"document {2 * number}", f"document {2 * number + 1}"}
        assert f"wrong {2 * number}" in found.documents


@pytest.mark.parametrize("names", ["page", None])
def test_a_document_column_keeps_its_rows_together(tmp_path: Path, names: str | None) -> None:
    """Sections of one page are different texts; without the column they would be parted."""
    rows = [row(f"query {number}", f"section {number}", page=f"page {number % 12}") for number in range(240)]
    settings: dict[str, Any] = {"document_column": "page"} if names else {}
    if not names:
        rows = [{key: value for key, value in one.items() if key != "page"} for one in rows]
    output = cleaned(tmp_path, rows, split=SPLIT, near_duplicates=OFF, **settings)
    pages = [{int(query.split()[1]) % 12 for query in split["queries"]} for split in rows_of(output).values()]
    parted = [page for page in range(12) if sum(page in split for split in pages) > 1]
    assert (parted == []) == (names is not None)


def test_a_document_column_that_no_line_has_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="document_column=page"):
        cleaned(tmp_path, [row("a query", "b")], document_column="page")


def test_nearly_equal_documents_are_in_one_split(tmp_path: Path) -> None:
    text = "The {} of the collection tells at length how the river was bridged before the war began, no. {}"
    rows = [row(f"question {n} about {n * 31} things", text.format("book", n)) for n in range(30)]
    rows += [row(f"ask {n} of {n * 17}", f"{n * 7919} {n * 104729} {n * 1299709}") for n in range(1, 60)]
    near = {normal_form(one["positives"][0]) for one in rows[:30]}
    for enabled in (True, False):
        config = NearDuplicateConfig(enabled=enabled)
        splits = rows_of(cleaned(tmp_path, rows, split=SPLIT, near_duplicates=config))
        assert (sum(bool(near & split["documents"]) for split in splits.values()) == 1) == enabled


def example(number: int, *positives: str) -> TrainingExample:
    return TrainingExample(f"query {number}", positives)


@given(
    st.lists(st.lists(st.integers(0, 25), min_size=1, max_size=3, unique=True), min_size=1, max_size=40), st.randoms()
)
@settings(max_examples=60, deadline=None)
def test_a_rows_split_does_not_depend_on_the_order_of_the_rows(rows: list[list[int]], order: random.Random) -> None:
    """And rows that share a document share the split: connected components, by brute force."""
    numbered = [example(number, *(f"d{document}" for document in row)) for number, row in enumerate(rows)]
    splits = Splits(SPLIT, NearDocuments(None))
    for one in numbered:
        splits.add(one, None)
    found = [splits.of_row(number) for number in range(len(rows))]
    for number, mine in enumerate(rows):
        for other in range(number):
            assert not set(mine) & set(rows[other]) or found[number] == found[other]
    shuffled = list(range(len(rows)))
    order.shuffle(shuffled)
    again = Splits(SPLIT, NearDocuments(None))
    for number in shuffled:
        again.add(numbered[number], None)
    assert [again.of_row(shuffled.index(number)) for number in range(len(rows))] == found
    assert sum(splits.group_sizes()) == len(rows)


def test_shares_are_kept_and_the_seed_deals_anew() -> None:
    def deal(seed: int) -> list[str]:
        splits = Splits(SplitConfig(dev_share=0.1, test_share=0.2, seed=seed), NearDocuments(None))
        for number in range(3000):
            splits.add(example(number, f"d{number}"), None)
        return [splits.of_row(number) for number in range(3000)]

    first = deal(0)
    assert first.count("dev") / 3000 == pytest.approx(0.1, abs=0.02)
    assert first.count("test") / 3000 == pytest.approx(0.2, abs=0.03)
    assert deal(0) == first != deal(1)


def test_scores_follow_the_negatives_that_stay() -> None:
    config = SplitConfig(test_share=0.5)
    rows = [
        TrainingExample(f"q{n}", (f"p{n}",), (f"p{n + 1}", "all have this"), scores=(1.0, 0.5, 0.25)) for n in range(40)
    ]
    splits = Splits(config, NearDocuments(None))
    for one in rows:
        splits.add(one, None)
    names = [splits.of_row(number) for number in range(40)]
    for number in sorted(range(40), key=lambda number: names[number] == "test"):  # train has it, whoever comes last
        splits.note_negatives(rows[number], names[number])
    for number in range(39):
        own = splits.without_foreign_negatives(rows[number], names[number])
        kept = {"p": names[number + 1] == names[number], "all": names[number] == "train"}
        expected = [(f"p{number + 1}", 0.5)] * kept["p"] + [("all have this", 0.25)] * kept["all"]
        assert own.negatives == tuple(text for text, _ in expected)
        assert own.scores == (1.0, *(score for _, score in expected))


def test_too_few_documents_for_a_split_are_an_error_and_one_big_group_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [row(f"text {number}", "sports") for number in range(20)]
    with pytest.raises(ValueError, match="nothing is left for"):
        cleaned(tmp_path, rows, split=SPLIT, near_duplicates=OFF)
    assert "20 of 20 rows are connected" in caplog.text
    assert not read_rows(tmp_path / "out" / "train.jsonl")
