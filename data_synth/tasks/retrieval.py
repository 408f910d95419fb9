"""Passage -> query: the report's method (appendix A.1).

Two calls. (a) *configure*: the teacher picks, of the personas nearest to the passage, the character that would be
interested in it, then the question type, then the difficulty. (b) *generate*: it writes that character's query, of a
given type, difficulty, length and language. ``one_call`` is the cheap way: both in one reply, for half the tokens; it
constrains the teacher less.

As in the report, the teacher picks type and difficulty (``choice=teacher``), and their shares are steered by what it is
offered: a weight is how often a name is in the list, relative to the largest. ``choice=plan`` offers exactly one of
each, by the mix: exact shares, and types that the character might not have chosen.
"""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from data_synth.documents import Passage
from data_synth.languages import bucket_bounds, check_languages, language_name, length_phrase
from data_synth.parsing import parse_reply
from data_synth.plans import Mix, OtherLanguages, check_weights, pick, point
from data_synth.prompts import load_prompt
from data_synth.schemas import object_schema, one_of, text
from data_synth.tasks.hard_negatives import HardNegatives
from data_synth.tasks.items import SamplingConfig, build_item, build_request
from data_synth.tasks.rows import accept, at, facts_of, instruction_of, source_of
from data_synth.work import Rejected, Reply, Request, Steps, WorkItem
from qwen3emb_train.data.records import TrainingExample
from qwen3emb_train.texts.languages import UNDETERMINED

QUESTION_TYPES = ("keywords", "acquire_knowledge", "summary", "yes_or_no", "background")
DIFFICULTIES = ("high_school", "university", "phd")

# A part of ``steps``: it yields requests and returns the answer's fields, or a rejection.
Calls = Generator[Request, Reply, dict[str, Any] | Rejected]

_SHORTEST = "keywords"  # the type that gets the shortest lengths
_BELOW_1 = 1 - 2**-53
_UNKNOWN = ("", UNDETERMINED)


class Choice(str, Enum):
    """``teacher``: it picks question type and difficulty, as in the report. ``plan``: both are drawn by weight."""

    teacher = "teacher"
    plan = "plan"


@dataclass
class RetrievalConfig:
    """Settings of the retrieval task. The report offers all types and levels and gives no mix; the rest is ours.

    Attributes:
        question_types: weights of the kinds of questions. With choice=teacher, a name of half the largest weight is
            offered for half of the queries; equal weights offer all of them always, as in the report.
        difficulties: weights of the education levels, in the same way.
        lengths: weights of the query's length, in ranges of words. Keyword queries get the shortest.
        cross_lingual_share: share of queries in another language than their passage, where that is known.
        languages: weights of those languages; a passage's own language is excluded.
        choice: whether the teacher picks type and difficulty (teacher), or the plan deals them (plan).
        one_call: the cheap way: configuration and query in one reply, for half the prompt's tokens.
        num_queries: queries per passage.
        num_hard_negatives: passages that look relevant but are not, written by the teacher in a further call.
        instruction: instruction of rows whose source has none.
        sampling: how the teacher samples.
        seed: seed of the plan.
        prompts: directory of own templates; null = the shipped ones.
    """

    question_types: dict[str, float] = field(
        default_factory=lambda: {
            "keywords": 1.0, "acquire_knowledge": 1.0, "summary": 1.0, "yes_or_no": 1.0, "background": 1.0,
        }
    )  # fmt: skip
    difficulties: dict[str, float] = field(default_factory=lambda: {"high_school": 1.0, "university": 1.0, "phd": 1.0})
    lengths: dict[str, float] = field(default_factory=lambda: {"2-6": 0.25, "7-15": 0.5, "16-40": 0.25})
    cross_lingual_share: float = 0.2
    languages: dict[str, float] = field(
        default_factory=lambda: {
            "en": 0.3, "zh": 0.15, "es": 0.1, "de": 0.1, "fr": 0.1, "ru": 0.05, "ja": 0.05, "ar": 0.05, "pt": 0.05,
            "hi": 0.05,
        }
    )  # fmt: skip
    choice: Choice = Choice.teacher
    one_call: bool = False
    num_queries: int = 1
    num_hard_negatives: int = 0
    instruction: str = "Given a web search query, retrieve relevant passages that answer the query"
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    seed: int = 0
    prompts: str | None = None

    def __post_init__(self) -> None:
        check_weights(self.question_types, "question_types", QUESTION_TYPES)
        check_weights(self.difficulties, "difficulties", DIFFICULTIES)
        check_weights(self.lengths, "lengths")
        for bucket in self.lengths:
            bucket_bounds(bucket, "lengths")
        if not 0 <= self.cross_lingual_share <= 1:
            raise ValueError(f"cross_lingual_share={self.cross_lingual_share}: not a share. Give a number in [0, 1].")
        if self.cross_lingual_share:
            check_weights(self.languages, "languages")
            check_languages(list(self.languages), "languages")
        if self.num_queries < 1 or self.num_hard_negatives < 0:
            raise ValueError(
                f"num_queries={self.num_queries}, num_hard_negatives={self.num_hard_negatives}: "
                "give at least 1 and at least 0."
            )


class RetrievalTask:
    """Queries for passages of prose; ``CodeTask`` is for passages of code."""

    name = "retrieval"

    def __init__(
        self,
        config: RetrievalConfig,
        passages: Iterable[Passage],
        *,
        instructions: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """
        Args:
            config: of the task.
            passages: an iterable that can be iterated repeatedly; passages of prose are used. Their personas are the
                candidates for the character.
            instructions: source -> instructions of its rows, in place of the configured one.
        """
        self.config = config
        self._passages = passages
        self._instructions = dict(instructions or {})
        self._configure = load_prompt("retrieval/configure", config.prompts)
        self._generate = load_prompt("retrieval/generate", config.prompts)
        self._one_call = load_prompt("retrieval/one_call", config.prompts)
        self._hard_negatives = HardNegatives(config.num_hard_negatives, config.sampling, config.prompts)
        self._prompts = (self._one_call,) if config.one_call else (self._configure, self._generate)
        self._question_types, self._difficulties = Mix(config.question_types), Mix(config.difficulties)
        self._lengths = Mix(dict(sorted(config.lengths.items(), key=lambda entry: bucket_bounds(entry[0], "lengths"))))
        self._others = OtherLanguages(config.languages)

    def items(self) -> Iterator[WorkItem]:
        """An item for each query of each passage, grouped by passage."""
        config = self.config
        settings = {"sampling": vars(config.sampling), **self._hard_negatives.settings}
        prompts = (*self._prompts, *self._hard_negatives.prompts)
        for passage in (passage for passage in self._passages if not passage.code):
            for turn in range(config.num_queries):
                yield build_item(self.name, passage, self._plan(passage, turn), settings, prompts)

    def _plan(self, passage: Passage, turn: int) -> dict[str, Any]:
        """What a passage's query shall be; of its digest and turn only."""
        config = self.config
        places = {
            name: point(config.seed, name, passage.id, turn)
            for name in ("question_type", "difficulty", "length", "crossing", "language")
        }
        types, levels = self._question_types, self._difficulties
        plan: dict[str, Any] = {}
        # The mix of lengths stays as it is, and keyword queries take its lower end.
        share, length = types.share(_SHORTEST), places["length"]
        short, long = (
            self._lengths.at(min(place, _BELOW_1)) for place in (length * share, share + length * (1 - share))
        )
        if config.choice is Choice.plan:
            plan["question_type"] = types.at(places["question_type"])
            plan["difficulty"] = levels.at(places["difficulty"])
        else:
            plan["question_types"] = self._offer(types, QUESTION_TYPES, passage, turn)
            plan["difficulties"] = self._offer(levels, DIFFICULTIES, passage, turn)
        offered = plan.get("question_types") or [plan["question_type"]]
        plan["length"] = short if offered == [_SHORTEST] else long
        if _SHORTEST in offered and len(offered) > 1:
            plan["length_of_keywords"] = short
        crosses = passage.language not in _UNKNOWN and places["crossing"] < config.cross_lingual_share
        language = self._others.at(passage.language, places["language"]) if crosses else passage.language
        return {
            **plan, "language": language, "cross_lingual": crosses, "turn": turn, "order": self._order(passage, turn),
        }  # fmt: skip

    def _offer(self, mix: Mix, names: Sequence[str], passage: Passage, turn: int) -> list[str]:
        """The names to choose from: each as often as its weight says, relative to the largest."""
        most = max(map(mix.share, names))
        return [
            name
            for name in names
            if mix.share(name) and point(self.config.seed, "offer", name, passage.id, turn) < mix.share(name) / most
        ]

    def steps(self, item: WorkItem) -> Steps:
        """Configuration, query, and hard negatives if configured."""
        passage, plan = Passage.from_json(item.payload["passage"]), item.payload["plan"]
        if not passage.personas:
            return Rejected("no_personas", "the passage has no candidates for a character. Set personas.")
        calls = self._in_one_call(item, passage, plan) if self.config.one_call else self._in_two(item, passage, plan)
        answer = yield from calls
        if isinstance(answer, Rejected):
            return answer
        facts = facts_of(
            passage, plan, self._prompts[-1], languages={"query": plan["language"], "negative": passage.language},
            question_type=answer["Question_Type"], difficulty=answer["Difficulty"], persona=answer["Character"],
            length=_length(plan, answer["Question_Type"]),
        )  # fmt: skip
        negatives = yield from self._hard_negatives.write(item, passage, answer["Query"], facts)
        row = TrainingExample(
            query=answer["Query"], positives=(passage.text,), negatives=negatives, task=self.name,
            instruction=instruction_of(self._instructions, passage, self.config.instruction),
            source=source_of(passage), language=plan["language"],
        )  # fmt: skip
        return accept(row, facts)

    def _in_two(self, item: WorkItem, passage: Passage, plan: Mapping[str, Any]) -> Calls:
        offered = self._offered(plan)
        characters = self._characters(passage, plan)
        schema = object_schema(**_choices_schema(characters, offered))
        values = {
            "passage": passage.text, "language": language_name(passage.language), "characters": characters, **offered,
        }  # fmt: skip
        reply = yield build_request(self._configure, values, schema, self.config.sampling, item)
        choice = parse_reply(reply, schema)
        if isinstance(choice, Rejected):
            return at(self._configure, choice)
        character = characters[int(choice["Character"]) - 1]
        schema = object_schema(Query=text())
        values = {
            "passage": passage.text, "corpus_language": language_name(passage.language),
            "queries_language": language_name(plan["language"]), "character": character,
            "type": choice["Question_Type"], "difficulty": choice["Difficulty"],
            "length": length_phrase(_length(plan, choice["Question_Type"]), plan["language"]),
        }  # fmt: skip
        reply = yield build_request(self._generate, values, schema, self.config.sampling, item)
        query = parse_reply(reply, schema)
        return at(self._generate, query) if isinstance(query, Rejected) else {**choice, **query, "Character": character}

    def _in_one_call(self, item: WorkItem, passage: Passage, plan: Mapping[str, Any]) -> Calls:
        offered = self._offered(plan)
        characters = self._characters(passage, plan)
        schema = object_schema(**_choices_schema(characters, offered), Query=text())
        values = {
            "passage": passage.text, "corpus_language": language_name(passage.language), "characters": characters,
            "queries_language": language_name(plan["language"]), "length": _told_length(plan), **offered,
        }  # fmt: skip
        reply = yield build_request(self._one_call, values, schema, self.config.sampling, item)
        answer = parse_reply(reply, schema)
        if isinstance(answer, Rejected):
            return at(self._one_call, answer)
        return {**answer, "Character": characters[int(answer["Character"]) - 1]}

    @staticmethod
    def _offered(plan: Mapping[str, Any]) -> dict[str, list[str]]:
        if "question_type" in plan:
            return {"question_types": [plan["question_type"]], "difficulties": [plan["difficulty"]]}
        return {"question_types": plan["question_types"], "difficulties": plan["difficulties"]}

    def _order(self, passage: Passage, turn: int) -> list[int]:
        """The order of the candidates: small models prefer the first, and a passage's queries should differ."""
        ranks = {rank: pick(self.config.seed, passage.id, turn, rank) for rank in range(len(passage.personas))}
        return sorted(ranks, key=lambda rank: ranks[rank])

    @staticmethod
    def _characters(passage: Passage, plan: Mapping[str, Any]) -> list[str]:
        return [passage.personas[rank] for rank in plan["order"]]


def _length(plan: Mapping[str, Any], question_type: str) -> str:
    """The range of words of a query of a type."""
    return plan.get("length_of_keywords", plan["length"]) if question_type == _SHORTEST else plan["length"]


def _told_length(plan: Mapping[str, Any]) -> str:
    """The length for a reply that has the choice of the type in it."""
    told = length_phrase(plan["length"], plan["language"])
    if "length_of_keywords" in plan:
        told += f"; of {_SHORTEST}: {length_phrase(plan['length_of_keywords'], plan['language'])}"
    return told


def _choices_schema(characters: list[str], offered: Mapping[str, list[str]]) -> dict[str, dict[str, Any]]:
    """The character is referred to by number: to repeat its text would cost tokens and invite changes."""
    return {
        "Character": one_of([str(number) for number in range(1, len(characters) + 1)]),
        "Question_Type": one_of(offered["question_types"]),
        "Difficulty": one_of(offered["difficulties"]),
    }
