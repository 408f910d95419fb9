"""Settings of ``clean``: what is left out, and how the rest is split."""

from dataclasses import dataclass, field
from enum import Enum

from qwen3emb_train.data.readers import ColumnsConfig, ReadingConfig
from qwen3emb_train.texts.languages import LanguageConfig
from qwen3emb_train.texts.overlap import OverlapRule


@dataclass
class TextLengthConfig:
    """Bounds in characters, both included. A row with any text outside them is dropped.

    Attributes:
        min_query: shortest query.
        max_query: longest query.
        min_document: shortest positive or negative.
        max_document: longest positive or negative.
    """

    min_query: int = 2
    max_query: int = 10_000
    min_document: int = 1
    max_document: int = 100_000

    def __post_init__(self) -> None:
        for least, most in (("min_query", "max_query"), ("min_document", "max_document")):
            if not 1 <= getattr(self, least) <= getattr(self, most):
                raise ValueError(
                    f"lengths.{least}={getattr(self, least)}, lengths.{most}={getattr(self, most)}: give at least one "
                    "character, and no more for the first than for the second."
                )


@dataclass
class LanguageCheckConfig(LanguageConfig):
    """Texts in another language than their row's; see ``LanguageConfig``.

    Attributes:
        enabled: whether languages are checked; needs py3langid.
        documents: also the positives. Off where queries and documents may differ (cross-lingual data).
        allowed: languages of rows that name none; empty: such rows are not checked.
    """

    enabled: bool = False
    documents: bool = False
    allowed: list[str] = field(default_factory=list)


class Compared(str, Enum):
    """``pair``: rows whose queries and documents are both nearly the same. ``query``: the queries decide."""

    pair = "pair"
    query = "query"


@dataclass
class NearDuplicateConfig:
    """Rows that are nearly equal to an earlier row.

    Attributes:
        enabled: needs datasketch. If off, equal rows are still dropped.
        compare: what has to be nearly the same.
        threshold: Jaccard similarity of character 4-grams (case, width, punctuation aside) from which texts are one.
    """

    enabled: bool = True
    compare: Compared = Compared.pair
    threshold: float = 0.8

    def __post_init__(self) -> None:
        _check_threshold("near_duplicates.threshold", self.threshold)


class HeldOutDocuments(str, Enum):
    """``all`` of the corpus; those ``relevant`` to a query of the split; ``none``."""

    all = "all"
    relevant = "relevant"
    none = "none"


@dataclass
class EvaluationSetConfig:
    """A retrieval set in BEIR layout that must not be trained on.

    Attributes:
        path: directory with queries.jsonl, corpus.jsonl, qrels.
        split: queries that are judged in ``qrels/SPLIT.tsv``; null = all of queries.jsonl.
        documents: which of them are kept out as well. Only ``relevant`` or ``none`` makes sense where training and
            evaluation share one corpus on purpose.
    """

    path: str = "???"
    split: str | None = "test"
    documents: HeldOutDocuments = HeldOutDocuments.all

    def __post_init__(self) -> None:
        if self.split is None and self.documents is HeldOutDocuments.relevant:
            raise ValueError("documents=relevant needs a split: relevance is judged there. Name it, or take all.")


@dataclass
class DecontaminationConfig:
    """How rows are found that have a text of an evaluation set as query, positive or negative.

    Attributes:
        rules: by what a text is found. In program code, where punctuation counts,
            ``same_words`` and ``near_duplicate`` find too much: ``find . -name x`` and ``find / -name x``.
        ngram: length of the run of ``rules=ngram``, in words.
        max_texts_with_run: a run in more evaluation texts than this is boilerplate.
        min_run_share: share of a text's runs that must be shared; 0: one is enough. More for texts from templates,
            where one run proves nothing; a long document that quotes a short one then passes.
        threshold: Jaccard similarity of character 4-grams from which a text is a near-duplicate.
    """

    rules: list[OverlapRule] = field(default_factory=lambda: list(OverlapRule))
    ngram: int = 13
    max_texts_with_run: int = 10
    min_run_share: float = 0.0
    threshold: float = 0.7

    def __post_init__(self) -> None:
        if self.ngram < 4:
            raise ValueError(
                f"decontamination.ngram={self.ngram}: so short a run occurs everywhere. Give at least 4 (13 is usual)."
            )
        if not 0 <= self.min_run_share <= 1:
            raise ValueError(
                f"decontamination.min_run_share={self.min_run_share}: is a share. Give a number in [0, 1]."
            )
        _check_threshold("decontamination.threshold", self.threshold)


@dataclass
class SplitConfig:
    """Development and test rows, held out by document.

    Rows that share a document (its id, its text, or nearly its text) or a query form a group, and a group is in one
    split. Which one depends on the group and the seed alone.

    Attributes:
        dev_share: share of the groups that is held out for development; 0 = no such split.
        test_share: share of the groups that is held out for testing; 0 = no such split.
        seed: assigns the groups anew.
    """

    dev_share: float = 0.0
    test_share: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.dev_share >= 0 and self.test_share >= 0 and self.dev_share + self.test_share < 1):
            raise ValueError(
                f"split.dev_share={self.dev_share}, split.test_share={self.test_share}: shares from 0 up, that leave "
                "something to train on."
            )

    @property
    def is_wanted(self) -> bool:
        return self.dev_share + self.test_share > 0


@dataclass
class CleanConfig(ColumnsConfig):
    """From raw data to a training set.

    Attributes:
        examples: file or directory of examples, in any layout that training reads.
        output_dir: gets ``train.jsonl``, ``dev/`` and ``test/`` (BEIR layout), ``rejected/REASON.jsonl``,
            ``report.json``, ``report.txt`` and ``run.json``.
        document_column: column that names the document a row's positives come from (a page, a package, a chapter);
            null = documents are known by their texts.
        evaluation_sets: whose texts are left out, by the names that the report calls them.
        lengths: bounds in characters, both included; a row with a text outside them is dropped.
        languages: texts that are surely in another language than their row's.
        near_duplicates: rows that nearly repeat an earlier row.
        decontamination: how texts of evaluation sets are found.
        split: development and test rows, held out by document.
        duplicates: leave out rows equal to one before them but for case and white space.
        reading: how strictly lines are read; ``skip_bad_lines`` puts bad ones into ``rejected/malformed.jsonl``.
    """

    examples: str = "???"
    output_dir: str = "???"
    document_column: str | None = None
    lengths: TextLengthConfig = field(default_factory=TextLengthConfig)
    languages: LanguageCheckConfig = field(default_factory=LanguageCheckConfig)
    duplicates: bool = True
    near_duplicates: NearDuplicateConfig = field(default_factory=NearDuplicateConfig)
    evaluation_sets: dict[str, EvaluationSetConfig] = field(default_factory=dict)
    decontamination: DecontaminationConfig = field(default_factory=DecontaminationConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    reading: ReadingConfig = field(default_factory=ReadingConfig)


def _check_threshold(name: str, value: float) -> None:
    if not 0 < value <= 1:
        raise ValueError(f"{name}={value}: is a similarity. Give a number in (0, 1].")
