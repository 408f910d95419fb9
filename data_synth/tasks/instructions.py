"""Sample passages of a source -> one sentence that describes what its queries ask for.

The sentence becomes the instruction of the source's rows in the retrieval and code tasks. An instruction that fits the
source is closer to what users of the model will write than a general one.
"""

import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from data_synth.documents import Passage
from data_synth.parsing import parse_reply
from data_synth.plans import pick
from data_synth.prompts import load_prompt
from data_synth.schemas import object_schema, text
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
        max_words: a longer sentence is rejected.
        sampling: how the teacher samples.
        seed: seed of the plan.
        prompts: directory of own templates; null = the shipped ones.
    """

    num_passages: int = 5
    max_words: int = 40
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(temperature=0.3, max_tokens=128))
    seed: int = 0
    prompts: str | None = None

    def __post_init__(self) -> None:
        if self.num_passages < 1 or self.max_words < 1:
            raise ValueError(f"num_passages={self.num_passages}, max_words={self.max_words}: give at least 1.")


class InstructionsTask:
    """One item per source. Its rows contain the sentence and are not training data."""

    name = "instructions"

    def __init__(self, config: InstructionsConfig, passages: Iterable[Passage]) -> None:
        """``passages`` can be iterated repeatedly."""
        self.config = config
        self._passages = passages
        self._prompt = load_prompt("instructions/generate", config.prompts)

    def items(self) -> Iterator[WorkItem]:
        """Reads all passages once and keeps a few of each source, chosen by hash."""
        settings = {"sampling": vars(self.config.sampling), "max_words": self.config.max_words}
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
        """The sentence."""
        passage, plan = Passage.from_json(item.payload["passage"]), item.payload["plan"]
        schema = object_schema(Instruction=text())
        values = {"passages": plan["passages"], "kind": "code" if passage.code else "text"}
        answer = parse_reply((yield build_request(self._prompt, values, schema, self.config.sampling, item)), schema)
        if isinstance(answer, Rejected):
            return at(self._prompt, answer)
        sentence = " ".join(answer["Instruction"].split()).rstrip(".")
        if len(sentence.split()) > self.config.max_words:
            return Rejected("long_instruction", f"more than max_words={self.config.max_words}: {sentence[:300]}")
        row = TrainingExample(
            query=sentence, positives=(passage.text,), task=self.name, instruction=sentence,
            source=source_of(passage), language=passage.language,
        )  # fmt: skip
        return accept(row, facts_of(passage, {}, self._prompt, instruction=sentence, source=passage.source))


def instructions_of(outcomes: Iterable[Outcome]) -> Mapping[str, str]:
    """Source -> sentence, of the sources that have one."""
    facts = (fact for outcome in outcomes if isinstance(outcome, Accepted) for fact in outcome.facts)
    return {fact["source"]: fact["instruction"] for fact in facts}
