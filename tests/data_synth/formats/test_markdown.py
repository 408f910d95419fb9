"""Markdown is read by a parser: front matter, fences and tables stay what they are, whatever the passages' length."""

import re

import pytest

from data_synth.chunking import chunk_text, estimate_tokens
from data_synth.formats.markdown import markdown_extract, read_mdx

ROWS = [f"| key.{number} | how many seconds the agent {number} waits |" for number in range(40)]
TABLE = "\n".join(["| Key | Meaning |", "|-----|---------|", *ROWS])


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ('---\ntitle: "Installing: the agent"\nposition: 3\n---\n\nText.\n', "Installing: the agent"),
        ("---\ntitle: The {{ name }}: guide\n---\n# Other\n", "The {{ name }}: guide"),
        ('+++\ntitle = "From TOML"\n+++\nText.\n', "From TOML"),
        ("```bash\n# no heading\n```\n\n# The *real* [title](x.md) #\n", "The real title"),
        ("The title\n=========\n\nText.\n", "The title"),
        ("Text.\n\n    # indented code\n", ""),
        ("---\n\nA rule above, no front matter.\n\n---\n", ""),
    ],
)
def test_the_title_is_the_front_matters_or_the_first_heading(text: str, title: str) -> None:
    found = markdown_extract(text)
    assert found.title == title
    assert ("A rule above" in text) == found.text.startswith("---")


def test_a_comment_in_a_fence_is_no_section() -> None:
    text = "Intro words here.\n\n```bash\n# one\ncurl x\n# two\nls\n```\n\n1. Item\n\n   ~~~\n   # three\n   ~~~\n"
    assert chunk_text(text, 200, 1, is_markdown=True) == [text.strip()]


@pytest.mark.parametrize("budget", [40, 90, 200])
def test_a_long_table_is_cut_between_rows_under_its_header(budget: int) -> None:
    chunks = chunk_text(f"# Settings\n\nThey are these.\n\n{TABLE}\n\nAfter it.\n", budget, 4, is_markdown=True)
    lines = [line for chunk in chunks for line in chunk.split("\n") if line.startswith("|")]
    assert [line for line in lines if "key." in line] == ROWS
    assert all("| Key | Meaning |\n|-----|" in chunk for chunk in chunks if "key." in chunk)
    assert all(estimate_tokens(chunk) <= budget for chunk in chunks)
    assert len(chunks) > 1


def test_a_long_fence_is_closed_and_opened_again() -> None:
    code = "\n".join(f"  value_{number} = compute({number})" for number in range(60))
    chunks = chunk_text(f"Before.\n\n````python\n{code}\n````\n\nAfter.\n", 80, 4, is_markdown=True)
    assert all(chunk.count("````") % 2 == 0 for chunk in chunks)
    assert all(estimate_tokens(chunk) <= 80 for chunk in chunks)
    shown = re.findall(r"value_\d+ = compute\(\d+\)", "\n".join(chunks))
    assert shown == re.findall(r"value_\d+ = compute\(\d+\)", code)
    assert "\n  value_1 = " in chunks[0]


def test_a_heading_stands_with_what_follows_it() -> None:
    text = "Words of an intro stand here, about twenty of them, to fill a passage.\n\n## Part\n\n" + TABLE
    assert not any(chunk.endswith("## Part") for chunk in chunk_text(text, 40, 30, is_markdown=True))


def test_mdx_loses_its_modules_and_components_but_not_its_code() -> None:
    text = (
        "---\ntitle: Pump\n---\nimport Tabs from '@theme/Tabs';\n\nexport const x = 1;\n\n# Pump\n\n<Tabs>\n\n"
        "It runs.\n\n</Tabs>\n\n{/* hidden */}\n\n```js\nimport a from 'b';\n<Tabs>\n```\n"
    )
    title, shown, _ = read_mdx(text.encode())
    assert title == "Pump"
    assert shown == "# Pump\n\nIt runs.\n\n```js\nimport a from 'b';\n<Tabs>\n```"
