"""The figures behind the figures, and who is called what."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from qwen3emb_train.evaluation.report.curves import moving_average
from qwen3emb_train.evaluation.report.differences import differences_section
from qwen3emb_train.evaluation.report.inputs import TrainingRun, load_evaluation
from qwen3emb_train.evaluation.report.page import Section, render_report
from qwen3emb_train.evaluation.report.scores import best_systems, scores_section
from qwen3emb_train.evaluation.report.similarities import chance_above
from qwen3emb_train.evaluation.report.summary import duration, seconds_of
from qwen3emb_train.evaluation.report.systems import combine
from qwen3emb_train.pages.figures import label, line_styles
from qwen3emb_train.pages.page import shortened
from tests.evaluation.report.written import write_evaluation


def page_of(section: Section) -> ElementTree.Element:
    return ElementTree.fromstring(render_report("t", "l", [section], 400))


def marked(page: ElementTree.Element, mark: str) -> list[str | None]:
    return [element.text for element in page.iter("span") if element.get("class") == mark]


def test_the_bold_line_is_a_centred_mean() -> None:
    assert moving_average([1.0, 2.0, 6.0, 4.0, 5.0], 3) == [1.0, 3.0, 4.0, 5.0, 5.0]
    straight = [float(value) for value in range(9)]
    assert moving_average(straight, 6) == straight, "a straight line stays where it is, also at its ends"
    assert moving_average([1.0, 9.0], 1) == [1.0, 9.0]


def test_a_relevant_pair_outranks_a_random_one() -> None:
    """The area under the ROC curve, where values are bins and ties count half."""
    assert chance_above([0.0, 4.0], [3.0, 0.0]) == 1.0
    assert chance_above([4.0, 0.0], [0.0, 3.0]) == 0.0
    assert chance_above([2.0, 2.0], [2.0, 2.0]) == pytest.approx(0.5)
    assert chance_above([1.0, 3.0], [1.0, 1.0]) == pytest.approx((1 * 0.5 + 3 * 1.5) / 8)


def test_time_is_tokens_over_speed() -> None:
    lines = [
        {"step": 1, "tokens_seen": 100, "tokens_per_second": 50.0},
        {"step": 2, "tokens_seen": 150, "tokens_per_second": None},
        {"step": 3, "tokens_seen": 400, "tokens_per_second": 100.0},
    ]
    assert seconds_of(TrainingRun("a", lines, None, None)) == pytest.approx(100 / 50 + 300 / 100)
    assert seconds_of(TrainingRun("a", [{"step": 1}], None, None)) is None
    assert [duration(seconds) for seconds in (59.6, 61.0, 7265.0)] == ["1 min 0 s", "1 min 1 s", "2 h 1 min"]


def test_the_best_is_bold_and_equals_share(tmp_path: Path) -> None:
    measured = combine([load_evaluation("e", write_evaluation(tmp_path / "e"))])
    assert [(best.model, best.dim) for best in best_systems(measured, "questions")] == [("second", 64)]
    page = page_of(scores_section(measured, line_styles(measured.models)))
    assert marked(page, "best") == ["0.5640"]
    assert "0.5140 – 0.6140" in "".join(page.itertext())


def test_differences_say_better_only_beyond_the_interval(tmp_path: Path) -> None:
    directory = write_evaluation(tmp_path / "e")
    results = directory / "results.json"
    written, styles = results.read_text(), line_styles(["first", "second"])
    for interval, expected in (("[0.05, 0.15]", "better"), ("[-0.05, 0.15]", ""), ("[-0.2, -0.05]", "worse")):
        results.write_text(written.replace("[0.05, 0.15]", interval))
        section = differences_section(combine([load_evaluation("e", directory)]), styles)
        assert section is not None
        page = page_of(section)
        found = {mark: marked(page, mark) for mark in ("better", "worse")}
        assert found == {"better": [], "worse": []} | ({expected: ["+0.1000"] * 2} if expected else {})
    assert "1 better, 2 equal, 0 worse" in "".join(page.itertext()), "query by query, from per_query.jsonl"


def test_what_two_evaluations_both_measured_is_named_after_them(tmp_path: Path) -> None:
    one = load_evaluation("old", write_evaluation(tmp_path / "a", models=("base", "mine")))
    other = load_evaluation("new", write_evaluation(tmp_path / "b", models=("mine", "other")))
    measured = combine([one, other])
    assert measured.models == ["base", "old: mine", "new: mine", "other"]
    assert {score.against.text("baseline") for score in measured.scores if score.against} == {"base", "new: mine"}
    assert {units.system.model for units in measured.units} == set(measured.models)
    assert [model for model, _ in measured.diagnostics] == measured.models


def test_systems_are_told_apart_by_what_differs(tmp_path: Path) -> None:
    measured = combine([load_evaluation("e", write_evaluation(tmp_path / "e"))])
    assert [measured.label(system) for system in measured.systems] == [
        "first · 32", "first · 64", "second · 32", "second · 64",
    ]  # fmt: skip
    assert [(system.model, system.dim) for system in measured.full()] == [("first", 64), ("second", 64)]


def test_line_styles_are_distinct_and_stay_with_a_name() -> None:
    names = [f"model {number}" for number in range(20)]
    styles = line_styles(names)
    assert len({(style.colour, style.line) for style in styles.values()}) == 20
    others = line_styles(["new", "model 0", "newer"], styles)
    assert others["model 0"] == styles["model 0"]
    assert len(set(others.values())) == 3
    assert len(line_styles(map(str, range(40)))) == 40


def test_labels_are_short_and_on_one_line() -> None:
    assert label("a\nb\tc") == "a b c"
    assert label("_hidden from legends") == " _hidden from legends"
    assert len(label("x" * 99)) == 40
    assert shortened("abcdef", 4) == "abc…"
