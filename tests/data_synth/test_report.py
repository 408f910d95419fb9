"""The report is one valid, self-contained page for any text of documents and teachers (G8), with right counts."""

import json
import re
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest

from data_synth.report import bars, render_report
from data_synth.statistics import Sample, Statistics, bucket
from qwen3emb_train.data.records import TrainingExample

HOSTILE = [
    "<script>alert(1)</script>",
    "</div></body></html><h1>owned</h1>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7*7 }} {% for x in y %}",
    "---\n# heading\n```",
    "\x00\x01\x1b[31m\x7f\x9b",
    "\ud800 lone \udfff",
    "\u202eright to left\u2066",
    "&lt;b&gt; &amp; &nbsp; <!-- ]]> -->",
    "😀" * 100,
    "x" * 1_000_000,
]


def render(text: str) -> str:
    statistics = Statistics()
    row = TrainingExample(text, (text,), (text + "!",), source=text, language=text[:5], instruction=text)
    for _ in range(2):
        statistics.add_row(row, {"question_type": text[:50], text[:20]: text, "nested": {text: [text]}})
    statistics.add_rejected("retrieval", text, text, [row.to_json()])
    statistics.add_rejected("retrieval", "not_json", text, [])
    counts = statistics.to_json()
    rejected = {reason: sample.values() for reason, sample in statistics.rejected_samples.items()}
    return render_report(text, {text: text}, {"items": 4, text: 2}, counts, statistics.samples.values(), rejected)


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_leaves_the_page_valid_and_without_code(text: str) -> None:
    page = render(text)
    root = ElementTree.fromstring(page.encode())  # well-formed: nothing was opened that is not closed
    tags = {element.tag for element in root.iter()}
    assert tags <= {
        "html", "head", "meta", "title", "style", "body", "main", "header", "h1", "h2", "h3", "p", "table", "tbody",
        "tr", "th", "td", "div", "ol", "li", "span", "small", "footer",
    }  # fmt: skip
    assert {name for element in root.iter() for name in element.attrib if name.startswith("on")} == set()
    assert not re.search(r"(?:src|href|url)\s*[=(]", re.sub(r">[^<]*<", "><", page))
    assert "49" not in page or "7*7" not in text, "a text was run as a template"
    HTMLParser().feed(page)
    assert len(page) < 200_000


def test_two_pages_differ_only_in_the_texts() -> None:
    """What hostile text changes is text: the elements are those of a harmless page."""

    def tags(page: str) -> list[str]:
        return [element.tag for element in ElementTree.fromstring(page.encode()).iter()]

    assert tags(render("<script>alert(1)</script></div>")) == tags(render("a harmless, ordinary text"))


def test_an_empty_run_has_a_report() -> None:
    statistics = Statistics()
    page = render_report("nothing", {}, {"items": 0}, statistics.to_json(), [], {})
    assert ElementTree.fromstring(page.encode()) is not None
    assert statistics.to_json()["acceptance_rate"] is None


def test_counts_add_up() -> None:
    statistics = Statistics()
    for number in range(30):
        query = " ".join(["word"] * (number + 1))
        row = TrainingExample(query, ("a b c",), language="en" if number < 20 else "de", source=f"manual/{number}")
        statistics.add_row(row, {"question_type": "summary", "persona": f"persona {number}", "difficulty": "phd"})
    statistics.add_rejected("retrieval", "refusal", "", [])
    found: dict[str, Any] = statistics.to_json()
    assert found["acceptance_rate"] == round(30 / 31, 4)
    assert found["languages"] == {"en": 20, "de": 10}
    assert found["sources"] == {"manual": 30}
    assert list(found["query_words"]) == ["1", "2-3", "4-7", "8-15", "16-31"]
    assert sum(found["query_words"].values()) == 30
    assert found["facts"]["question_type"] == {"summary": 30}
    json.dumps(found)


def test_facts_that_are_texts_are_no_chart() -> None:
    statistics = Statistics()
    for number in range(500):
        statistics.add_row(TrainingExample("q", ("d",)), {"remark": f"p{number}", "type": "x", "passage": "0" * 32})
    assert set(statistics.to_json()["facts"]) == {"type"}


def test_a_sample_is_the_same_whatever_the_order() -> None:
    values = [{"number": number} for number in range(1000)]
    one, two = Sample(20), Sample(20)
    for value in values:
        one.add(value)
    for value in reversed(values):
        two.add(value)
    assert one.values() == two.values()
    assert len({value["number"] for value in one.values()}) == 20
    assert max(value["number"] for value in one.values()) > 500, "not just the first"


def test_buckets_and_bars() -> None:
    assert [bucket(n) for n in (0, 1, 2, 3, 4, 7, 8, 1023)] == [
        "0",
        "1",
        "2-3",
        "2-3",
        "4-7",
        "4-7",
        "8-15",
        "512-1023",
    ]
    assert [bar.share for bar in bars({"items": 4, "ok": 1}, of_first=True)] == [1.0, 0.25]
    assert [bar.share for bar in bars({"a": 3, "b": 1})] == [0.75, 0.25]
