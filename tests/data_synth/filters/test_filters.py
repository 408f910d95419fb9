"""Each filter rejects what it is for and keeps similar rows."""

from dataclasses import replace

import pytest

from data_synth.filters.chain import FilterConfig, build_filters
from data_synth.filters.copying import CopyConfig, CopyFilter
from data_synth.filters.echoes import EchoFilter
from data_synth.filters.languages import LanguageFilter
from data_synth.filters.lengths import AskedLengthConfig, AskedLengthFilter, LengthConfig, LengthFilter
from data_synth.filters.links import LinkFilter
from data_synth.filters.refusals import RefusalFilter
from data_synth.filters.relevance import RelevanceConfig, RelevanceFilter
from qwen3emb_train.texts.languages import LanguageConfig
from qwen3emb_train.texts.words import words
from tests.data_synth.filters.rows import PASSAGE, candidate, name_of

PROMPT = """You write search queries for a library.
Example passage: Glaciers move because ice deforms under its own weight.
Example reply: {"query": "why do glaciers flow downhill"}
Write a query that such a person would type when looking for the passage below."""


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("how does python find unreachable reference cycles", "kept"),
        ("?", "too_short"),
        ("—…", "too_short"),
        ("循環参照", "kept"),
        ("गणित", "kept"),
        ("why " * 3, "kept"),
        ("what is the gc and what is the gc and what is the gc and what is the gc", "repeats_itself"),
        ("word " * 10 + "x", "kept"),  # too short to tell a loop from a style
        (" ".join(f"w{number}" for number in range(41)), "too_long"),
        (" ".join(f"w{number}" for number in range(40)), "kept"),
    ],
)
def test_lengths(query: str, expected: str) -> None:
    assert name_of(LengthFilter(LengthConfig(max_words=40))(candidate(query))) == expected


@pytest.mark.parametrize(
    ("num_words", "asked", "factor", "expected"),
    [
        (7, "7-15", 1.0, "kept"), (15, "7-15", 1.0, "kept"), (6, "7-15", 1.0, "wrong_length"),
        (16, "7-15", 1.0, "wrong_length"), (4, "7-15", 2.0, "kept"), (3, "7-15", 2.0, "wrong_length"),
        (30, "7-15", 2.0, "kept"), (31, "7-15", 2.0, "wrong_length"), (1, "2-6", 2.0, "kept"),
    ],
)  # fmt: skip
def test_a_query_is_as_long_as_it_was_asked_to_be(num_words: int, asked: str, factor: float, expected: str) -> None:
    check = AskedLengthFilter(AskedLengthConfig(factor=factor))
    row = candidate(" ".join(["word"] * num_words), facts={"length": asked})
    assert name_of(check(row)) == expected
    assert name_of(check(candidate(row.row.query))) == "kept", "no length is known"
    assert name_of(check(candidate(row.row.query, task="bitext", facts={"length": asked}))) == "kept", (
        "of what was given"
    )


def test_an_instruction_of_its_own_is_as_long_as_asked_for() -> None:
    check = AskedLengthFilter(AskedLengthConfig(factor=1.0))
    facts = {"length": "2-6", "instruction_length": "4-9"}
    told = candidate("two words", task="instructed", facts=facts)
    for instruction, expected in (("Only recent ones count, please.", "kept"), ("Only recent.", "wrong_length")):
        row = replace(told.row, instruction=instruction)
        assert name_of(check(replace(told, row=row))) == expected


def test_a_factor_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="factor"):
        AskedLengthConfig(factor=0.5)


def test_lengths_of_scripts_without_spaces_are_counted_in_their_unit() -> None:
    check = AskedLengthFilter(AskedLengthConfig(factor=1.0))
    for query in ("珊瑚礁为什么会白化呢怎么办", "ทำไมปะการังจึงฟอกขาวในน้ำอุ่น"):
        assert name_of(check(candidate(query, facts={"length": "5-9"}))) == "kept"
        assert name_of(check(candidate(query * 3, facts={"length": "5-9"}))) == "wrong_length"


@pytest.mark.parametrize(
    ("query", "language", "expected"),
    [
        ("GPU reset", "zh", "wrong_language"), ("GPU 重置", "zh", "kept"), ("GPU", "zh", "kept"),
        ("coral bleaching", "ru", "wrong_language"), ("отбеливание", "ru", "kept"), ("coral reef", "de", "kept"),
    ],
)  # fmt: skip
def test_a_short_query_that_should_cross_languages_has_a_letter_of_the_other(
    query: str, language: str, expected: str
) -> None:
    check = LanguageFilter(LanguageConfig())
    facts = {"languages": {"query": language}, "cross_lingual": True}
    assert name_of(check(candidate(query, facts=facts))) == expected
    assert name_of(check(candidate(query, facts={**facts, "cross_lingual": False}))) == "kept"


def test_a_long_passage_that_was_given_is_not_too_long() -> None:
    """Only what the teacher wrote is judged."""
    passage = " ".join(f"w{number}" for number in range(150))
    judge = LengthFilter(LengthConfig(max_document_words=100))
    assert name_of(judge(candidate("a question about w7", passage))) == "kept"
    written = candidate("a question about w7", positives=(passage,))
    assert name_of(judge(written)) == "too_long"


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I’m sorry, as an AI language model I have no opinion",
        "I cannot assist with this request",
        "Sorry, I can't write that",
        "Unfortunately, I do not have the passage",
        "As a large language model, I was trained on text",
        '"I am unable to provide a query',
        "Es tut mir leid, aber ich kann das nicht",
        "Désolé, mais je ne peux pas répondre",
        "Lo siento, pero no puedo ayudar",
        "Desculpe, mas não posso ajudar",
        "Извините, но я не могу",
        "抱歉，我无法提供",
        "作为一个人工智能语言模型，我",
        "申し訳ありませんが、お手伝いできません",
        "죄송하지만 도와드릴 수 없습니다",
        "क्षमा करें, मैं मदद नहीं कर सकता",
    ],
)
def test_refusals_are_found_in_many_languages(text: str) -> None:
    assert name_of(RefusalFilter()(candidate(text))) == "refusal"


@pytest.mark.parametrize(
    "text",
    [
        "sorry lyrics justin bieber",
        "why can't i assist my landlord with repairs",
        "how do I apologize to a customer",
        "i cannot sleep at night",
        "what is an ai language model",
        "es tut mir leid auf englisch",
        "wie sagt man lo siento",
        "抱歉的英文怎么说",
    ],
)
def test_queries_about_apologies_are_no_refusals(text: str) -> None:
    assert name_of(RefusalFilter()(candidate(text))) == "kept"


def test_a_refusal_in_the_given_passage_is_not_the_teachers() -> None:
    passage = "I'm sorry, but I can't help, said the clerk, and closed the window."
    assert name_of(RefusalFilter()(candidate("who closed the window", passage))) == "kept"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("why do glaciers flow downhill", "prompt_echo"),
        ("Why do glaciers flow downhill?", "prompt_echo"),
        ("why do rivers flow downhill", "kept"),
        ("a query that such a person would type when looking", "prompt_echo"),
        ("Query: garbage collection", "prompt_echo"),
        ("Sure, here is a query for you", "prompt_echo"),
        ("<|im_start|>system", "prompt_echo"),
        ("what does the gc do according to the passage", "points_at_passage"),
        ("What is the passage about?", "points_at_passage"),
        ("根据上述文章，垃圾回收是什么", "points_at_passage"),
        ("landmarks in the passage of the northwest expedition", "kept"),
        ("how to query postgres from python", "kept"),
        ("sure start children's centres", "kept"),
        ("how to escape {{ and }} in jinja", "kept"),
    ],
)
def test_echoes(query: str, expected: str) -> None:
    assert name_of(EchoFilter([PROMPT])(candidate(query))) == expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("docs at https://evil.example/x", "invented_address"),
        ("mail bob@evil.example about it", "invented_address"),
        ("see www.evil.example now", "invented_address"),
        ("what is at https://docs.python.org/3/library/gc.html.", "kept"),
        ("who is gc@python.org", "kept"),
        ("what does the @ operator do", "kept"),
        ("http status codes", "kept"),
    ],
)
def test_links(query: str, expected: str) -> None:
    passage = "See https://docs.python.org/3/library/gc.html or write to GC@python.org."
    assert name_of(LinkFilter()(candidate(query, passage))) == expected


@pytest.mark.parametrize(
    ("query", "task", "expected"),
    [
        ("finding groups of objects that refer to one another but are not reachable", "retrieval", "copies_passage"),
        ("Finding GROUPS of objects, that refer to one another but are not reachable!", "code", "copies_passage"),
        ("garbage collector reference counting", "retrieval", "kept"),
        ("why does reference counting alone miss groups of objects that nothing else uses", "retrieval", "kept"),
        (PASSAGE.upper(), "bitext", "copies_text"),
        ("finding groups of objects that refer to one another but are not reachable", "sts", "kept"),
    ],
)
def test_copies(query: str, task: str, expected: str) -> None:
    assert name_of(CopyFilter(CopyConfig())(candidate(query, task=task))) == expected


def test_a_written_negative_equal_to_the_positive_is_a_copy() -> None:
    row = candidate("what is it", negatives=(PASSAGE + ".",), task="code")
    assert name_of(CopyFilter(CopyConfig())(row)) == "copies_text"


def test_a_query_equal_to_its_instruction_is_a_copy() -> None:
    """Seen with a real weak teacher, in classification."""
    given = candidate("Classify the message of a beekeeper", task="classification")
    row = replace(given.row, instruction="classify the message of a beekeeper.")
    assert name_of(CopyFilter(CopyConfig())(replace(given, row=row))) == "copies_text"
    assert name_of(CopyFilter(CopyConfig())(given)) == "kept"


def test_a_short_passage_that_a_long_query_quotes_was_given_and_is_not_judged() -> None:
    passage = "the lock keeper opens the upper gates at dawn"
    query = (
        "is it true that "
        + passage
        + " and that boats which came during the night have to wait until all others passed"
    )
    assert name_of(CopyFilter(CopyConfig())(candidate(query, passage))) == "kept"


@pytest.mark.parametrize(
    ("query", "persona", "expected"),
    [
        (
            "A young couple in Hanoi buying their first flat",
            "A young couple in Hanoi buying their first flat.",
            "persona_echo",
        ),
        (
            "what does a young couple in Hanoi buying a flat pay",
            "A young couple in Hanoi buying their first flat.",
            "persona_echo",
        ),
        ("how do couples in Hanoi buy a flat", "A young couple in Hanoi buying their first flat.", "kept"),
    ],
)
def test_the_character_is_no_query(query: str, persona: str, expected: str) -> None:
    """Seen with a real weak teacher."""
    assert name_of(EchoFilter([])(candidate(query, facts={"persona": persona}))) == expected


@pytest.mark.parametrize(
    ("query", "facts", "expected"),
    [
        ("What is the most important thing to know in this world?", {}, "unrelated"),
        ("when is collecting garbage switched off", {}, "kept"),
        ("wann lohnt sich das Abschalten", {"cross_lingual": True}, "kept"),
    ],
)
def test_a_query_without_a_word_of_its_passage(query: str, facts: dict[str, bool], expected: str) -> None:
    assert name_of(RelevanceFilter(RelevanceConfig(min_shared_words=1))(candidate(query, facts=facts))) == expected


LANGUAGES = LanguageFilter(LanguageConfig(languages=["en", "de", "fr", "zh"]))


@pytest.mark.parametrize(
    ("query", "language", "expected"),
    [
        ("wie findet der Sammler nicht mehr erreichbare Objekte", "de", "kept"),
        ("wie findet der Sammler nicht mehr erreichbare Objekte", "en", "wrong_language"),
        ("how does the collector find objects that nobody reaches", "de", "wrong_language"),
        ("how does the collector find objects that nobody reaches", "en-US", "kept"),
        ("how does the collector find objects that nobody reaches", "de-AT", "wrong_language"),
        ("how does the collector find objects that nobody reaches", "", "kept"),
        ("how does the collector find objects that nobody reaches", "tlh", "kept"),
        ("垃圾回收器如何找到对象", "zh", "kept"),
        ("垃圾回收器如何找到对象", "en", "wrong_language"),
        ("gc.collect()", "de", "kept"),
        ("PostgreSQL VACUUM", "fr", "kept"),
    ],
)
def test_languages(query: str, language: str, expected: str) -> None:
    assert name_of(LANGUAGES(candidate(query, language=language))) == expected


def test_facts_name_the_language_of_each_side() -> None:
    """A translation is in another language than its row's query."""
    german = "Der Sammler findet Gruppen von Objekten, die niemand mehr erreicht."
    facts = {"languages": {"query": "en", "positive": "de"}}
    row = candidate("the collector finds groups of objects", task="bitext", positives=(german,), facts=facts)
    assert name_of(LANGUAGES(row)) == "kept"
    facts = {"languages": {"query": "en", "positive": "fr"}}
    row = candidate("the collector finds groups of objects", task="bitext", positives=(german,), facts=facts)
    assert name_of(LANGUAGES(row)) == "wrong_language"


def test_the_chain_gives_the_first_reason_and_every_filter_can_be_switched_off(tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "x.jinja").write_text(PROMPT)
    config = FilterConfig(language=LanguageConfig(languages=["en", "de"]))
    bad = candidate("I'm sorry, but I can't open https://evil.example according to the passage")
    assert name_of(build_filters(config, [tmp_path])(bad)) == "refusal"
    config.refusals = False
    assert name_of(build_filters(config, [tmp_path])(bad)) == "points_at_passage"
    config.echoes = False
    assert name_of(build_filters(config, [tmp_path])(bad)) == "invented_address"
    config.links = False
    config.lengths.enabled = config.copying.enabled = config.language.enabled = False
    assert name_of(build_filters(config, [tmp_path])(bad)) == "kept"


def test_words_mean_the_same_in_every_script() -> None:
    assert words("The Quick-Brown FOX!") == ["the", "quick", "brown", "fox"]
    assert words("垃圾回收 GC２") == ["垃", "圾", "回", "收", "gc2"]
    assert words("हिन्दी भाषा") == ["हिन्दी", "भाषा"]
    assert words("\x00\u202e{{ }}") == []


@pytest.mark.parametrize(
    "text", ["", "\x00", "\u202e\u202d", "{{ 7*7 }}", "😀" * 1000, "\ud800", "a" * 100_000, "ا" * 5000]
)
def test_no_filter_stumbles_over_a_hostile_text(text: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Whatever a document or a teacher holds, the answer is a verdict."""
    config = FilterConfig(language=LanguageConfig(languages=["en", "de"]))
    row = candidate(text or "x", passage=text * 2 or "y", negatives=(text + "!",))
    assert name_of(build_filters(config, [tmp_path])(row))
