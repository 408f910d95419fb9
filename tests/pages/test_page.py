"""Nothing that is printed becomes markup, whatever the template does with it; what is missing is an error."""

from pathlib import Path
from xml.etree import ElementTree

import pytest
from jinja2 import UndefinedError

from qwen3emb_train.pages.page import Cell, Table, formatted, interval, render, shortened

HOSTILE = "</td><script>alert(1)</script> {{ 7 * 7 }} & \" ' \x00\x1b\x9f\ud800\uffff]]>"
READABLE = HOSTILE.translate(dict.fromkeys(map(ord, "\x00\x1b\x9f\ud800\uffff"), "\ufffd"))


def page_of(directory: Path, body: str, **context: object) -> str:
    template = directory / "page.html.jinja"
    imported = '{% from "macros.html.jinja" import bars, histogram, table, text %}'
    template.write_text(f'{{% extends "base.html.jinja" %}}{imported}{{% block main %}}{body}{{% endblock %}}')
    return render(template, **{"program": "p", "title": HOSTILE, "lead": HOSTILE} | context)


def test_printed_values_are_text(tmp_path: Path) -> None:
    body = '<p title="{{ x }}">{{ x }}</p><p>{{ "a" ~ x }}</p><p>{{ [x] | join("") }}</p><p>{{ text(x, 1000) }}</p>'
    root = ElementTree.fromstring(page_of(tmp_path, body, x=HOSTILE))
    assert not list(root.iter("script"))
    lead, first, *others = root.iter("p")
    assert first.attrib["title"] == READABLE
    assert [(p.text or "").strip() for p in (lead, first, *others)] == [READABLE] * 2 + ["a" + READABLE] + [
        READABLE
    ] * 2
    assert [title.text for title in root.iter("title")] == [READABLE]


def test_a_table_shows_its_cells(tmp_path: Path) -> None:
    table = Table(["model", HOSTILE], [["a", Cell(HOSTILE, note=HOSTILE, mark="best")], ["b", "–"]])
    root = ElementTree.fromstring(page_of(tmp_path, "{{ table(t) }}", t=table))
    rows = [["".join(cell.itertext()).split() for cell in row] for row in root.iter("tr")]
    assert rows == [
        [["model"], READABLE.split()], [["a"], READABLE.split() * 2], [["b"], ["–"]],
    ]  # fmt: skip
    assert [span.get("class") for span in root.iter("span")] == ["best"]
    assert [cell.get("class") for cell in root.iter("td")] == ["number", "number"]


def test_a_histogram_is_as_high_as_its_counts(tmp_path: Path) -> None:
    body = '{{ histogram([1, 0, 4], -1, 1, [0], "positive") }}'
    root = ElementTree.fromstring(page_of(tmp_path, body))
    bars = [element.attrib for element in root.iter("{http://www.w3.org/2000/svg}rect")]
    assert [(bar["x"], bar["y"], bar["height"]) for bar in bars] == [("0.0", "90.0", "30.0"), ("426.7", "0.0", "120.0")]


def test_what_is_missing_is_an_error(tmp_path: Path) -> None:
    for body in ("{{ absent }}", "{{ x.absent }}", "{% if absent %}{% endif %}"):
        with pytest.raises(UndefinedError, match="absent"):
            page_of(tmp_path, body, x={})


def test_equal_contexts_give_equal_bytes(tmp_path: Path) -> None:
    assert page_of(tmp_path, "{{ x }}", x=HOSTILE) == page_of(tmp_path, "{{ x }}", x=HOSTILE)


def test_numbers_and_texts_of_bounded_length() -> None:
    assert [formatted(0.5), formatted(None), formatted(float("nan")), formatted(1234.5, ",.1f")] == [
        "0.5000", "–", "–", "1,234.5",
    ]  # fmt: skip
    assert [interval((0.1, 0.2), "+.2f"), interval(None)] == ["+0.10 – +0.20", ""]
    assert [shortened("abcdef", 4), shortened("abcd", 4), shortened("a  def", 4)] == ["abc…", "abcd", "a…"]
