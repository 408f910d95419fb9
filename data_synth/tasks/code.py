"""Function -> the question that it answers: pairs for code search.

One call. The plan determines the form of the question (how-to, description, keywords, problem), its length and its
natural language.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from data_synth.documents import Passage
from data_synth.languages import bucket_bounds, check_languages, language_name, length_phrase
from data_synth.parsing import parse_reply
from data_synth.plans import Mix, check_weights, point
from data_synth.prompts import load_prompt
from data_synth.schemas import object_schema, text
from data_synth.tasks.hard_negatives import HardNegatives
from data_synth.tasks.items import SamplingConfig, build_item, build_request
from data_synth.tasks.rows import accept, at, facts_of, instruction_of, source_of
from data_synth.work import Rejected, Steps, WorkItem
from qwen3emb_train.data.records import TrainingExample

CODE_QUESTION_TYPES = ("how_to", "description", "keywords", "problem")


@dataclass
class CodeConfig:
    """Settings of the code task.

    Attributes:
        question_types: weights of the forms of the question.
        lengths: weights of the question's length, in ranges of words.
        languages: weights of the questions' natural languages.
        num_queries: questions per function.
        num_hard_negatives: similar functions that do something else, written in a further call.
        instruction: instruction of rows whose source has none.
        sampling: how the teacher samples.
        seed: seed of the plan.
        prompts: directory of own templates; null = the shipped ones.
    """

    question_types: dict[str, float] = field(
        default_factory=lambda: {"how_to": 0.4, "description": 0.3, "keywords": 0.15, "problem": 0.15}
    )
    lengths: dict[str, float] = field(default_factory=lambda: {"4-9": 0.4, "10-20": 0.6})
    languages: dict[str, float] = field(default_factory=lambda: {"en": 1.0})
    num_queries: int = 1
    num_hard_negatives: int = 0
    instruction: str = "Given a question about programming, retrieve the code that answers it"
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    seed: int = 0
    prompts: str | None = None

    def __post_init__(self) -> None:
        check_weights(self.question_types, "question_types", CODE_QUESTION_TYPES)
        check_weights(self.lengths, "lengths")
        check_weights(self.languages, "languages")
        check_languages(list(self.languages), "languages")
        for bucket in self.lengths:
            bucket_bounds(bucket, "lengths")
        if self.num_queries < 1 or self.num_hard_negatives < 0:
            raise ValueError(
                f"num_queries={self.num_queries}, num_hard_negatives={self.num_hard_negatives}: "
                "give at least 1 and at least 0."
            )


class CodeTask:
    """Questions for passages of code."""

    name = "code"

    def __init__(
        self,
        config: CodeConfig,
        passages: Iterable[Passage],
        *,
        instructions: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """
        Args:
            config: of the task.
            passages: an iterable that can be iterated repeatedly; passages of code are used.
            instructions: source -> instructions of its rows, in place of the configured one.
        """
        self.config = config
        self._passages = passages
        self._instructions = dict(instructions or {})
        self._prompt = load_prompt("code/generate", config.prompts)
        self._hard_negatives = HardNegatives(config.num_hard_negatives, config.sampling, config.prompts)

    def items(self) -> Iterator[WorkItem]:
        """An item for each question of each function."""
        config = self.config
        mixes = {"question_type": config.question_types, "length": config.lengths, "language": config.languages}
        drawn = {name: Mix(weights) for name, weights in mixes.items()}
        settings = {"sampling": vars(config.sampling), **self._hard_negatives.settings}
        prompts = (self._prompt, *self._hard_negatives.prompts)
        for passage in (passage for passage in self._passages if passage.code):
            for turn in range(config.num_queries):
                plan = {name: mix.at(point(config.seed, name, passage.id, turn)) for name, mix in drawn.items()}
                yield build_item(self.name, passage, {**plan, "turn": turn}, settings, prompts)

    def steps(self, item: WorkItem) -> Steps:
        """The question, and hard negatives if configured."""
        passage, plan = Passage.from_json(item.payload["passage"]), item.payload["plan"]
        schema = object_schema(Query=text())
        values = {
            "code": passage.text, "programming_language": passage.code, "type": plan["question_type"],
            "length": length_phrase(plan["length"], plan["language"]), "language": language_name(plan["language"]),
        }  # fmt: skip
        answer = parse_reply((yield build_request(self._prompt, values, schema, self.config.sampling, item)), schema)
        if isinstance(answer, Rejected):
            return at(self._prompt, answer)
        facts = facts_of(
            passage, plan, self._prompt, languages={"query": plan["language"]}, programming_language=passage.code
        )
        negatives = yield from self._hard_negatives.write(item, passage, answer["Query"], facts)
        row = TrainingExample(
            query=answer["Query"], positives=(passage.text,), negatives=negatives, task=self.name,
            instruction=instruction_of(self._instructions, passage, self.config.instruction),
            source=source_of(passage), language=plan["language"],
        )  # fmt: skip
        return accept(row, facts)
