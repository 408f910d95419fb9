"""Bitext, STS, classification, code, instructions: plans and rows."""

import json
from collections import Counter

import pytest

from data_synth.tasks.bitext import BitextConfig, BitextTask
from data_synth.tasks.classification import CLASSIFICATION_KINDS, ClassificationConfig, ClassificationTask
from data_synth.tasks.code import CODE_QUESTION_TYPES, CodeConfig, CodeTask
from data_synth.tasks.instructions import InstructionsConfig, InstructionsTask
from data_synth.tasks.items import excerpt
from data_synth.tasks.retrieval import RetrievalConfig, RetrievalTask
from data_synth.tasks.sts import StsConfig, StsTask
from data_synth.work import Accepted, Rejected, Reply, Request
from tests.data_synth.tasks.replies import CODE, PROSE, drive, drive_all, passage

MIXED = [*PROSE, *CODE]


def test_prose_and_code_go_to_their_own_tasks() -> None:
    assert {item.payload["passage"]["code"] for item in CodeTask(CodeConfig(), MIXED).items()} == {"python"}
    for task in (RetrievalTask(RetrievalConfig(), MIXED), BitextTask(BitextConfig(), MIXED)):
        assert {item.payload["passage"]["code"] for item in task.items()} == {""}


def test_bitext_rows_are_sentences_and_their_translation_in_both_directions() -> None:
    task = BitextTask(BitextConfig(lengths={"5-12": 1.0}, languages={"en": 0.5, "de": 0.25, "ja": 0.25}), PROSE)
    items = list(task.items())
    assert {item.payload["plan"]["language"] for item in items} == {"de", "ja"}, "not into English"
    assert {item.payload["plan"]["direction"] for item in items} == {"reverse", "forward"}
    for item in items:
        outcome, (request,) = drive(task, item)
        assert isinstance(outcome, Accepted)
        (row,), (facts,), plan = outcome.rows, outcome.facts, item.payload["plan"]
        assert plan["text"] in item.payload["passage"]["text"]
        assert plan["text"] in request.messages[-1].content
        written = "Translation of"
        if plan["direction"] == "reverse":
            assert row.query.startswith(written)
            assert row.positives == (plan["text"],)
            assert row.language == plan["language"]
            assert row.instruction == "Given a text, retrieve its translation into English"
            assert facts["languages"] == {"query": plan["language"], "positive": "en"}
        else:
            assert row.positives[0].startswith(written)
            assert row.query == plan["text"]
            assert row.language == "en"
            assert facts["languages"] == {"query": "en", "positive": plan["language"]}


def test_a_passage_without_sentences_of_the_length_is_rejected_before_anything_is_bought() -> None:
    for task in (
        BitextTask(BitextConfig(lengths={"90-99": 1.0}), PROSE),
        StsTask(StsConfig(lengths={"90-99": 1.0}), PROSE),
    ):
        outcome, requests = drive(task, next(iter(task.items())))
        assert isinstance(outcome, Rejected)
        assert outcome.reason == "no_sentences"
        assert not requests


def test_an_excerpt_has_the_words_asked_for_and_every_choice_is_reached() -> None:
    text = "One two three. Four five. Six seven eight nine. Ten. 十一十二十三十四。"
    found = {excerpt(text, "4-6", choice) for choice in range(9)}
    assert found == {
        "One two three. Four five.",
        "Four five. Six seven eight nine.",
        "Six seven eight nine.",
        "Ten. 十一十二十三十四。",
        "十一十二十三十四。",
    }
    for choice in range(9):
        chosen = excerpt(text, "4-6", choice)
        assert chosen
        assert chosen in text
    assert excerpt(text, "50-60", 0) == ""


def test_a_passage_that_cannot_fill_the_range_dealt_takes_another() -> None:
    task = BitextTask(BitextConfig(lengths={"5-12": 0.5, "90-99": 0.5}), PROSE)
    assert {item.payload["plan"]["length"] for item in task.items()} == {"5-12"}
    task_sts = StsTask(StsConfig(lengths={"90-99": 0.5, "5-12": 0.5}), PROSE)
    assert all(item.payload["plan"]["sentence"] for item in task_sts.items())


def test_sts_rows_have_their_nearest_as_positive_and_grades_as_scores() -> None:
    task = StsTask(StsConfig(num_negatives=3, lengths={"5-15": 1.0}), PROSE)
    grades: Counter[int] = Counter()
    for item in task.items():
        outcome, (request,) = drive(task, item)
        assert isinstance(outcome, Accepted)
        (row,), plan = outcome.rows, item.payload["plan"]
        assert row.scores is not None
        assert [round(score * 5) for score in row.scores] == plan["grades"] == sorted(plan["grades"], reverse=True)
        assert row.scores[0] > max(row.scores[1:])
        assert (row.query, row.positives[0].split()[1]) == (plan["sentence"], "0")
        assert len(row.negatives) == 3
        assert f"3. similarity {plan['grades'][2]} of 5" in request.messages[-1].content
        grades.update(plan["grades"][1:])
    assert grades.keys() == {3, 2, 1, 0}
    assert all(abs(grades[grade] - 120 * share) < 25 for grade, share in ((3, 0.3), (2, 0.3), (1, 0.25), (0, 0.15)))


def test_equal_graded_sentences_are_rejected() -> None:
    task = StsTask(StsConfig(), PROSE)
    outcome, _ = drive(task, next(iter(task.items())), lambda request: Reply('{"Sentences": ["a b", "A  b", "c"]}'))
    assert isinstance(outcome, Rejected)
    assert outcome.reason == "equal_texts"


@pytest.mark.parametrize(
    "changes",
    [{"negative_grades": {"4": 1.0}}, {"positive_grades": {"6": 1.0}}, {"num_negatives": 0}, {"lengths": {"x": 1.0}}],
)
def test_grades_that_cannot_train_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        StsConfig(**changes)  # type: ignore[arg-type]


def test_classification_rows_are_text_label_and_confusable_labels() -> None:
    task = ClassificationTask(ClassificationConfig(num_confusable=2), PROSE)
    outcomes = drive_all(task)
    for outcome in outcomes:
        assert isinstance(outcome, Accepted)
        (row,) = outcome.rows
        assert row.query.startswith("Text of")
        assert row.positives[0].startswith("Label of")
        assert len(row.negatives) == 2
        assert row.instruction is not None
        assert row.instruction.startswith("Instruction of")
    assert len({item.payload["plan"]["kind"] for item in task.items()}) > 4
    item = next(iter(task.items()))

    def answer(**changes: object) -> Reply:
        whole = {"Instruction": "Classify", "Text": "t", "Label": "a", "Confusable_Labels": ["b", "c"], **changes}
        return Reply(json.dumps(whole))

    for changes, reason in (
        ({"Confusable_Labels": ["b", "A"]}, "equal_texts"), ({"Label": "x" * 200}, "long_label"),
        ({"Confusable_Labels": ["b"]}, "schema"),
    ):  # fmt: skip
        outcome, _ = drive(task, item, lambda request, changes=changes: answer(**changes))
        assert isinstance(outcome, Rejected)
        assert outcome.reason == reason


@pytest.mark.parametrize("kind", CLASSIFICATION_KINDS)
def test_every_kind_of_classification_has_words_in_the_prompt(kind: str) -> None:
    task = ClassificationTask(ClassificationConfig(kinds={kind: 1.0}), PROSE[:1])
    _, (request,) = drive(task, next(iter(task.items())))
    assert f"{kind} (" in request.messages[-1].content


@pytest.mark.parametrize("kind", CODE_QUESTION_TYPES)
def test_code_rows_are_question_and_function(kind: str) -> None:
    task = CodeTask(CodeConfig(question_types={kind: 1.0}, languages={"en": 0.5, "ko": 0.5}, num_queries=2), CODE)
    items = list(task.items())
    assert {item.payload["plan"]["language"] for item in items} == {"en", "ko"}
    outcome, (request,) = drive(task, items[0])
    assert isinstance(outcome, Accepted)
    assert outcome.rows[0].positives == (CODE[0].text,)
    assert outcome.facts[0]["programming_language"] == "python"
    assert f"Type: {kind} (" in request.messages[-1].content


def test_one_instruction_is_asked_for_per_source_from_a_sample_that_order_does_not_change() -> None:
    passages = [*PROSE, *(passage(f"Other text {number}.", source="other") for number in range(3))]
    task = InstructionsTask(InstructionsConfig(num_passages=4), passages)
    one, other = task.items()
    assert (len(one.payload["plan"]["passages"]), len(other.payload["plan"]["passages"])) == (4, 3)
    again = InstructionsTask(InstructionsConfig(num_passages=4), passages[::-1])
    assert {item.key for item in again.items()} == {one.key, other.key}
    _, (request,) = drive(task, one)
    assert request.messages[-1].content.count("\n</passages-") == 4


def test_a_long_instruction_is_rejected() -> None:
    task = InstructionsTask(InstructionsConfig(max_words=5), PROSE)

    def long(request: Request) -> Reply:
        return Reply(json.dumps({"Instructions": ["one two three four five six"] * 3}))

    outcome, _ = drive(task, next(iter(task.items())), long)
    assert isinstance(outcome, Rejected)
    assert outcome.reason == "long_instruction"
    mixed = ["Given x, retrieve y.", "one two three four five six", "Find y"]
    short, _ = drive(task, next(iter(task.items())), lambda request: Reply(json.dumps({"Instructions": mixed})))
    assert isinstance(short, Accepted)
    assert [row.instruction for row in short.rows] == ["Given x, retrieve y", "Find y"]
