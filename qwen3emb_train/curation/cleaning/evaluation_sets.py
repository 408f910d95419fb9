"""The texts of evaluation sets, and rows that contain one of them."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from qwen3emb_train.curation.cleaning.checks import Drop, compared, shorten
from qwen3emb_train.curation.cleaning.config import DecontaminationConfig, EvaluationSetConfig, HeldOutDocuments
from qwen3emb_train.data.corpus import find_texts
from qwen3emb_train.data.qrels import find_qrels, read_qrels
from qwen3emb_train.data.records import TrainingExample
from qwen3emb_train.data.rows import decode_row, file_rows
from qwen3emb_train.data.validation import InvalidExampleError, check_length
from qwen3emb_train.texts.overlap import HeldOutTexts, Match, OverlapRule


class ContaminationCheck:
    """Texts of named evaluation sets, as query, positive or negative of a row.

    Attributes:
        num_texts: different texts of each set.

    Raises:
        FileNotFoundError, ValueError: a set is missing or malformed; names file and line.
    """

    def __init__(self, sets: Mapping[str, EvaluationSetConfig], config: DecontaminationConfig) -> None:
        self._sets = {
            name: HeldOutTexts(
                held_out_texts(name, one),
                ngram=config.ngram,
                max_texts_with_run=config.max_texts_with_run,
                min_run_share=config.min_run_share,
                threshold=config.threshold,
                rules=config.rules,
            )
            for name, one in sets.items()
        }
        self.num_texts = {name: texts.num_texts for name, texts in self._sets.items()}

    def __call__(self, example: TrainingExample) -> Drop | None:
        roles = [("query", example.query), *(("positive", text) for text in example.positives)]
        roles += [("negative", text) for text in example.negatives]
        for role, text in roles:
            for name, texts in self._sets.items():
                match = texts.find(compared(text), is_query=role == "query")
                if match is not None:
                    return Drop("contaminated", _describe(name, role, text, match), (name, match.rule.value))
        return None


def _describe(name: str, role: str, text: str, match: Match) -> str:
    how = {
        OverlapRule.equal: "equal to a text",
        OverlapRule.same_words: "the words of a text",
        OverlapRule.ngram: f"shares {match.shared!r} with a text",
        OverlapRule.near_duplicate: f"{match.similarity:.2f} similar to {shorten(match.shared)!r}",
    }[match.rule]
    return f"{role} {how} of {name}: {shorten(text)}"


def held_out_texts(name: str, config: EvaluationSetConfig) -> Iterator[str]:
    """Queries and documents of a set; a document with a title also without it.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a malformed line; names file and line.
    """
    directory = Path(config.path)
    try:
        queries = find_texts(directory, "queries")
    except FileNotFoundError:
        raise FileNotFoundError(
            f"evaluation_sets.{name}.path={directory}: no queries.jsonl there. Give a directory in BEIR layout "
            "(queries.jsonl, corpus.jsonl, qrels/)."
        ) from None
    relevance = None
    if config.split is not None:
        ids = {text_id for text_id, _ in _texts(queries)}
        relevance = read_qrels(find_qrels(directory, config.split), ids, _Anything())
    for text_id, texts in _texts(queries):
        if relevance is None or text_id in relevance:
            yield from texts
    if config.documents is HeldOutDocuments.none:
        return
    wanted = None
    if config.documents is HeldOutDocuments.relevant and relevance is not None:
        wanted = {document for judged in relevance.values() for document, grade in judged.items() if grade > 0}
    try:
        corpus = find_texts(directory, "corpus")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error} Set documents=none to keep out the queries only.") from None
    for text_id, texts in _texts(corpus):
        if wanted is None or text_id in wanted:
            yield from texts


class _Anything:
    """Contains everything: a corpus is not read just to check that judged documents exist."""

    def __contains__(self, _: object) -> bool:
        return True


def _texts(path: Path) -> Iterator[tuple[str, list[str]]]:
    for line, raw in file_rows(path):
        try:
            row = decode_row(raw)
            check_length(str(row.get("text")), "text")
        except InvalidExampleError as problem:
            raise ValueError(f"{path}:{line}: {problem}") from problem
        text_id, text, title = row.get("_id", row.get("id")), row.get("text"), row.get("title") or ""
        if text_id is None or not isinstance(text, str) or not isinstance(title, str):
            raise ValueError(f"{path}:{line}: needs '_id', and 'text' (and 'title', if any) as strings.")
        yield str(text_id), [text, f"{title}\n{text}"] if title else [text]
