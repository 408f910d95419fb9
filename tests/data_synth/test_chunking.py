"""Passages are whole sentences within the limit, and no text of a document is lost."""

import textwrap
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_synth.chunking import chunk_code, chunk_text, estimate_tokens, load_token_counter, sentences

ALPHABET = "ab Cd.!?\n#\t。？！中文ñ؟।\"'()-=🙂\u202e"


def squeezed(text: str) -> str:
    return "".join(text.split())


@settings(max_examples=60, deadline=None)
@given(st.text(ALPHABET, max_size=300), st.integers(2, 20), st.booleans())
def test_no_chunk_exceeds_the_budget_and_none_of_the_text_is_lost(text: str, budget: int, is_code: bool) -> None:
    """Whatever the text, also one that is a single word longer than a passage."""
    chunks = (chunk_code if is_code else chunk_text)(text, budget, 1)
    assert squeezed("".join(chunks)) == squeezed(text)
    assert all(chunk.strip() for chunk in chunks)
    assert all(estimate_tokens(chunk) <= budget for chunk in chunks)


def test_passages_end_at_sentence_ends_and_begin_at_sections() -> None:
    text = "# One\n\nFirst here. Second e.g. this costs 3.5 a piece. Third.\n\n# Two\n\nFourth thing. Fifth thing."
    assert chunk_text(text, 14, 2) == [
        "# One\n\nFirst here.",
        "Second e.g. this costs 3.5 a piece.",
        "Third.",
        "# Two\n\nFourth thing. Fifth thing.",
    ]


def test_a_short_section_stays_with_the_next_and_a_short_tail_with_the_last() -> None:
    assert chunk_text("# One\n\nShort.\n\n# Two\n\nA longer body of words stands here.", 40, 6) == [
        "# One\n\nShort.\n\n# Two\n\nA longer body of words stands here."
    ]
    assert len(chunk_text("One two three four five six seven.\n\n# T\n\nEnd.", 14, 6)) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("结束。第二句！好吗？", ["结束。", "第二句！", "好吗？"]),
        ("他说：“好。”然后走了。", ["他说：“好。”然后走了。"]),
        ("هل تعرف؟ نعم.", ["هل تعرف؟", "نعم."]),
        ("यह एक है। वह दो है।", ["यह एक है।", "वह दो है।"]),
        ("Version 3.5 of x.y is out, cf. the notes.", ["Version 3.5 of x.y is out, cf. the notes."]),
    ],
)
def test_sentences_end_where_their_script_ends_them(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


def test_code_is_cut_at_definitions_with_their_comments() -> None:
    code = textwrap.dedent('''
        import os

        # Adds things.
        @cache
        def add(a, b):
            """Sum."""
            return a + b

        def sub(a, b):
            raise ValueError(a, b)
    ''')
    chunks = chunk_code(code, 60, 2)
    assert [chunk.splitlines()[0] for chunk in chunks] == ["import os", "# Adds things.", "def sub(a, b):"]


def test_methods_of_a_braced_language_are_found_and_dedented() -> None:
    java = "class A {\n\n    /** Adds. */\n    public int add(int a) {\n        return f(a);\n    }\n\n"
    java += "    int sub(int a)\n    {\n        return g(a);\n    }\n}\n"
    chunks = chunk_code(java, 60, 2)
    assert [chunk.splitlines()[0].strip() for chunk in chunks] == ["class A {", "/** Adds. */", "int sub(int a)"]
    assert chunks[1].startswith("/**")


def test_a_long_function_is_cut_at_blank_lines() -> None:
    code = "def f():\n    a = 1\n    b = 2\n\n    c = 3\n    d = 4\n"
    assert chunk_code(code, 12, 2) == ["def f():\n    a = 1\n    b = 2", "c = 3\nd = 4"]


def test_a_tokenizer_counts_where_one_is_named(tiny_qwen3: Path, tmp_path: Path) -> None:
    count = load_token_counter(str(tiny_qwen3))
    assert count("abc") != estimate_tokens("abc") or count("abcdefghi jkl") != estimate_tokens("abcdefghi jkl")
    assert load_token_counter(None) is estimate_tokens
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        load_token_counter(str(tmp_path))


def test_a_document_without_any_structure_takes_linear_time() -> None:
    """Joining and counting again at each of 20,000 blank lines took over ten seconds."""
    for text in ("\n" * 20_000, "(" * 5_000, "a<b> " * 2_000, "。" * 5_000):
        chunk_text(text, 512, 16)
        chunk_code(text, 512, 16)
