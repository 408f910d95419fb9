"""Passage -> query, an instruction that narrows it, and passages that answer the query but not the instruction.

Training on such instruction-negatives is what makes a retriever follow instructions (Promptriever, arXiv:2409.11136):
the query alone cannot tell them from the positive. Three calls: query and instruction; the negatives; and a check, in
which the teacher sorts all passages without knowing which is which, as the paper's filter does. The instruction is the
row's own, so training puts it where it puts the instructions of other data.
"""

from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from data_synth.documents import Passage
from data_synth.languages import bucket_bounds, language_name, length_phrase
from data_synth.parsing import parse_reply
from data_synth.plans import Mix, check_weights, pick, point
from data_synth.prompts import load_prompt
from data_synth.schemas import object_schema, one_of, text, texts
from data_synth.tasks.items import SamplingConfig, build_item, build_request, check_share
from data_synth.tasks.rows import accept, at, facts_of, source_of
from data_synth.work import Rejected, Reply, Request, Steps, WorkItem
from qwen3emb_train.data.records import TrainingExample

INSTRUCTION_KINDS = ("condition", "exclusion", "situation", "audience")
_FULFILS, _ANSWERS, _NEITHER = "both", "query_only", "neither"


@dataclass
class InstructedConfig:
    """Settings of the instructed task. The paper varies length and kind of the instruction; the shares are ours.

    Attributes:
        share: share of the passages of prose that the task asks about, by their digests.
        kinds: weights of what the instruction says.
        lengths: weights of the query's length, in ranges of words.
        instruction_lengths: weights of the instruction's length, in ranges of words.
        num_negatives: passages per query that answer it and break the instruction.
        check: whether the teacher sorts positive and negatives in a further call; a row whose positive or whose every
            negative is on the wrong side is rejected.
        num_queries: per passage.
        sampling: how the teacher samples.
        seed: seed of the plan.
        prompts: directory of own templates; null = the shipped ones.
    """

    share: float = 1.0
    kinds: dict[str, float] = field(
        default_factory=lambda: {"condition": 0.35, "exclusion": 0.25, "situation": 0.25, "audience": 0.15}
    )
    lengths: dict[str, float] = field(default_factory=lambda: {"3-8": 0.6, "9-15": 0.4})
    instruction_lengths: dict[str, float] = field(default_factory=lambda: {"10-25": 0.4, "26-60": 0.4, "61-120": 0.2})
    num_negatives: int = 1
    check: bool = True
    num_queries: int = 1
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(max_tokens=1024))
    seed: int = 0
    prompts: str | None = None

    def __post_init__(self) -> None:
        check_share(self.share)
        check_weights(self.kinds, "kinds", INSTRUCTION_KINDS)
        for key in ("lengths", "instruction_lengths"):
            check_weights(getattr(self, key), key)
            for bucket in getattr(self, key):
                bucket_bounds(bucket, key)
        if min(self.num_negatives, self.num_queries) < 1:
            raise ValueError(f"num_negatives={self.num_negatives}, num_queries={self.num_queries}: give at least 1.")


class InstructedTask:
    """Queries with an instruction of their own, for passages of prose."""

    name = "instructed"

    def __init__(self, config: InstructedConfig, passages: Iterable[Passage]) -> None:
        """``passages`` can be iterated repeatedly."""
        self.config = config
        self._passages = passages
        self._generate = load_prompt("instructed/generate", config.prompts)
        self._negatives = load_prompt("instructed/negatives", config.prompts)
        self._check = load_prompt("instructed/check", config.prompts)

    def items(self) -> Iterator[WorkItem]:
        """An item for each query of the passages that are in the share."""
        config = self.config
        mixes = {"kind": config.kinds, "length": config.lengths, "instruction_length": config.instruction_lengths}
        drawn = {name: Mix(weights) for name, weights in mixes.items()}
        settings = {"sampling": vars(config.sampling), "num_negatives": config.num_negatives}
        prompts = (self._generate, self._negatives, *((self._check,) if config.check else ()))
        for passage in self._passages:
            if passage.code or point(config.seed, "instructed", passage.id) >= config.share:
                continue
            for turn in range(config.num_queries):
                plan = {name: mix.at(point(config.seed, name, passage.id, turn)) for name, mix in drawn.items()}
                yield build_item(self.name, passage, {**plan, "turn": turn}, settings, prompts)

    def steps(self, item: WorkItem) -> Steps:
        """Query and instruction, negatives, check."""
        passage, plan = Passage.from_json(item.payload["passage"]), item.payload["plan"]
        language = language_name(passage.language)
        schema = object_schema(Query=text(), Instruction=text())
        values: dict[str, Any] = {
            "passage": passage.text, "language": language, "kind": plan["kind"],
            "length": length_phrase(plan["length"], passage.language),
            "instruction_length": length_phrase(plan["instruction_length"], "en"),
        }  # fmt: skip
        reply = yield build_request(self._generate, values, schema, self.config.sampling, item)
        asked = parse_reply(reply, schema)
        if isinstance(asked, Rejected):
            return at(self._generate, asked)
        query, instruction = asked["Query"], asked["Instruction"]
        schema = object_schema(Instruction_Negatives=texts(self.config.num_negatives))
        values = {
            "passage": passage.text, "query": query, "instruction": instruction, "language": language,
            "num": self.config.num_negatives,
        }  # fmt: skip
        reply = yield build_request(self._negatives, values, schema, self.config.sampling, item)
        written = parse_reply(reply, schema, lines=("Instruction_Negatives",))
        if isinstance(written, Rejected):
            return at(self._negatives, written)
        negatives = tuple(dict.fromkeys(written["Instruction_Negatives"]))
        if self.config.check:
            sorted_out = yield from self._sorted_out(item, passage.text, asked, negatives)
            if isinstance(sorted_out, Rejected):
                return sorted_out
            negatives = sorted_out
        row = TrainingExample(
            query=query, positives=(passage.text,), negatives=negatives, task=self.name, instruction=instruction,
            source=source_of(passage), language=passage.language,
        )  # fmt: skip
        languages = {"query": passage.language, "negative": passage.language}
        facts = facts_of(passage, plan, self._generate, languages=languages, num_negatives=len(negatives))
        return accept(row, facts)

    def _sorted_out(
        self, item: WorkItem, positive: str, asked: Mapping[str, str], negatives: tuple[str, ...]
    ) -> Generator[Request, Reply, tuple[str, ...] | Rejected]:
        """The negatives that answer the query only; or why the row is no example."""
        shown = sorted((positive, *negatives), key=lambda one: pick(self.config.seed, item.key, one))
        keys = [f"Document_{number}" for number in range(1, len(shown) + 1)]
        schema = object_schema(**dict.fromkeys(keys, one_of((_FULFILS, _ANSWERS, _NEITHER))))
        values = {
            "query": asked["Query"], "instruction": asked["Instruction"], "texts": shown, "num": len(shown)
        }  # fmt: skip
        reply = yield build_request(self._check, values, schema, self.config.sampling, item)
        told = parse_reply(reply, schema)
        if isinstance(told, Rejected):
            return at(self._check, told)
        side = {document: told[key] for document, key in zip(shown, keys, strict=True)}
        if side[positive] != _FULFILS:
            return Rejected("positive_breaks_instruction", f"{side[positive]}: {asked['Instruction'][:300]}")
        kept = tuple(negative for negative in negatives if side[negative] == _ANSWERS)
        return kept or Rejected("no_instruction_negative", f"{side[negatives[0]]}: {negatives[0][:300]}")
