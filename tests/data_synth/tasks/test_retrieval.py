"""Passage -> query: the plan's counts are exact, the report's two calls are made, rows record the plan."""

import json
from collections import Counter

import pytest

from data_synth.tasks.retrieval import DIFFICULTIES, QUESTION_TYPES, Choice, RetrievalConfig, RetrievalTask
from data_synth.work import Accepted, Rejected, Reply, Request
from tests.data_synth.tasks.replies import PROSE, drive, obedient, passage

TYPES = {"keywords": 0.2, "summary": 0.5, "yes_or_no": 0.3}
LENGTHS = {"2-6": 0.3, "7-15": 0.7}


@pytest.mark.parametrize("seed", range(3))
def test_the_mix_of_a_run_is_the_mix_of_the_configuration(seed: int) -> None:
    """Types, difficulties, lengths and the cross-lingual share: within five standard deviations."""
    config = RetrievalConfig(
        choice=Choice.plan, question_types=TYPES, difficulties={"high_school": 0.5, "phd": 0.5},
        lengths=LENGTHS, seed=seed, num_queries=20, cross_lingual_share=0.3,
        languages={"en": 0.5, "de": 0.3, "zh": 0.2},
    )  # fmt: skip
    passages = [passage(f"{one.text} {one.id}", "en" if index % 3 else "de") for index, one in enumerate(PROSE)]
    items = list(RetrievalTask(config, passages).items())
    plans, own = [item.payload["plan"] for item in items], [item.payload["passage"]["language"] for item in items]
    assert len(plans) == 800
    for key, mix in (("question_type", TYPES), ("difficulty", config.difficulties), ("length", LENGTHS)):
        counts = Counter(plan[key] for plan in plans)
        assert counts.keys() == mix.keys()
        assert all(
            abs(counts[name] - 800 * share) < 5 * (800 * share * (1 - share)) ** 0.5 for name, share in mix.items()
        )
    assert abs(sum(plan["cross_lingual"] for plan in plans) - 240) < 65
    for plan, language in zip(plans, own, strict=True):
        assert (plan["language"] != language) == plan["cross_lingual"]


def test_a_passage_that_comes_first_changes_the_plan_of_no_other() -> None:
    """Nor does a second query for each passage: what is there was bought for the first."""
    plain = [item.key for item in RetrievalTask(RetrievalConfig(), PROSE[1:]).items()]
    more = [item.key for item in RetrievalTask(RetrievalConfig(), PROSE).items()]
    assert more[1:] == plain
    twice = [item.key for item in RetrievalTask(RetrievalConfig(num_queries=2), PROSE).items()]
    assert twice[::2] == more
    assert not set(twice[1::2]) & set(more)


def test_a_type_is_offered_as_often_as_its_weight_says() -> None:
    """The list steers the teacher; within five standard deviations. Of equal weights, all are offered."""
    weights = {"summary": 1.0, "keywords": 0.5, "yes_or_no": 0.1}
    task = RetrievalTask(RetrievalConfig(question_types=weights, difficulties={"phd": 1.0}, num_queries=20), PROSE)
    offered = Counter[str]()
    for item in task.items():
        offered.update(item.payload["plan"]["question_types"])
        assert item.payload["plan"]["difficulties"] == ["phd"]
    assert offered["summary"] == 800
    assert abs(offered["keywords"] - 400) < 71
    assert abs(offered["yes_or_no"] - 80) < 43
    for item in RetrievalTask(RetrievalConfig(), PROSE).items():
        assert item.payload["plan"]["question_types"] == list(QUESTION_TYPES)
        assert item.payload["plan"]["difficulties"] == list(DIFFICULTIES)


def test_the_length_follows_the_type_that_the_teacher_picks() -> None:
    config = RetrievalConfig(lengths={"2-6": 0.2, "7-15": 0.8}, cross_lingual_share=0.0)
    for one_call in (False, True):
        config.one_call = one_call
        task = RetrievalTask(config, PROSE[:8])
        for item in task.items():
            for chosen, length in (("keywords", "2 to 6 words"), ("summary", "7 to 15 words")):

                def answer(request: Request, chosen: str = chosen) -> Reply:
                    told = json.loads(obedient(request).text)
                    return Reply(json.dumps({**told, "Question_Type": chosen} if "Question_Type" in told else told))

                outcome, requests = drive(task, item, answer)
                assert isinstance(outcome, Accepted)
                assert outcome.facts[0]["length"] == length.removesuffix(" words").replace(" to ", "-")
                assert length in requests[-1].messages[-1].content


def test_a_passage_of_unknown_language_is_asked_about_in_its_own() -> None:
    passages = [passage(f"{one.text} {one.id}", "" if number % 2 else "und") for number, one in enumerate(PROSE)]
    task = RetrievalTask(RetrievalConfig(cross_lingual_share=1.0), passages)
    assert not any(item.payload["plan"]["cross_lingual"] for item in task.items())


def test_keyword_queries_get_the_shortest_lengths() -> None:
    task = RetrievalTask(RetrievalConfig(choice=Choice.plan, question_types=TYPES, lengths=LENGTHS), PROSE)
    plans = [item.payload["plan"] for item in task.items()]
    assert {plan["length"] for plan in plans if plan["question_type"] == "keywords"} == {"2-6"}


def test_two_calls_are_made_and_the_second_is_told_what_the_first_chose() -> None:
    task = RetrievalTask(RetrievalConfig(cross_lingual_share=0.0), PROSE)
    item = next(iter(task.items()))
    outcome, (configure, generate) = drive(task, item)
    assert configure.prompt.startswith("retrieval/configure@")
    assert generate.prompt.startswith("retrieval/generate@")
    assert configure.schema is not None
    offered = configure.schema["properties"]
    assert list(offered) == ["Character", "Question_Type", "Difficulty"], "the order of reasoning"
    assert offered["Question_Type"]["enum"] == list(QUESTION_TYPES)
    assert offered["Difficulty"]["enum"] == list(DIFFICULTIES)
    assert isinstance(outcome, Accepted)
    (facts,) = outcome.facts
    assert (facts["question_type"], facts["difficulty"]) == ("background", "phd"), "the last offered"
    chosen = PROSE[0].personas[item.payload["plan"]["order"][-1]]
    last = generate.messages[-1].content
    assert facts["persona"] == chosen
    assert f"Character: {chosen}" in last
    assert "Type: background" in last
    assert "Difficulty: phd" in last
    assert "Language: English" in last
    assert PROSE[0].text in last
    assert PROSE[0].text in configure.messages[-1].content


def test_a_plan_offers_one_choice_and_another_answer_is_rejected() -> None:
    task = RetrievalTask(RetrievalConfig(choice=Choice.plan, question_types={"summary": 1.0}), PROSE)
    item = next(iter(task.items()))

    def disobedient(request: Request) -> Reply:
        return Reply(json.dumps({**json.loads(obedient(request).text), "Question_Type": "keywords"}))

    outcome, requests = drive(task, item, disobedient)
    assert isinstance(outcome, Rejected)
    assert outcome.reason == "schema"
    assert "retrieval/configure" in outcome.detail
    assert len(requests) == 1, "no query is bought for it"


def test_one_call_asks_once_for_all_of_it() -> None:
    task = RetrievalTask(RetrievalConfig(one_call=True), PROSE)
    outcome, (request,) = drive(task, next(iter(task.items())))
    assert request.schema is not None
    assert list(request.schema["properties"]) == ["Character", "Question_Type", "Difficulty", "Query"]
    assert isinstance(outcome, Accepted)
    assert outcome.rows[0].query.startswith("Query of")


def test_the_candidates_are_shown_in_another_order_for_each_query() -> None:
    """Small models take the first: then it should not be the nearest persona each time."""
    task = RetrievalTask(RetrievalConfig(num_queries=5), PROSE)
    firsts = Counter(item.payload["plan"]["order"][0] for item in task.items())
    assert set(firsts) == set(range(5))
    assert max(firsts.values()) < 80
    assert all(sorted(item.payload["plan"]["order"]) == list(range(5)) for item in task.items())


def test_lengths_are_told_in_what_the_language_counts() -> None:
    config = RetrievalConfig(cross_lingual_share=1.0, languages={"zh": 0.3, "fr": 0.3, "th": 0.4}, lengths={"5-9": 1.0})
    told = {
        item.payload["plan"]["language"]: drive(RetrievalTask(config, PROSE), item)[1][1].messages[-1].content
        for item in RetrievalTask(config, PROSE[:16]).items()
    }
    assert "10 to 18 characters" in told["zh"]
    assert "5 to 9 words" in told["fr"]
    assert "15 to 27 characters (vowel and tone marks not counted)" in told["th"]
    assert "Language: Chinese" in told["zh"]


def test_hard_negatives_are_added_and_their_failure_does_not_cost_the_query() -> None:
    task = RetrievalTask(RetrievalConfig(num_hard_negatives=2), PROSE)
    item = next(iter(task.items()))
    outcome, requests = drive(task, item)
    assert isinstance(outcome, Accepted)
    assert len(outcome.rows[0].negatives) == 2
    assert len(requests) == 3
    assert outcome.facts[0]["num_hard_negatives"] == 2

    def answer(request: Request, negatives: object) -> Reply:
        if "hard_negatives" not in request.prompt:
            return obedient(request)
        return Reply(json.dumps({"Hard_Negatives": negatives}))

    outcome, _ = drive(task, item, lambda request: answer(request, ["one"]))
    assert isinstance(outcome, Accepted)
    assert outcome.rows[0].negatives == ()
    assert outcome.facts[0]["hard_negatives_rejected"] == "schema"
    own = [PROSE[0].text.upper(), "Another ferry."]
    outcome, _ = drive(task, item, lambda request: answer(request, own))
    assert isinstance(outcome, Accepted)
    assert outcome.rows[0].negatives == ("Another ferry.",)
    outcome, _ = drive(task, item, lambda request: answer(request, ["Twice.", "Twice."]))
    assert isinstance(outcome, Accepted)
    assert outcome.rows[0].negatives == ("Twice.",)


def test_a_passage_without_personas_is_rejected_before_anything_is_bought() -> None:
    bare = type(PROSE[0])(PROSE[0].id, PROSE[0].text, "en")
    task = RetrievalTask(RetrievalConfig(), [bare])
    outcome, requests = drive(task, next(iter(task.items())))
    assert isinstance(outcome, Rejected)
    assert outcome.reason == "no_personas"
    assert not requests


def test_a_query_equal_to_its_passage_is_rejected() -> None:
    task = RetrievalTask(RetrievalConfig(one_call=True), PROSE)

    def copying(request: Request) -> Reply:
        return Reply(json.dumps({**json.loads(obedient(request).text), "Query": PROSE[0].text.upper()}))

    outcome, _ = drive(task, next(iter(task.items())), copying)
    assert isinstance(outcome, Rejected)
    assert outcome.reason == "equal_texts"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"question_types": {"riddle": 1.0}}, "riddle"),
        ({"difficulties": {"phd": 0.0}}, "difficulties"),
        ({"lengths": {"long": 1.0}}, "lengths"),
        ({"lengths": {"9-3": 1.0}}, "lengths"),
        ({"cross_lingual_share": 1.5}, "cross_lingual_share"),
        ({"cross_lingual_share": 0.5, "languages": {"klingon": 1.0}}, "klingon"),
        ({"num_queries": 0}, "num_queries"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        RetrievalConfig(**changes)  # type: ignore[arg-type]
