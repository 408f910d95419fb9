"""The judge's call, and the estimate of a dry run."""

import json
from collections.abc import Iterator

import pytest

from data_synth.costs import estimate, placeholder_reply, tokens_of
from data_synth.judge import JudgeConfig, JudgedTask, RatingFilter, judged
from data_synth.progress import PricesConfig
from data_synth.schemas import object_schema, one_of, schema_problem, text, texts
from data_synth.work import Accepted, Message, Rejected, Reply, Request, Sampling, Steps, WorkItem
from qwen3emb_train.data.records import TrainingExample
from tests.data_synth.filters.rows import candidate, name_of

SCHEMA = object_schema(kind=one_of(["a", "b"]), query=text(), others=texts(3))


class Plain:
    """One call an item."""

    name = "retrieval"

    def items(self) -> Iterator[WorkItem]:
        for number in range(10):
            yield WorkItem(f"{number:064x}", self.name, {"text": "x" * 400})

    def steps(self, item: WorkItem) -> Steps:
        messages = (Message("system", "s" * 400), Message("user", item.payload["text"]))
        reply = yield Request(messages, SCHEMA, Sampling(max_tokens=100), "plain@1")
        if schema_problem(json.loads(reply.text), SCHEMA):
            return Rejected("schema", reply.text)
        return Accepted((TrainingExample("what is it", ("a document",)),), ({"question_type": "summary"},))


def drive(steps: Steps, replies: list[str]) -> tuple[Accepted | Rejected, list[Request]]:
    requests = [next(steps)]
    try:
        for reply in replies:
            requests.append(steps.send(Reply(reply)))
    except StopIteration as end:
        return end.value, requests
    raise AssertionError("the steps want more replies")


GOOD = json.dumps({"kind": "a", "query": "q", "others": ["1", "2", "3"]})


def test_an_accepted_row_is_rated_and_keeps_its_facts() -> None:
    task = JudgedTask(Plain(), JudgeConfig(enabled=True))
    outcome, requests = drive(task.steps(next(task.items())), [GOOD, '{"Rating": "4"}'])
    assert isinstance(outcome, Accepted)
    assert outcome.facts[0]["rating"] == "4"
    assert outcome.facts[0]["question_type"] == "summary"
    shown = requests[1].messages[-1].content
    assert "what is it" in shown
    assert "a document" in shown
    assert requests[1].sampling.temperature == 0


def test_a_rejected_item_is_not_rated_and_an_unreadable_rating_rejects() -> None:
    task = JudgedTask(Plain(), JudgeConfig(enabled=True))
    outcome, requests = drive(task.steps(next(task.items())), ['{"kind": "c"}'])
    assert isinstance(outcome, Rejected)
    assert len(requests) == 1
    outcome, _ = drive(task.steps(next(task.items())), [GOOD, "five stars"])
    assert isinstance(outcome, Rejected)
    assert outcome.reason == "judge_not_json"
    assert outcome.rows, "what it would have been is kept"


@pytest.mark.parametrize(("rating", "expected"), [("5", "kept"), ("4", "kept"), ("3", "judge"), (None, "kept")])
def test_the_least_rating(rating: str | None, expected: str) -> None:
    facts = {} if rating is None else {"rating": rating}
    assert name_of(RatingFilter(JudgeConfig(min_rating=4))(candidate("a query", facts=facts))) == expected


def test_rated_work_is_other_work_but_its_least_rating_is_not() -> None:
    def keys(config: JudgeConfig) -> list[str]:
        return [item.key for item in judged(Plain(), config).items()]

    plain, rated = keys(JudgeConfig()), keys(JudgeConfig(enabled=True))
    assert not set(plain) & set(rated)
    assert keys(JudgeConfig(enabled=True, min_rating=2)) == rated
    assert keys(JudgeConfig(enabled=True, tasks=["code"])) == plain


def test_a_placeholder_reply_fits_its_schema() -> None:
    request = Request((), SCHEMA, Sampling(), "p@1")
    assert schema_problem(json.loads(placeholder_reply(request)), SCHEMA) is None
    assert placeholder_reply(Request((), None, Sampling(), "p@1"))


def test_an_estimate_renders_some_items_and_counts_all() -> None:
    found = estimate(Plain(), 4)
    assert (found.num_items, found.num_rendered, found.calls["plain@1"]) == (10, 4, 4)
    told = found.scaled(PricesConfig(prompt=1.0, completion=10.0), completion_tokens=20)
    assert told["calls"] == 10
    assert told["prompt_tokens"] == 10 * tokens_of(found.examples["plain@1"]) == 10 * 208
    assert told["completion_tokens"] == 200
    assert told["cost"] == pytest.approx((2080 * 1 + 200 * 10) / 1e6, abs=1e-4)
    assert told["cost_at_most"] == pytest.approx((2080 * 1 + 1000 * 10) / 1e6, abs=1e-4)


def test_nothing_to_do_costs_nothing() -> None:
    class Empty(Plain):
        def items(self) -> Iterator[WorkItem]:
            return iter(())

    assert estimate(Empty(), 4).scaled(PricesConfig(1.0, 1.0), 20)["cost"] == 0
