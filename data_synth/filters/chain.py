"""All filters of a run, cheapest first; the first reason counts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data_synth.filters.candidates import Candidate, Filter, Verdict
from data_synth.filters.copying import CopyConfig, CopyFilter
from data_synth.filters.decontamination import DecontaminationConfig, DecontaminationFilter
from data_synth.filters.echoes import EchoFilter, prompt_texts
from data_synth.filters.languages import LanguageFilter
from data_synth.filters.lengths import AskedLengthConfig, AskedLengthFilter, LengthConfig, LengthFilter
from data_synth.filters.links import LinkFilter
from data_synth.filters.near_duplicates import NearDuplicateConfig
from data_synth.filters.refusals import RefusalFilter
from data_synth.filters.relevance import RelevanceConfig, RelevanceFilter
from qwen3emb_train.texts.languages import LanguageConfig


@dataclass
class FilterConfig:
    """Which rows are rejected.

    Attributes:
        lengths, asked_length, copying, relevance, language: see their classes.
        refusals: rows in which the teacher declines.
        echoes: rows that repeat the prompt, or refer to "the passage".
        links: rows with addresses that are not in the source.
        near_duplicates: rows whose query is a near-duplicate of an earlier one.
        decontamination: rows with texts of evaluation sets.
    """

    lengths: LengthConfig = field(default_factory=LengthConfig)
    asked_length: AskedLengthConfig = field(default_factory=AskedLengthConfig)
    refusals: bool = True
    echoes: bool = True
    links: bool = True
    copying: CopyConfig = field(default_factory=CopyConfig)
    relevance: RelevanceConfig = field(default_factory=RelevanceConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    near_duplicates: NearDuplicateConfig = field(default_factory=NearDuplicateConfig)
    decontamination: DecontaminationConfig = field(default_factory=DecontaminationConfig)


class FilterChain:
    """Filters one after another; itself a filter."""

    def __init__(self, filters: Sequence[Filter]) -> None:
        self.filters = tuple(filters)

    def __call__(self, candidate: Candidate) -> Verdict:
        for apply in self.filters:
            verdict = apply(candidate)
            if verdict is not True:
                return verdict
        return True


def build_filters(config: FilterConfig, prompts: Iterable[Path]) -> FilterChain:
    """The pure filters, which check each row independently of the others.

    ``prompts`` are the directories of templates that a reply could echo. Near-duplicates are not included (see
    near_duplicates.py).
    """
    filters: list[Filter] = []
    if config.lengths.enabled:
        filters.append(LengthFilter(config.lengths))
    if config.asked_length.enabled:
        filters.append(AskedLengthFilter(config.asked_length))
    if config.refusals:
        filters.append(RefusalFilter())
    if config.echoes:
        filters.append(EchoFilter(text for directory in prompts for text in prompt_texts(directory)))
    if config.links:
        filters.append(LinkFilter())
    filters.append(CopyFilter(config.copying))
    if config.relevance.min_shared_words:
        filters.append(RelevanceFilter(config.relevance))
    if config.decontamination.sets:
        filters.append(DecontaminationFilter(config.decontamination))
    if config.language.enabled:
        filters.append(LanguageFilter(config.language))
    return FilterChain(filters)
