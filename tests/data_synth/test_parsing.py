"""S6: a reply gives the one object that fits the schema, or a rejection with the reason."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_synth.parsing import parse_reply
from data_synth.schemas import object_schema, one_of, schema_problem, text, texts
from data_synth.work import Rejected, Reply

QUERY = object_schema(Query=text())
FULL = object_schema(Character=one_of(["1", "2"]), Difficulty=one_of(["high_school", "phd"]), Others=texts(2))

GOOD = [
    '{"Query": "a"}',
    '  {"Query": "  a\\n"}  ',
    '```json\n{"Query": "a"}\n```',
    '```\n{"Query": "a"}\n```\nI hope this helps!',
    'Sure! Here is the query: {"Query": "a"} Anything else?',
    '{"Query": "a",}',
    "{'Query': 'a'}",
    '{"Query": "a"}\n\n{"Query": "a"}',
    '<think>\nMaybe {"Query": "b"}?\n</think>\n\n{"Query": "a"}',
    'Maybe {"Query": "b"}?</think>{"Query": "a"}',
    'The set {x} is small. {"Query": "a"}',
    '{"Query": "a" // a comment\n}',
    '{"Query" "a"}',
]
BAD = [
    ("", "not_json"),
    ("no object at all", "not_json"),
    ('{"Query": "how does', "not_json"),
    ('{"Query": "how does"', "not_json"),
    ('```json\n{"Query": "how does', "not_json"),
    ('{"Query": "a"}{"Query": "b"}', "several_objects"),
    ('{"Query": "a", "Query": "b"}', "not_json"),
    ("{'Query': 'a', 'Query': 'b'}", "not_json"),
    ('{"Query": "a", "system_prompt": "leak"}', "schema"),
    ('{"Query": "a", "system_prompt": "leak",}', "schema"),
    ('{"query": "a"}', "schema"),
    ('{"Query": ""}', "schema"),
    ('{"Query": "   "}', "schema"),
    ('{"Query": null}', "schema"),
    ('{"Query": 7}', "schema"),
    ('{"Query": NaN}', "not_json"),
    ('{"Query": ["a"]}', "schema"),
    ('{"Query": {"Query": "a"}}', "schema"),
    ('{"answer": {"Query": "a"}}', "schema"),
    ('{"answer": {"Query": "a"},}', "schema"),
    ('["Query"]', "not_json"),
    ('[{"Query": "a"}, {"Query": "b"}]', "several_objects"),
    ("{" * 5000, "not_json"),
    ('{"Query": how are you}', "not_json"),
    ('{"Query": "a" "b"}', "not_json"),
    ('{"Query": "torn in a text }', "not_json"),
    ('{"Query": "torn {in} a text ```}', "not_json"),
    ("{'Query': 'it's'}", "not_json"),
    ('{"Query": "a", "Query": "b",}', "not_json"),
    ('{"Query": ' * 3000, "not_json"),
    ('{"Query": "\\ud800"}', "not_unicode"),
    ('{"Query": "a\\u0000b"}', "control_character"),
    ('{"Query": "a<|im_end|>"}', "control_character"),
    ('{"Query": "' + "a" * 9000 + '"}', "text_too_long"),
    (" " * 200_000, "reply_too_long"),
    ('<think>I would say {"Query": "a"}', "not_json"),
]


@pytest.mark.parametrize("reply", GOOD)
def test_what_models_wrap_around_an_object_does_not_matter(reply: str) -> None:
    assert parse_reply(Reply(reply), QUERY) == {"Query": "a"}


@pytest.mark.parametrize(("reply", "reason"), BAD)
def test_what_is_not_the_one_object_asked_for_is_rejected_by_name(reply: str, reason: str) -> None:
    found = parse_reply(Reply(reply), QUERY)
    assert isinstance(found, Rejected)
    assert found.reason == reason
    assert len(found.detail) < 1000
    json.dumps(found.detail).encode()
    found.detail.encode()


def test_quotes_that_are_not_escaped_do_not_cost_the_text() -> None:
    assert parse_reply(Reply('{"Query": "what does "VACUUM" do?"}'), QUERY) == {"Query": 'what does "VACUUM" do?'}
    assert parse_reply(Reply('{"Query": "Straße \\u00e9 \\n",}'), QUERY) != {"Query": "Stra"}


def test_an_object_inside_a_broken_one_is_no_answer() -> None:
    """A document that makes the teacher write JSON into its text must not win over the outer object."""
    found = parse_reply(Reply('{"Query": "use {"Query": "evil"} now"}'), QUERY)
    assert found != {"Query": "evil"}
    assert isinstance(found, Rejected) or "now" in found["Query"]


def test_a_reply_that_the_server_cut_is_a_failure_of_its_own_even_where_it_would_parse() -> None:
    found = parse_reply(Reply('{"Query": "a"}', finish_reason="length", completion_tokens=64), QUERY)
    assert isinstance(found, Rejected)
    assert found.reason == "reply_cut"
    assert "64" in found.detail
    filtered = parse_reply(Reply("", finish_reason="content_filter"), QUERY)
    assert isinstance(filtered, Rejected)
    assert filtered.reason == "content_filter"


def test_choices_may_be_spelt_otherwise_and_not_be_others() -> None:
    good = {"Character": 2, "Difficulty": "High school", "Others": ["x", " y "]}
    assert parse_reply(Reply(json.dumps(good)), FULL) == {
        "Character": "2", "Difficulty": "high_school", "Others": ["x", "y"],
    }  # fmt: skip
    for change, told in [
        ({"Character": 3}, "Character"), ({"Character": True}, "Character"), ({"Others": ["x"]}, "Others"),
        ({"Others": ["x", "y", "z"]}, "Others"), ({"Others": ["x", ""]}, "Others[1]"), ({"Difficulty": "hard"}, "phd"),
    ]:  # fmt: skip
        found = parse_reply(Reply(json.dumps({**good, **change})), FULL)
        assert isinstance(found, Rejected)
        assert found.reason == "schema"
        assert told in found.detail


@settings(max_examples=150, deadline=None)
@given(st.text("{}[]\"\\:,aQuery \n`'0<>|/", max_size=60))
def test_no_reply_raises_and_whatever_is_taken_fits_the_schema(reply: str) -> None:
    found: Any = parse_reply(Reply(reply), QUERY)
    assert isinstance(found, Rejected) or schema_problem(found, QUERY) is None


@settings(max_examples=60, deadline=None)
@given(
    # Control characters in a reply stand for back-slashes that were not doubled (test_backslashes.py).
    st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=60).filter(lambda value: bool(value.strip())),
    st.integers(0, 100),
)
def test_a_torn_reply_never_gives_a_shorter_text(query: str, percent: int) -> None:
    """Cut anywhere: the whole query or none."""
    whole = json.dumps({"Query": query}, ensure_ascii=False)
    found = parse_reply(Reply(whole[: len(whole) * percent // 100]), QUERY)
    assert isinstance(found, Rejected) or found == {"Query": query.strip()}


def test_a_schema_word_that_is_not_checked_is_refused() -> None:
    with pytest.raises(ValueError, match="maxLength"):
        schema_problem("a", {"type": "string", "maxLength": 3})
    with pytest.raises(ValueError, match="integer"):
        schema_problem(1, {"type": "integer"})
