"""Work items: their keys, their sampling, and which sentences of a passage they are about."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_synth.chunking import sentences
from data_synth.documents import Passage
from data_synth.languages import bucket_bounds, count_words
from data_synth.prompts import Prompt
from data_synth.work import Request, Sampling, WorkItem
from qwen3emb_train.lineage import value_digest

_NOT_IN_REQUESTS = ("id", "source", "title", "document")  # fields of a passage


@dataclass
class SamplingConfig:
    """How the teacher samples. A field that is null is not sent; the server's own default holds.

    Attributes:
        temperature: default from Qwen3's model card, non-thinking mode.
        top_p: nucleus sampling; default from the same card.
        max_tokens: limit of a reply; a truncated reply is rejected. Where it is raised, only those are asked again.
        seed: of the server's generator, mixed into each request's own. To change it asks nothing again.
    """

    temperature: float | None = 0.7
    top_p: float | None = 0.8
    max_tokens: int | None = 512
    seed: int | None = 0

    def __post_init__(self) -> None:
        is_hot = self.temperature is None or self.temperature >= 0
        if not is_hot or not 0 < (1 if self.top_p is None else self.top_p) <= 1 or (self.max_tokens or 1) < 1:
            raise ValueError(
                f"temperature={self.temperature}, top_p={self.top_p}, max_tokens={self.max_tokens}: "
                "give temperature >= 0, 0 < top_p <= 1, max_tokens >= 1, or null."
            )


def check_share(share: float) -> None:
    """Checks the share of passages that a task asks about.

    Raises:
        ValueError: not above 0, or above 1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share={share}: give a number above 0 and up to 1; leave the task out of tasks for none.")


def build_item(
    task: str, passage: Passage, plan: Mapping[str, Any], settings: Mapping[str, Any], prompts: Sequence[Prompt]
) -> WorkItem:
    """An item about a passage.

    Args:
        task: its name.
        passage: kept in the payload.
        plan: of this item; with "turn" if a passage has several.
        settings: other parts of the configuration that the requests depend on.
        prompts: used by the item's steps.
    """
    shown = passage.to_json()
    decisive = {name: value for name, value in shown.items() if name not in _NOT_IN_REQUESTS}
    described = {
        "task": task, "passage": decisive, "plan": plan, "settings": settings,
        "prompts": [prompt.label for prompt in prompts],
    }  # fmt: skip
    return WorkItem(value_digest(described), task, {"passage": shown, "plan": dict(plan)}, passage.id)


def build_request(
    prompt: Prompt, values: Mapping[str, Any], schema: Mapping[str, Any], sampling: SamplingConfig, item: WorkItem
) -> Request:
    """A call of an item. Its turn and its sampling seed keep apart two queries of one passage that are asked alike.

    Args:
        prompt: template.
        values: of the template's variables.
        schema: of the reply.
        sampling: of the reply.
        item: that the call belongs to.
    """
    messages, turn = prompt.render(values), f"{item.group}/{item.payload['plan'].get('turn', 0)}"
    seed = None
    if sampling.seed is not None:
        content = [sampling.seed, turn, [message.content for message in messages]]
        seed = int(value_digest(content)[:7], 16)
    return Request(
        messages=messages,
        schema=schema,
        sampling=Sampling(sampling.temperature, sampling.top_p, sampling.max_tokens, seed),
        prompt=prompt.label,
        turn=turn,
    )


def fitting_excerpt(text: str, bucket: str, buckets: Iterable[str], choice: int) -> tuple[str, str]:
    """A bucket and an excerpt of that length.

    It is the planned bucket, or else the first other one that the text can fill, so that a short passage is not lost;
    the excerpt is "" if it fills none.

    Args:
        text: a passage.
        bucket: the planned one, e.g. "5-25" words.
        buckets: the others, in order of preference.
        choice: selects among the possible excerpts.
    """
    for tried in (bucket, *buckets):
        if found := excerpt(text, tried, choice):
            return tried, found
    return bucket, ""


def excerpt(text: str, bucket: str, choice: int) -> str:
    """Consecutive sentences with a number of words within the bucket; "" if the text has none.

    Args:
        text: a passage.
        bucket: "5-25" words; in scripts without spaces, what two or three characters come to.
        choice: any number; selects among the possible excerpts.
    """
    low, high = bucket_bounds(bucket, "lengths")
    found = [sentence for sentence in sentences(text) if not sentence.startswith("#")]  # headings are no sentences
    sizes = [count_words(sentence) for sentence in found]
    possible = []
    for start in range(len(found)):
        size = 0
        for end in range(start, len(found)):
            size += sizes[end]
            if size > high:
                break
            if size >= low:
                possible.append((start, end + 1))
                break
    if not possible:
        return ""
    start, end = possible[choice % len(possible)]
    return " ".join(found[start:end])
