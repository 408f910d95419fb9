"""Passage -> a text and its label, with confusable labels as hard negatives.

The passage gives the subject only. The teacher states a classification problem of the planned kind, writes a text for
it, and names the right label and confusable ones; the row's query is the text, its positive the label, its hard
negatives the confusable labels.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from data_synth.documents import Passage
from data_synth.languages import bucket_bounds, language_name, length_phrase
from data_synth.parsing import parse_reply
from data_synth.plans import Mix, check_weights, point
from data_synth.prompts import load_prompt
from data_synth.schemas import object_schema, text, texts
from data_synth.tasks.items import SamplingConfig, build_item, build_request
from data_synth.tasks.rows import accept, at, facts_of, instruction_of, source_of
from data_synth.work import Rejected, Steps, WorkItem
from qwen3emb_train.data.records import TrainingExample

CLASSIFICATION_KINDS = ("topic", "intent", "sentiment", "emotion", "genre", "audience", "claim", "priority")
_MAX_LABEL = 120  # characters


@dataclass
class ClassificationConfig:
    """Settings of the classification task.

    Attributes:
        kinds: weights of what is classified.
        lengths: weights of ranges of words of the text.
        num_confusable: wrong labels per row.
        num_texts: texts per passage.
        sampling: how the teacher samples.
        seed: seed of the plan.
        prompts: directory of own templates; null = the shipped ones.
    """

    kinds: dict[str, float] = field(
        default_factory=lambda: {
            "topic": 0.25, "intent": 0.2, "sentiment": 0.15, "emotion": 0.1, "genre": 0.1, "audience": 0.05,
            "claim": 0.1, "priority": 0.05,
        }
    )  # fmt: skip
    lengths: dict[str, float] = field(default_factory=lambda: {"8-20": 0.5, "21-60": 0.35, "61-120": 0.15})
    num_confusable: int = 3
    num_texts: int = 1
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    seed: int = 0
    prompts: str | None = None

    def __post_init__(self) -> None:
        check_weights(self.kinds, "kinds", CLASSIFICATION_KINDS)
        check_weights(self.lengths, "lengths")
        for bucket in self.lengths:
            bucket_bounds(bucket, "lengths")
        if self.num_confusable < 1 or self.num_texts < 1:
            raise ValueError(f"num_confusable={self.num_confusable}, num_texts={self.num_texts}: give at least 1.")


class ClassificationTask:
    """Labelled texts on the subjects of passages of prose."""

    name = "classification"

    def __init__(
        self,
        config: ClassificationConfig,
        passages: Iterable[Passage],
        *,
        instructions: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """
        Args:
            config: of the task.
            passages: an iterable that can be iterated repeatedly; passages of prose are used.
            instructions: source -> instructions of its rows, in place of the one that the teacher writes.
        """
        self.config = config
        self._passages = passages
        self._instructions = dict(instructions or {})
        self._prompt = load_prompt("classification/generate", config.prompts)

    def items(self) -> Iterator[WorkItem]:
        """An item for each text of each passage."""
        config = self.config
        kinds, lengths = Mix(config.kinds), Mix(config.lengths)
        settings = {"sampling": vars(config.sampling), "num_confusable": config.num_confusable}
        for passage in (passage for passage in self._passages if not passage.code):
            for turn in range(config.num_texts):
                plan = {
                    "kind": kinds.at(point(config.seed, "kind", passage.id, turn)),
                    "length": lengths.at(point(config.seed, "length", passage.id, turn)), "turn": turn,
                }  # fmt: skip
                yield build_item(self.name, passage, plan, settings, (self._prompt,))

    def steps(self, item: WorkItem) -> Steps:
        """Problem, text and labels in one call."""
        passage, plan = Passage.from_json(item.payload["passage"]), item.payload["plan"]
        num = self.config.num_confusable
        schema = object_schema(Instruction=text(), Text=text(), Label=text(), Confusable_Labels=texts(num))
        values = {
            "passage": passage.text, "language": language_name(passage.language), "kind": plan["kind"], "num": num,
            "length": length_phrase(plan["length"], passage.language),
        }  # fmt: skip
        answer = parse_reply(
            (yield build_request(self._prompt, values, schema, self.config.sampling, item)), schema, lines=("Text",)
        )
        if isinstance(answer, Rejected):
            return at(self._prompt, answer)
        labels = [answer["Label"], *answer["Confusable_Labels"]]
        if too_long := [label for label in labels if len(label) > _MAX_LABEL]:
            return Rejected("long_label", f"{self._prompt.name}: {too_long[0][:200]!r}")
        row = TrainingExample(
            query=answer["Text"], positives=(answer["Label"],), negatives=tuple(answer["Confusable_Labels"]),
            task=self.name, source=source_of(passage), language=passage.language,
            instruction=instruction_of(self._instructions, passage, answer["Instruction"]),
        )  # fmt: skip
        return accept(row, facts_of(passage, plan, self._prompt, languages={"query": passage.language}))
