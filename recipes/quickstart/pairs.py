"""From definitions to examples: weak documentation pairs, and questions with the functions that answer them.

Rules only: no model, no randomness; choices are made by a hash of the text.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from qwen3emb_train.data.records import TrainingExample
from recipes.quickstart.questions import question, split_docstring
from recipes.quickstart.sources import Definition, Kind

PRETRAIN_INSTRUCTION = "Given a sentence or a name, retrieve the passage of the Python documentation it belongs to"
FINETUNE_INSTRUCTION = (
    "Given a question about programming in Python, retrieve the source code of the function that answers it"
)
_MAX_CHARACTERS = 1200  # of a document
_PASSAGE_CHARACTERS = 800  # documentation is cut into passages of whole paragraphs of about this size
_MIN_SOURCE, _MIN_PASSAGE, _MIN_DOCSTRING = 60, 60, 25  # characters; shorter ones are too unspecific
_MIN_METHODS = 3
_MAX_ANSWERS = 4  # a question with more answers ("close the connection") is too vague
_UNDERLINE = re.compile(r"\s*([*=\-^~+]{3,})\s*(\n|$)")


@dataclass(frozen=True)
class RetrievalSet:
    """A retrieval task.

    Attributes:
        documents: id -> source code of a function.
        queries: id -> question.
        answers: query id -> ids of the documents that answer it.
        texts: all sources, questions and the summaries that the questions are made of, normalised; no other split may
            contain them.
    """

    documents: dict[str, str]
    queries: dict[str, str]
    answers: dict[str, list[str]]
    texts: frozenset[str]


def retrieval_set(definitions: Iterable[Definition], exclude: frozenset[str] = frozenset()) -> RetrievalSet:
    """All function sources, each once, and the questions made of their summaries.

    Args:
        definitions: of one split, in a fixed order.
        exclude: ``texts`` of the splits with precedence.
    """
    owners_of: dict[str, list[Definition]] = defaultdict(list)  # normalised source -> its definitions
    for definition in definitions:
        if len(definition.source) >= _MIN_SOURCE and (key := normalised(cut_at_line(definition.source))) not in exclude:
            owners_of[key].append(definition)

    documents: dict[str, str] = {}
    answers: dict[str, list[str]] = defaultdict(list)
    texts = set(owners_of)
    for owners in owners_of.values():
        document_id = _unused_id(owners[0].qualified_name, documents)
        documents[document_id] = cut_at_line(owners[0].source)
        for owner in owners:
            summary, _ = split_docstring(owner.docstring)
            asked = question(summary, owner.name.rpartition(".")[2])
            if asked is not None and exclude.isdisjoint(keys := {normalised(asked), normalised(summary)}):
                texts |= keys
                if document_id not in answers[asked]:
                    answers[asked].append(document_id)
    asked_for = [asked for asked, ids in answers.items() if len(ids) <= _MAX_ANSWERS]
    queries = {f"q{number}": asked for number, asked in enumerate(asked_for)}
    return RetrievalSet(documents, queries, {key: answers[asked] for key, asked in queries.items()}, frozenset(texts))


def sample_documents(functions: RetrievalSet, max_documents: int | None) -> RetrievalSet:
    """A smaller task: ``max_documents`` documents chosen by hash, and their questions."""
    documents = {key: functions.documents[key] for key in first_by_hash(list(functions.documents), max_documents)}
    answers = {key: [i for i in ids if i in documents] for key, ids in functions.answers.items()}
    answers = {key: ids for key, ids in answers.items() if ids}
    return RetrievalSet(documents, {key: functions.queries[key] for key in answers}, answers, functions.texts)


def finetuning_examples(functions: RetrievalSet) -> Iterator[TrainingExample]:
    """One example per question; its positives are all functions that answer it."""
    for key, asked in functions.queries.items():
        yield TrainingExample(
            query=asked,
            positives=tuple(functions.documents[document_id] for document_id in functions.answers[key]),
            instruction=FINETUNE_INSTRUCTION,
            source="python-functions",
            language="en",
        )


def pretraining_examples(definitions: Iterable[Definition], exclude: frozenset[str]) -> Iterator[TrainingExample]:
    """Weak pairs; no text occurs twice, and none is in ``exclude`` (normalised)."""
    seen = set(exclude)
    for definition in definitions:
        for query, document in weak_pairs(definition):
            keys = {normalised(query), normalised(document)}
            if seen.isdisjoint(keys):
                seen |= keys
                yield TrainingExample(
                    query=query,
                    positives=(document,),
                    instruction=PRETRAIN_INSTRUCTION,
                    source="python-docs",
                    language="en",
                )


def weak_pairs(definition: Definition) -> list[tuple[str, str]]:
    """(query, document) pairs of one definition.

    Each passage of the documentation gives a pair: first sentence or heading -> the rest. A docstring that is too short
    for that is paired with the name instead, so no docstring is a document twice. A class also gives a pair: summary ->
    methods.
    """
    pairs = []
    for passage in passages(definition.docstring):
        first, rest = split_docstring(passage)
        rest = cut_at_line(_UNDERLINE.sub("", rest, count=1) if _UNDERLINE.match(rest) else rest)
        if first and len(first) < _PASSAGE_CHARACTERS and len(rest) >= _MIN_PASSAGE:
            pairs.append((first, rest))
    if not pairs and len(definition.docstring.strip()) >= _MIN_DOCSTRING:
        pairs.append((name_in_words(definition.qualified_name), cut_at_line(definition.docstring)))
    if definition.kind is Kind.class_ and len(definition.methods) >= _MIN_METHODS:
        summary, _ = split_docstring(definition.docstring)
        methods = "\n".join(f"def {method}" for method in definition.methods)
        pairs.append((summary or name_in_words(definition.qualified_name), cut_at_line(methods)))
    return pairs


def passages(text: str) -> list[str]:
    """Splits a text into passages of whole paragraphs of about 800 characters; a heading begins a new one."""
    found: list[str] = []
    for paragraph in re.split(r"\n[ \t]*\n+", text.strip("\n")):
        is_heading = _UNDERLINE.match(paragraph.partition("\n")[2]) is not None
        if found and not is_heading and len(found[-1]) + len(paragraph) <= _PASSAGE_CHARACTERS:
            found[-1] += "\n\n" + paragraph
        else:
            found.append(paragraph)
    return found


def name_in_words(qualified_name: str) -> str:
    """ "email.message.EmailMessage.get_payload" -> "email message get payload", without repeated words."""
    parts = re.findall(r"[A-Z]+(?![a-z])\d*|[A-Z]?[a-z]+[a-z\d]*|\d+", qualified_name)
    return " ".join(dict.fromkeys(part.lower() for part in parts))


def cut_at_line(text: str) -> str:
    """At most 1,200 characters of a text, cut at the end of a line if possible."""
    text = text.strip()
    if len(text) <= _MAX_CHARACTERS:
        return text
    return text[: text.rfind("\n", 0, _MAX_CHARACTERS + 1) if "\n" in text[:_MAX_CHARACTERS] else _MAX_CHARACTERS]


def normalised(text: str) -> str:
    """The text without differences in case, white space and punctuation at the ends."""
    return " ".join(text.lower().split()).strip(" .?!:;,")


def first_by_hash(texts: Sequence[str], count: int | None) -> list[str]:
    """``count`` of the texts, chosen by hash, in their original order; all if ``count`` is None."""
    if count is None or count >= len(texts):
        return list(texts)
    chosen = set(sorted(range(len(texts)), key=lambda i: (stable_hash(texts[i]), i))[:count])
    return [text for i, text in enumerate(texts) if i in chosen]


def stable_hash(text: str) -> int:
    """A 64-bit hash that is the same in every process and on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _unused_id(name: str, taken: dict[str, str]) -> str:
    """The name, numbered if the module defines it more than once (under ``if``, property setters)."""
    number, candidate = 1, name
    while candidate in taken:
        number += 1
        candidate = f"{name}#{number}"
    return candidate
