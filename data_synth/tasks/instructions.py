"""Sample passages of a source -> some sentences that describe what its queries ask for.

Each row of the source in the retrieval and code tasks gets one of them as its instruction. Instructions that fit the
source are closer to what users of the model will write than a general one, and several keep the model from learning one
by heart.
"""

import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from data_synth.documents import Passage
from data_synth.parsing import parse_reply
from data_synth.plans import pick
from data_synth.prompts import load_prompt
from data_synth.schemas import object_schema, texts
from data_synth.tasks.items import SamplingConfig, build_item, build_request
from data_synth.tasks.rows import accept, at, facts_of, source_of
from data_synth.work import Accepted, Outcome, Rejected, Steps, WorkItem
from qwen3emb_train.data.records import TrainingExample

_SHOWN_CHARACTERS = 1200  # of each sample passage


@dataclass
class InstructionsConfig:
    """Settings of the instructions task.

    Attributes:
        num_passages: passages of a source that the teacher sees.
        num_instructions: sentences for a source, each in other words.
        max_words: a longer sentence is left out.
        sampling: how the teacher samples.
        seed: seed of the plan.
        prompts: directory of own templates; null = the shipped ones.
    """

    num_passages: int = 5
    num_instructions: int = 3
    max_words: int = 40
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(temperature=0.3, max_tokens=256))
    seed: int = 0
    prompts: str | None = None

    def __post_init__(self) -> None:
        if min(self.num_passages, self.num_instructions, self.max_words) < 1:
            raise ValueError(
                f"num_passages={self.num_passages}, num_instructions={self.num_instructions}, "
                f"max_words={self.max_words}: give at least 1."
            )


class InstructionsTask:
    """One item per source. Its rows contain the sentences and are not training data."""

    name = "instructions"

    def __init__(self, config: InstructionsConfig, passages: Iterable[Passage]) -> None:
        """``passages`` can be iterated repeatedly."""
        self.config = config
        self._passages = passages
        self._prompt = load_prompt("instructions/generate", config.prompts)

    def items(self) -> Iterator[WorkItem]:
        """Reads all passages once and keeps a few of each source, chosen by hash."""
        config = self.config
        settings = {
            "sampling": vars(config.sampling), "max_words": config.max_words, "num": config.num_instructions
        }  # fmt: skip
        samples: dict[str, list[tuple[int, str, Passage]]] = defaultdict(list)
        for passage in self._passages:
            kept = samples[passage.source]
            entry = (-pick(self.config.seed, passage.id), passage.id, passage)
            if len(kept) < self.config.num_passages:
                heapq.heappush(kept, entry)
            else:
                heapq.heappushpop(kept, entry)
        for kept in samples.values():
            chosen = [passage for _, _, passage in sorted(kept, key=lambda entry: entry[:2], reverse=True)]
            plan = {"passages": [passage.text[:_SHOWN_CHARACTERS] for passage in chosen]}
            yield build_item(self.name, chosen[0], plan, settings, (self._prompt,))

    def steps(self, item: WorkItem) -> Steps:
        """The sentences; those that are too long, or were there before, are left out."""
        passage, plan = Passage.from_json(item.payload["passage"]), item.payload["plan"]
        num = self.config.num_instructions
        schema = object_schema(Instructions=texts(num))
        values = {"passages": plan["passages"], "kind": "code" if passage.code else "text", "num": num}
        answer = parse_reply((yield build_request(self._prompt, values, schema, self.config.sampling, item)), schema)
        if isinstance(answer, Rejected):
            return at(self._prompt, answer)
        sentences = [" ".join(written.split()).rstrip(".") for written in answer["Instructions"]]
        kept = [sentence for sentence in sentences if len(sentence.split()) <= self.config.max_words]
        if not kept:
            return Rejected("long_instruction", f"more than max_words={self.config.max_words}: {sentences[0][:300]}")
        rows: list[TrainingExample] = []
        facts: list[Mapping[str, Any]] = []
        for sentence in {sentence.casefold(): sentence for sentence in reversed(kept)}.values():
            row = TrainingExample(
                query=sentence, positives=(passage.text,), task=self.name, instruction=sentence,
                source=source_of(passage), language=passage.language,
            )  # fmt: skip
            known = facts_of(passage, {}, self._prompt, instruction=sentence, source=passage.source)
            outcome = accept(row, known)
            if isinstance(outcome, Rejected):
                return outcome
            rows, facts = [*outcome.rows, *rows], [*outcome.facts, *facts]
        return Accepted(tuple(rows), tuple(facts))


def instructions_of(outcomes: Iterable[Outcome]) -> Mapping[str, tuple[str, ...]]:
    """Source -> sentences, of the sources that have some."""
    found: dict[str, list[str]] = defaultdict(list)
    for outcome in outcomes:
        for fact in outcome.facts if isinstance(outcome, Accepted) else ():
            found[fact["source"]].append(fact["instruction"])
    return {source: tuple(sentences) for source, sentences in found.items()}
