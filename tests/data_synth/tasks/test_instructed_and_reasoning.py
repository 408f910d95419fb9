"""Queries with an instruction of their own, and problems to reason about: calls, rows, what is rejected."""

import json
from collections import Counter
from typing import Any

import pytest

from data_synth.tasks.instructed import INSTRUCTION_KINDS, InstructedConfig, InstructedTask
from data_synth.tasks.reasoning import REASONING_KINDS, ReasoningConfig, ReasoningTask
from data_synth.work import Accepted, Rejected, Reply, Request, Task
from tests.data_synth.tasks.replies import CODE, PROSE, drive, obedient

NEGATIVES = ["Ferries in general sail often.", "Ferries cost money."]


class Checking:
    """A teacher whose check puts each document on a side by its text."""

    def __init__(self, sides: dict[str, str]) -> None:
        self.sides = sides
        self.positions: Counter[int] = Counter()

    def __call__(self, request: Request) -> Reply:
        assert request.schema is not None
        keys = list(request.schema["properties"])
        if keys == ["Instruction_Negatives"]:
            return Reply(json.dumps({"Instruction_Negatives": NEGATIVES}))
        if not keys[0].startswith("Document_"):
            return obedient(request)
        last = request.messages[-1].content
        shown = sorted(self.sides, key=last.index)
        self.positions[shown.index(PROSE[0].text)] += 1
        return Reply(json.dumps({key: self.sides[text] for key, text in zip(keys, shown, strict=True)}))


def checked(positive: str, *negatives: str) -> tuple[Any, list[Request], Checking]:
    teacher = Checking(dict(zip([PROSE[0].text, *NEGATIVES], [positive, *negatives], strict=True)))
    task = InstructedTask(InstructedConfig(num_negatives=2), PROSE[:1])
    return *drive(task, next(task.items()), teacher), teacher


def test_query_and_instruction_then_negatives_then_a_check_make_a_row() -> None:
    outcome, requests, _ = checked("both", "query_only", "query_only")
    assert [request.prompt.partition("@")[0] for request in requests] == [
        "instructed/generate", "instructed/negatives", "instructed/check",
    ]  # fmt: skip
    assert isinstance(outcome, Accepted)
    (row,), (facts,) = outcome.rows, outcome.facts
    assert row.task == "instructed"
    assert row.query.startswith("Query of")
    assert row.instruction is not None
    assert row.instruction.startswith("Instruction of")
    assert row.positives == (PROSE[0].text,)
    assert row.negatives == tuple(NEGATIVES)
    assert facts["num_negatives"] == 2
    for request in requests[1:]:
        assert row.query in request.messages[-1].content
        assert row.instruction in request.messages[-1].content


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        (("both", "query_only", "both"), "one"), (("both", "neither", "query_only"), "one"),
        (("both", "both", "neither"), "no_instruction_negative"),
        (("query_only", "query_only", "query_only"), "positive_breaks_instruction"),
        (("neither", "query_only", "query_only"), "positive_breaks_instruction"),
    ],
)  # fmt: skip
def test_only_what_answers_the_query_and_breaks_the_instruction_is_a_negative(
    sides: tuple[str, str, str], expected: str
) -> None:
    outcome, _, _ = checked(*sides)
    if isinstance(outcome, Rejected):
        assert outcome.reason == expected
    else:
        assert outcome.rows[0].negatives == (NEGATIVES[sides.index("query_only") - 1],)
        assert expected == "one"


def test_the_check_does_not_know_the_positive_by_its_place() -> None:
    teacher = Checking(dict(zip([PROSE[0].text, *NEGATIVES], ["both", "query_only", "query_only"], strict=True)))
    task = InstructedTask(InstructedConfig(num_negatives=2, num_queries=60), PROSE[:1])
    for item in task.items():
        drive(task, item, teacher)
    assert teacher.positions.keys() == {0, 1, 2}
    assert max(teacher.positions.values()) < 40


def test_a_problem_gets_passages_that_sound_like_it_and_keeps_its_principle_apart() -> None:
    task = ReasoningTask(ReasoningConfig(), PROSE[:1])
    outcome, requests = drive(task, next(task.items()))
    assert [request.prompt.partition("@")[0] for request in requests] == ["reasoning/generate", "reasoning/negatives"]
    assert requests[0].schema is not None
    assert list(requests[0].schema["properties"]) == ["Principle", "Query"], "it thinks before it writes"
    assert isinstance(outcome, Accepted)
    (row,), (facts,) = outcome.rows, outcome.facts
    assert facts["principle"].startswith("Principle of")
    assert "Principle" not in row.query + str(row.instruction)
    assert facts["principle"] not in requests[1].messages[-1].content
    assert len(row.negatives) == 1

    def none(request: Request) -> Reply:
        return Reply("I cannot") if "negatives" in request.prompt else obedient(request)

    outcome, _ = drive(task, next(task.items()), none)
    assert isinstance(outcome, Accepted), "the problem was paid for"
    assert outcome.rows[0].negatives == ()
    alone = ReasoningTask(ReasoningConfig(num_hard_negatives=0), PROSE[:1])
    assert len(drive(alone, next(alone.items()))[1]) == 1


@pytest.mark.parametrize("kind", INSTRUCTION_KINDS)
def test_every_kind_of_instruction_has_words_in_the_prompt(kind: str) -> None:
    task = InstructedTask(InstructedConfig(kinds={kind: 1.0}, check=False), PROSE[:1])
    assert f"{kind} (" in drive(task, next(task.items()))[1][0].messages[-1].content


@pytest.mark.parametrize("kind", REASONING_KINDS)
def test_every_kind_of_problem_has_words_in_the_prompt(kind: str) -> None:
    task = ReasoningTask(ReasoningConfig(kinds={kind: 1.0}), PROSE[:1])
    assert f"{kind} (" in drive(task, next(task.items()))[1][0].messages[-1].content


def test_a_share_is_of_passages_of_prose_and_another_document_changes_no_choice() -> None:
    passages = [type(PROSE[0])(f"{number:032x}", f"A text {number}.", "en") for number in range(1000)]

    def chosen(task: Task) -> set[str]:
        return {item.group for item in task.items()}

    for build in (
        lambda given: ReasoningTask(ReasoningConfig(share=0.25), given),
        lambda given: InstructedTask(InstructedConfig(share=0.25), given),
    ):
        found = chosen(build([*CODE, *passages]))
        assert abs(len(found) - 250) < 69, "five standard deviations"
        assert chosen(build(passages[1:])) == found - {passages[0].id}
    one = chosen(ReasoningTask(ReasoningConfig(share=0.5), passages))
    other = chosen(InstructedTask(InstructedConfig(share=0.5), passages))
    assert abs(len(one & other) - 250) < 69, "the tasks choose independently"


@pytest.mark.parametrize("config", [InstructedConfig, ReasoningConfig])
@pytest.mark.parametrize(
    "changes", [{"share": 0.0}, {"share": 1.5}, {"kinds": {"riddle": 1.0}}, {"lengths": {"x": 1.0}}, {"num_queries": 0}]
)
def test_settings_that_cannot_work_are_refused(config: type, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        config(**changes)
