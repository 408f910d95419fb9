"""Sentences -> translation: pairs for bitext mining.

The sentences are taken from passages verbatim; the plan determines the number of words and the target language. Half
of the rows have the translation as query, so that both directions are learned.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from data_synth.documents import Passage
from data_synth.languages import bucket_bounds, check_languages, language_name
from data_synth.parsing import parse_reply
from data_synth.plans import Mix, OtherLanguages, check_weights, pick, point
from data_synth.prompts import load_prompt
from data_synth.schemas import object_schema, text
from data_synth.tasks.items import SamplingConfig, build_item, build_request, fitting_excerpt
from data_synth.tasks.rows import accept, at, facts_of, instruction_of, source_of
from data_synth.work import Rejected, Steps, WorkItem
from qwen3emb_train.data.records import TrainingExample


@dataclass
class BitextConfig:
    """Settings of the bitext task.

    Attributes:
        languages: weights of the target languages; a passage's own language is excluded.
        lengths: weights of ranges of words of the translated text. A passage without sentences in its planned range
            uses another range; one that fits none is rejected.
        reverse_share: share of rows whose query is the translation.
        num_translations: per passage, each of other sentences or into another language.
        instruction: of rows whose source has none; "{language}" stands for the language of the positive.
        sampling: how the teacher samples.
        seed: seed of the plan.
        prompts: directory of own templates; null = the shipped ones.
    """

    languages: dict[str, float] = field(
        default_factory=lambda: {
            "en": 0.2, "zh": 0.1, "es": 0.1, "de": 0.1, "fr": 0.1, "ru": 0.1, "ja": 0.1, "ar": 0.1, "pt": 0.05,
            "hi": 0.05,
        }
    )  # fmt: skip
    lengths: dict[str, float] = field(default_factory=lambda: {"4-25": 0.7, "26-80": 0.3})
    reverse_share: float = 0.5
    num_translations: int = 1
    instruction: str = "Given a text, retrieve its translation into {language}"
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    seed: int = 0
    prompts: str | None = None

    def __post_init__(self) -> None:
        check_weights(self.languages, "languages")
        check_languages(list(self.languages), "languages")
        check_weights(self.lengths, "lengths")
        for bucket in self.lengths:
            bucket_bounds(bucket, "lengths")
        if not 0 <= self.reverse_share <= 1:
            raise ValueError(f"reverse_share={self.reverse_share}: not a share. Give a number in [0, 1].")
        if self.num_translations < 1:
            raise ValueError(f"num_translations={self.num_translations}: give at least 1.")


class BitextTask:
    """Translations of sentences of passages of prose."""

    name = "bitext"

    def __init__(
        self,
        config: BitextConfig,
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
        self._prompt = load_prompt("bitext/translate", config.prompts)

    def items(self) -> Iterator[WorkItem]:
        """An item for each translation of each passage."""
        config = self.config
        lengths, others = Mix(config.lengths), OtherLanguages(config.languages)
        settings = {"sampling": vars(config.sampling)}
        for passage in (passage for passage in self._passages if not passage.code):
            for turn in range(config.num_translations):
                is_reverse = point(config.seed, "direction", passage.id, turn) < config.reverse_share
                planned = lengths.at(point(config.seed, "length", passage.id, turn))
                choice = pick(config.seed, passage.id) + turn
                length, chosen = fitting_excerpt(passage.text, planned, config.lengths, choice)
                plan = {
                    "direction": "reverse" if is_reverse else "forward", "length": length,
                    "language": others.at(passage.language, point(config.seed, "language", passage.id, turn)),
                    "text": chosen, "turn": turn,
                }  # fmt: skip
                yield build_item(self.name, passage, plan, settings, (self._prompt,))

    def steps(self, item: WorkItem) -> Steps:
        """The translation."""
        passage, plan = Passage.from_json(item.payload["passage"]), item.payload["plan"]
        if not plan["text"]:
            return Rejected("no_sentences", f"no sentences of {' or '.join(self.config.lengths)} words.")
        schema = object_schema(Translation=text())
        values = {
            "text": plan["text"], "source_language": language_name(passage.language),
            "target_language": language_name(plan["language"]),
        }  # fmt: skip
        answer = parse_reply(
            (yield build_request(self._prompt, values, schema, self.config.sampling, item)),
            schema,
            lines=("Translation",),
        )
        if isinstance(answer, Rejected):
            return at(self._prompt, answer)
        sides = [(plan["text"], passage.language), (answer["Translation"], plan["language"])]
        (query, query_language), (positive, language) = sides[::-1] if plan["direction"] == "reverse" else sides
        instruction = instruction_of(self._instructions, passage, self.config.instruction)
        row = TrainingExample(
            query=query, positives=(positive,), task=self.name, source=source_of(passage), language=query_language,
            instruction=instruction.replace("{language}", language_name(language) if language else "another language"),
        )  # fmt: skip
        shown = {name: value for name, value in plan.items() if name != "text"}
        return accept(
            row, facts_of(passage, shown, self._prompt, languages={"query": query_language, "positive": language})
        )
