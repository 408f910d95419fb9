"""Passage -> a problem that it helps to solve, without sharing its words: reasoning-intensive retrieval.

After ReasonIR (arXiv:2504.20595): a retriever trained on questions that sound like their answers does not find what
helps with a problem. The teacher first states the knowledge in the passage, then tells a case that needs it; a further
call writes passages that sound like the problem and do not help. The statement is kept among the row's facts only.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from data_synth.documents import Passage
from data_synth.languages import bucket_bounds, language_name, length_phrase
from data_synth.parsing import parse_reply
from data_synth.plans import Mix, check_weights, point
from data_synth.prompts import load_prompt
from data_synth.schemas import object_schema, text
from data_synth.tasks.hard_negatives import HardNegatives
from data_synth.tasks.items import SamplingConfig, build_item, build_request, check_share
from data_synth.tasks.rows import accept, at, facts_of, instruction_of, source_of
from data_synth.work import Rejected, Steps, WorkItem
from qwen3emb_train.data.records import TrainingExample

REASONING_KINDS = ("diagnosis", "decision", "explanation", "consequence", "transfer")


@dataclass
class ReasoningConfig:
    """Settings of the reasoning task. The shares are ours.

    Attributes:
        share: share of the passages of prose that the task asks about, by their digests.
        kinds: weights of the kinds of problems.
        lengths: weights of the problem's length, in ranges of words.
        num_queries: problems per passage.
        num_hard_negatives: passages that sound like the problem and do not help, written in a further call.
        instruction: of the rows.
        sampling: how the teacher samples.
        seed: seed of the plan.
        prompts: directory of own templates; null = the shipped ones.
    """

    share: float = 1.0
    kinds: dict[str, float] = field(
        default_factory=lambda: {
            "diagnosis": 0.25, "decision": 0.2, "explanation": 0.2, "consequence": 0.2, "transfer": 0.15,
        }
    )  # fmt: skip
    lengths: dict[str, float] = field(default_factory=lambda: {"40-80": 0.5, "81-130": 0.5})
    num_queries: int = 1
    num_hard_negatives: int = 1
    instruction: str = "Given a problem, retrieve passages with the knowledge or the method that helps to solve it"
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(max_tokens=1024))
    seed: int = 0
    prompts: str | None = None

    def __post_init__(self) -> None:
        check_share(self.share)
        check_weights(self.kinds, "kinds", REASONING_KINDS)
        check_weights(self.lengths, "lengths")
        for bucket in self.lengths:
            bucket_bounds(bucket, "lengths")
        if self.num_queries < 1 or self.num_hard_negatives < 0:
            raise ValueError(
                f"num_queries={self.num_queries}, num_hard_negatives={self.num_hard_negatives}: "
                "give at least 1 and at least 0."
            )


class ReasoningTask:
    """Problems that passages of prose help to solve."""

    name = "reasoning"

    def __init__(
        self,
        config: ReasoningConfig,
        passages: Iterable[Passage],
        *,
        instructions: Mapping[str, Sequence[str]] | None = None,
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
        self._prompt = load_prompt("reasoning/generate", config.prompts)
        self._hard_negatives = HardNegatives(
            config.num_hard_negatives, config.sampling, config.prompts, "reasoning/negatives"
        )

    def items(self) -> Iterator[WorkItem]:
        """An item for each problem of the passages that are in the share."""
        config = self.config
        drawn = {"kind": Mix(config.kinds), "length": Mix(config.lengths)}
        settings = {"sampling": vars(config.sampling), **self._hard_negatives.settings}
        prompts = (self._prompt, *self._hard_negatives.prompts)
        for passage in self._passages:
            if passage.code or point(config.seed, "reasoning", passage.id) >= config.share:
                continue
            for turn in range(config.num_queries):
                plan = {name: mix.at(point(config.seed, name, passage.id, turn)) for name, mix in drawn.items()}
                yield build_item(self.name, passage, {**plan, "turn": turn}, settings, prompts)

    def steps(self, item: WorkItem) -> Steps:
        """The knowledge and the problem, and hard negatives if configured."""
        passage, plan = Passage.from_json(item.payload["passage"]), item.payload["plan"]
        schema = object_schema(Principle=text(), Query=text())
        values = {
            "passage": passage.text, "language": language_name(passage.language), "kind": plan["kind"],
            "length": length_phrase(plan["length"], passage.language),
        }  # fmt: skip
        reply = yield build_request(self._prompt, values, schema, self.config.sampling, item)
        answer = parse_reply(reply, schema, lines=("Query",))
        if isinstance(answer, Rejected):
            return at(self._prompt, answer)
        languages = {"query": passage.language, "negative": passage.language}
        facts = facts_of(passage, plan, self._prompt, languages=languages, principle=answer["Principle"])
        negatives = yield from self._hard_negatives.write(item, passage, answer["Query"], facts)
        row = TrainingExample(
            query=answer["Query"], positives=(passage.text,), negatives=negatives, task=self.name,
            instruction=instruction_of(self._instructions, passage, self.config.instruction),
            source=source_of(passage), language=passage.language,
        )  # fmt: skip
        return accept(row, facts)
