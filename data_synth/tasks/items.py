"""Work items: their keys, their sampling, and which sentences of a passage they are about."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from data_synth.chunking import sentences
from data_synth.documents import Passage
from data_synth.languages import bucket_bounds
from data_synth.prompts import Prompt
from data_synth.work import Request, Sampling, WorkItem
from qwen3emb_train.lineage import value_digest
from qwen3emb_train.texts.words import words

_NOT_IN_REQUESTS = ("id", "source", "title", "document")  # fields of a passage


@dataclass
class SamplingConfig:
    """How the teacher samples.

    Attributes:
        temperature: default from Qwen3's model card, non-thinking mode.
        top_p: nucleus sampling; default from the same card.
        max_tokens: limit of a reply; a truncated reply is rejected.
    """

    temperature: float = 0.7
    top_p: float = 0.8
    max_tokens: int = 512

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.max_tokens < 1:
            raise ValueError(
                f"temperature={self.temperature}, top_p={self.top_p}, max_tokens={self.max_tokens}: "
                "give temperature >= 0, 0 < top_p <= 1, max_tokens >= 1."
            )


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
    """A call of an item. Its sampling seed comes from the item's key, so that two items with one text differ.

    Args:
        prompt: template.
        values: of the template's variables.
        schema: of the reply.
        sampling: of the reply.
        item: that the call belongs to.
    """
    return Request(
        messages=prompt.render(values),
        schema=schema,
        sampling=Sampling(**asdict(sampling), seed=int(item.key[:7], 16)),
        prompt=prompt.label,
    )


def pick(seed: int, *parts: object) -> int:
    """A 64-bit hash of the arguments, the same in every process."""
    text = "/".join(map(str, (seed, *parts)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


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
        bucket: "5-25" words; a character counts as one in scripts without spaces.
        choice: any number; selects among the possible excerpts.
    """
    low, high = bucket_bounds(bucket, "lengths")
    found = [sentence for sentence in sentences(text) if not sentence.startswith("#")]  # headings are no sentences
    sizes = [len(words(sentence)) for sentence in found]
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
