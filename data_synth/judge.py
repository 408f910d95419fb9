"""An optional judge: the teacher itself rates each row, and rows with a low rating are rejected.

The judge's call is one more step of the same item, so it is paid for once and recorded like the others. The rating is
a fact of the row; the threshold is applied when results are published, so changing it costs no request.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from data_synth.filters.candidates import Candidate, Reason, Verdict, shorten
from data_synth.parsing import parse_reply
from data_synth.prompts import load_prompt
from data_synth.schemas import object_schema, one_of
from data_synth.work import Accepted, Rejected, Request, Sampling, Steps, Task, WorkItem
from qwen3emb_train.data.records import TrainingExample

_RATINGS = ("1", "2", "3", "4", "5")
_PROMPT = "judge/rate"
_SCHEMA = object_schema(Rating=one_of(_RATINGS))


@dataclass
class JudgeConfig:
    """The rating call.

    Attributes:
        enabled: whether rows are rated.
        min_rating: from 1 (nothing to do with the query) to 5 (answers it fully); lower rows are rejected.
        tasks: tasks whose rows are rated. Translations and graded pairs have no query to answer.
        max_tokens: of the rating's reply.
    """

    enabled: bool = False
    min_rating: int = 4
    tasks: list[str] = field(default_factory=lambda: ["retrieval", "code"])
    max_tokens: int = 32

    def __post_init__(self) -> None:
        if not 1 <= self.min_rating <= 5:
            raise ValueError(f"judge.min_rating={self.min_rating}: ratings go from 1 to 5.")


class JudgedTask:
    """A task whose accepted items are rated in a further call.

    Args:
        task: the task to wrap.
        config: of the rating.
        prompts: directory of templates; None for the shipped ones.
    """

    def __init__(self, task: Task, config: JudgeConfig, prompts: str | None = None) -> None:
        self.name = task.name
        self._task, self._config = task, config
        self._prompt = load_prompt(_PROMPT, prompts)

    def items(self) -> Iterator[WorkItem]:
        """The task's items with keys that depend on the rating prompt, too."""
        rating = f"{self._prompt.label} {self._config.max_tokens}"
        for item in self._task.items():
            yield replace(item, key=hashlib.sha256(f"{item.key} {rating}".encode()).hexdigest())

    def steps(self, item: WorkItem) -> Steps:
        outcome = yield from self._task.steps(item)
        if isinstance(outcome, Rejected):
            return outcome
        facts: list[dict[str, Any]] = []
        for number, row in enumerate(outcome.rows):
            reply = parse_reply((yield self._request(row)), _SCHEMA)
            if isinstance(reply, Rejected):
                return replace(reply, reason=f"judge_{reply.reason}", rows=outcome.rows)
            known = outcome.facts[number] if number < len(outcome.facts) else {}
            facts.append({**known, "rating": reply["Rating"], "judge": self._prompt.label})
        return Accepted(outcome.rows, tuple(facts))

    def _request(self, row: TrainingExample) -> Request:
        values = {
            "instruction": row.instruction or "Given a query, retrieve what answers it",
            "query": row.query,
            "document": row.positives[0],
        }
        sampling = Sampling(temperature=0.0, top_p=1.0, max_tokens=self._config.max_tokens)
        return Request(self._prompt.render(values), _SCHEMA, sampling, self._prompt.label)


class RatingFilter:
    """Rejects rows whose rating is below ``min_rating``."""

    def __init__(self, config: JudgeConfig) -> None:
        self._least = config.min_rating

    def __call__(self, candidate: Candidate) -> Verdict:
        rating = candidate.facts.get("rating")
        if rating is None or int(rating) >= self._least:
            return True
        return Reason("judge", f"rated {rating}, at least {self._least}: {shorten(candidate.row.query)}")


def judged(task: Task, config: JudgeConfig, prompts: str | None = None) -> Task:
    """The task, wrapped in ``JudgedTask`` if the configuration includes it.

    Args:
        task: the task.
        config: of the rating.
        prompts: directory of templates; None for the shipped ones.
    """
    return JudgedTask(task, config, prompts) if config.enabled and task.name in config.tasks else task
