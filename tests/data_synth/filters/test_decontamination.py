"""Planted test texts are found; similar clean texts are kept; of near-duplicates the first is kept."""

import json
from pathlib import Path

import pytest

from data_synth.filters.candidates import Candidate, Reason
from data_synth.filters.decontamination import DecontaminationConfig, DecontaminationFilter
from data_synth.filters.near_duplicates import compared_text
from qwen3emb_train.texts.overlap import ComparedText, NearDuplicateIndex
from tests.data_synth.filters.rows import candidate, name_of

TEST_QUERY = "how can I wait until a child process has ended"
TEST_DOCUMENT = (
    "Migrating geese store fat before the journey and fly in a wedge, where each bird gains lift from the wing tip "
    "vortex of the bird before it, so that the flock as a whole tires less than a bird that flies alone. "
) * 2
BOILERPLATE = "this page was last edited by the editors of the free encyclopedia and is shown under the usual licence"


@pytest.fixture
def test_set(tmp_path: Path) -> Path:
    documents = [TEST_DOCUMENT, "A short note on kettles."] + [
        f"{BOILERPLATE} number {number} {'x' * number}" for number in range(20)
    ]
    write(tmp_path / "corpus.jsonl", documents)
    write(tmp_path / "queries.jsonl", [TEST_QUERY, "北京的首都机场在哪里", "kettles"])
    return tmp_path


def write(path: Path, texts: list[str]) -> None:
    path.write_text(
        "".join(json.dumps({"_id": str(i), "title": "", "text": text}) + "\n" for i, text in enumerate(texts))
    )


@pytest.mark.parametrize(
    ("query", "passage", "expected"),
    [
        (TEST_QUERY, "any passage at all", "contaminated"),
        ("How can I WAIT until a child-process has ended???", "any passage at all", "contaminated"),
        ("how can i wait until the child process has ended", "any passage at all", "contaminated"),
        ("北京的首都机场在哪里?", "any passage at all", "contaminated"),
        ("kettles", "any passage at all", "contaminated"),
        ("why geese fly in a wedge", TEST_DOCUMENT, "contaminated"),
        ("why geese", "Prologue. " + " ".join(TEST_DOCUMENT.split()[5:18]) + " and so on for long", "contaminated"),
        ("kettle notes", "a short note on kettles", "contaminated"),
        # look-alikes
        ("how can I wait until a thread pool has drained", "any passage at all", "kept"),
        ("北京的大学在哪里", "any passage at all", "kept"),
        ("why geese", "Prologue. " + " ".join(TEST_DOCUMENT.split()[5:17]) + " and so on for long", "kept"),
        ("buy kettles online", "kettles", "kept"),
        ("an article", BOILERPLATE + " but another article about trains that go nowhere at all today", "kept"),
    ],
)
def test_planted_texts_are_found_and_look_alikes_stay(test_set: Path, query: str, passage: str, expected: str) -> None:
    judge = DecontaminationFilter(DecontaminationConfig(sets=[str(test_set)]))
    assert name_of(judge(candidate(query, passage))) == expected


def test_a_test_text_hidden_among_the_negatives_is_found(test_set: Path) -> None:
    judge = DecontaminationFilter(DecontaminationConfig(sets=[str(test_set)]))
    assert name_of(judge(candidate("geese", "any passage at all", negatives=(TEST_DOCUMENT,)))) == "contaminated"


def test_a_shared_corpus_can_be_allowed_while_queries_stay_out(test_set: Path) -> None:
    judge = DecontaminationFilter(DecontaminationConfig(sets=[str(test_set)], documents=False))
    assert name_of(judge(candidate("why geese fly in a wedge", TEST_DOCUMENT))) == "kept"
    assert name_of(judge(candidate(TEST_QUERY, TEST_DOCUMENT))) == "contaminated"


def test_a_missing_set_and_a_broken_line_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no queries\.jsonl"):
        DecontaminationFilter(DecontaminationConfig(sets=[str(tmp_path / "nowhere")]))
    (tmp_path / "queries.jsonl").write_text('{"text": "fine"}\n{"nope": 1}\n')
    with pytest.raises(ValueError, match=r"queries\.jsonl, line 2"):
        DecontaminationFilter(DecontaminationConfig(sets=[str(tmp_path)], documents=False))


def test_the_reason_shows_both_texts(test_set: Path) -> None:
    verdict = DecontaminationFilter(DecontaminationConfig(sets=[str(test_set)]))(
        candidate("how can i wait until the child process has ended", "any")
    )
    assert isinstance(verdict, Reason)
    assert "a child process" in verdict.detail
    assert "the child process" in verdict.detail


def compared(one: Candidate) -> ComparedText:
    return ComparedText(compared_text(one.item.task, one.row))


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("how do I reset my password", "How do I reset my password?", "near_duplicate"),
        ("how do I reset my account password today", "how do I reset my account passwords today", "near_duplicate"),
        ("how do I reset my password", "how do I change my picture", "kept"),
        ("北京有多少人口居住在城区", "北京有多少人口居住在城区呢", "near_duplicate"),
        ("gc", "GC", "near_duplicate"),
        ("gc", "os", "kept"),
    ],
)
def test_the_first_of_near_duplicates_stays(first: str, second: str, expected: str) -> None:
    index = NearDuplicateIndex(0.8)
    index.add(compared(candidate(first)))
    assert bool(index.near(compared(candidate(second)))) == (expected == "near_duplicate")


def test_one_sentence_may_stand_in_several_graded_pairs() -> None:
    index = NearDuplicateIndex(0.8)
    sentence = "a man plays a guitar on a stage"
    for partner in ("somebody plays music", "a woman cooks rice"):
        text = compared(candidate(sentence, partner, task="sts"))
        assert not index.near(text)
        index.add(text)
    assert index.near(compared(candidate(sentence, "a woman cooks rice", task="sts")))
