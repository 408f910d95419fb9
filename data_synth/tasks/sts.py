"""A sentence -> sentences of graded similarity to it.

The grades are those of the STS shared tasks, 0 (unrelated) to 5 (same meaning). A single pair of a low grade would be
a false positive, so an item has several sentences: the one with the high grade is the positive, the others are hard
negatives, and ``scores`` has each grade / 5 for losses that use them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from data_synth.documents import Passage
from data_synth.languages import bucket_bounds, language_name
from data_synth.parsing import parse_reply
from data_synth.plans import Mix, check_weights, pick, point
from data_synth.prompts import load_prompt
from data_synth.schemas import object_schema, texts
from data_synth.tasks.items import SamplingConfig, build_item, build_request, fitting_excerpt
from data_synth.tasks.rows import accept, at, facts_of, instruction_of, source_of
from data_synth.work import Rejected, Steps, WorkItem
from qwen3emb_train.data.records import TrainingExample

_HIGHEST = 5
_GRADES = tuple(map(str, range(_HIGHEST + 1)))


@dataclass
class StsConfig:
    """Settings of the STS task.

    Attributes:
        positive_grades: weights of the positive's grade.
        negative_grades: weights of the negatives' grades, all below the positives'.
        num_negatives: graded sentences besides the positive.
        lengths: weights of ranges of words of the query sentence; a passage without one uses another range, or is
            rejected.
        num_sentences: sentences per passage.
        instruction: instruction of rows whose source has none.
        sampling: how the teacher samples.
        seed: seed of the plan.
        prompts: directory of own templates; null = the shipped ones.
    """

    positive_grades: dict[str, float] = field(default_factory=lambda: {"5": 0.6, "4": 0.4})
    negative_grades: dict[str, float] = field(default_factory=lambda: {"3": 0.3, "2": 0.3, "1": 0.25, "0": 0.15})
    num_negatives: int = 2
    lengths: dict[str, float] = field(default_factory=lambda: {"5-15": 0.6, "16-35": 0.4})
    num_sentences: int = 1
    instruction: str = "Retrieve semantically similar text"
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    seed: int = 0
    prompts: str | None = None

    def __post_init__(self) -> None:
        check_weights(self.positive_grades, "positive_grades", _GRADES)
        check_weights(self.negative_grades, "negative_grades", _GRADES)
        check_weights(self.lengths, "lengths")
        for bucket in self.lengths:
            bucket_bounds(bucket, "lengths")
        lowest = min(grade for grade, weight in self.positive_grades.items() if weight)
        highest = max(grade for grade, weight in self.negative_grades.items() if weight)
        if highest >= lowest:
            raise ValueError(
                f"negative_grades has {highest}, positive_grades {lowest}: a negative could be as similar as a "
                "positive. Give negatives lower grades."
            )
        if self.num_negatives < 1 or self.num_sentences < 1:
            raise ValueError(
                f"num_negatives={self.num_negatives}, num_sentences={self.num_sentences}: give at least 1."
            )


class StsTask:
    """Graded sentences for passages of prose."""

    name = "sts"

    def __init__(
        self, config: StsConfig, passages: Iterable[Passage], *, instructions: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        """
        Args:
            config: of the task.
            passages: an iterable that can be iterated repeatedly; passages of prose are used.
            instructions: source -> instructions of its rows, in place of the configured one.
        """
        self.config = config
        self._passages = passages
        self._instructions = dict(instructions or {})
        self._prompt = load_prompt("sts/grade", config.prompts)

    def items(self) -> Iterator[WorkItem]:
        """An item for each sentence of each passage."""
        config = self.config
        lengths, positives, negatives = map(Mix, (config.lengths, config.positive_grades, config.negative_grades))
        settings = {"sampling": vars(config.sampling)}
        for passage in (passage for passage in self._passages if not passage.code):
            for turn in range(config.num_sentences):
                places = [
                    point(config.seed, "negative", passage.id, turn, index) for index in range(config.num_negatives)
                ]
                lower = sorted((negatives.at(place) for place in places), reverse=True)
                highest = positives.at(point(config.seed, "positive", passage.id, turn))
                planned = lengths.at(point(config.seed, "length", passage.id, turn))
                choice = pick(config.seed, passage.id) + turn
                length, sentence = fitting_excerpt(passage.text, planned, config.lengths, choice)
                grades = [int(grade) for grade in (highest, *lower)]
                plan = {"length": length, "grades": grades, "sentence": sentence, "turn": turn}
                yield build_item(self.name, passage, plan, settings, (self._prompt,))

    def steps(self, item: WorkItem) -> Steps:
        """The graded sentences, highest grade first."""
        passage, plan = Passage.from_json(item.payload["passage"]), item.payload["plan"]
        if not plan["sentence"]:
            return Rejected("no_sentences", f"no sentences of {' or '.join(self.config.lengths)} words.")
        schema = object_schema(Sentences=texts(len(plan["grades"])))
        values = {
            "sentence": plan["sentence"], "language": language_name(passage.language), "grades": plan["grades"],
        }  # fmt: skip
        answer = parse_reply((yield build_request(self._prompt, values, schema, self.config.sampling, item)), schema)
        if isinstance(answer, Rejected):
            return at(self._prompt, answer)
        positive, *negatives = answer["Sentences"]
        row = TrainingExample(
            query=plan["sentence"], positives=(positive,), negatives=tuple(negatives), task=self.name,
            instruction=instruction_of(self._instructions, passage, self.config.instruction),
            source=source_of(passage), language=passage.language,
            scores=tuple(grade / _HIGHEST for grade in plan["grades"]),
        )  # fmt: skip
        languages = dict.fromkeys(("query", "positive", "negative"), passage.language)
        shown = {name: value for name, value in plan.items() if name != "sentence"}
        return accept(row, facts_of(passage, shown, self._prompt, languages=languages))
