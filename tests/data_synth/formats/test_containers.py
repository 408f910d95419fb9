"""Formats of office programs, notebooks and compressed files: title, sections, rows; the damaged ones are named."""

import bz2
import gzip
import io
import json
import lzma
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest

from data_synth.documents import DocumentsConfig, Passage, RejectedDocument, read_passages
from data_synth.formats.extract import UnreadableError
from data_synth.formats.markup import read_asciidoc, read_org, read_rst
from data_synth.formats.notebook import read_notebook
from data_synth.formats.office import read_docx, read_epub, read_pptx
from data_synth.formats.pdf import without_running_heads
from data_synth.formats.xml import read_xml

BODY = "The pump starts when the water has risen to the upper float."
W = '<w:document xmlns:w="http://w"><w:body>{}</w:body></w:document>'


def packed(**parts: str) -> bytes:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as file:
        for name, text in parts.items():
            file.writestr(name.replace("__", "/"), text)
    return raw.getvalue()


def word(text: str, style: str = "") -> str:
    look = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f"<w:p>{look}<w:r><w:t>{text}</w:t></w:r></w:p>"


def read(path: Path, **settings: object) -> tuple[list[Passage], list[RejectedDocument]]:
    rejected: list[RejectedDocument] = []
    config = DocumentsConfig(**{"path": str(path), "min_tokens": 2, **settings})  # type: ignore[arg-type]
    return list(read_passages("demo", config, rejected.append)), rejected


def test_a_word_document_keeps_headings_and_rows() -> None:
    cells = "".join(f"<w:tc>{word(text)}</w:tc>" for text in ("Part", "Price"))
    table = f"<w:tbl><w:tr>{cells}</w:tr><w:tr><w:tc>{word('A|B')}</w:tc><w:tc>{word('3')}</w:tc></w:tr></w:tbl>"
    styles = '<w:styles xmlns:w="x"><w:style w:styleId="berschrift1"><w:name w:val="heading 1"/></w:style></w:styles>'
    body = word("Pumps", "berschrift1") + word(BODY) + table + word("End", "Heading2")
    found = read_docx(packed(word__document_xml="", **{"word/document.xml": W.format(body), "word/styles.xml": styles}))
    assert found.title == "Pumps"
    assert found.text == f"# Pumps\n\n{BODY}\n\n| Part | Price |\n| --- | --- |\n| A\\|B | 3 |\n\n## End"


def test_slides_are_sections_in_their_order() -> None:
    slide = (
        '<p:sld xmlns:p="p" xmlns:a="a"><p:sp><p:nvPr><p:ph type="title"/></p:nvPr><a:p><a:r><a:t>Slide {n}</a:t></a:r>'
        "</a:p></p:sp><p:sp><a:p><a:r><a:t>Text {n}</a:t></a:r></a:p></p:sp></p:sld>"
    )
    names = {f"ppt/slides/slide{n}.xml": slide.replace("{n}", str(n)) for n in (10, 2, 1)}
    found = read_pptx(packed(**names))
    assert found.title == "Slide 1"
    assert found.text == "\n\n".join(f"## Slide {n}\n\nText {n}" for n in (1, 2, 10))


def test_a_book_is_read_in_the_order_of_its_spine() -> None:
    parts = {
        "META-INF/container.xml": '<container xmlns="c"><rootfile full-path="OPS/p.opf"/></container>',
        "OPS/p.opf": '<package xmlns="o" xmlns:dc="d"><dc:title>The book</dc:title><item id="a" href="z%20one.xhtml"/>'
        '<item id="b" href="a.xhtml"/><itemref idref="a"/><itemref idref="b"/></package>',
        "OPS/z one.xhtml": "<html><body><h1>One</h1><pre>x\n  y</pre></body></html>",
        "OPS/a.xhtml": f"<html><body><h1>Two</h1><p>{BODY}</p></body></html>",
    }
    assert read_epub(packed(**parts))[:2] == ("The book", f"# One\n\n```\nx\n  y\n```\n\n# Two\n\n{BODY}")


@pytest.mark.parametrize("reader", [read_docx, read_pptx, read_epub])
def test_damaged_and_encrypted_containers_are_refused(reader: object) -> None:
    whole = packed(**{"word/document.xml": W.format(word(BODY)), "x": "y"})
    for raw, reason in (
        (whole[:60], "damaged"),
        (b"\xd0\xcf\x11\xe0" + bytes(600), "encrypted"),
        (packed(x="y"), "damaged"),
    ):
        with pytest.raises(UnreadableError, match=reason):
            reader(raw)  # type: ignore[operator]
    bomb = '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'
    with pytest.raises(UnreadableError, match="entities"):
        read_docx(packed(**{"word/document.xml": bomb}))
    with pytest.raises(UnreadableError, match="entities"):
        read_xml(bomb.encode())


def test_a_notebook_gives_its_cells_without_outputs() -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# Pumps\n", BODY]},
        {"cell_type": "code", "source": "# no heading\nx = 1", "outputs": [{"data": {"image/png": "iVBOR"}}]},
    ]
    found = read_notebook(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4}).encode())
    assert found == ("Pumps", f"# Pumps\n{BODY}\n\n```python\n# no heading\nx = 1\n```", True)
    with pytest.raises(UnreadableError, match="damaged"):
        read_notebook(b'{"cells": [{"source": 3}]}')


def test_markup_languages_become_markdown() -> None:
    org = "#+title: Pumps\n* TODO Head :tag:\nText.\n#+begin_src sh\n* no heading\n#+end_src\n"
    org += "| a | b |\n|---+---|\n| 1 | 2 |\n"
    assert read_org(org.encode())[:2] == (
        "Pumps", "# Head\nText.\n```sh\n* no heading\n```\n| a | b |\n|---|---|\n| 1 | 2 |",
    )  # fmt: skip
    adoc = "= Pumps\n:toc:\n\n== Part\n\n[source,sh]\n----\n= no heading\n----\n\n|===\n|a |b\n\n|1\n|2\n|===\n"
    assert read_asciidoc(adoc.encode())[:2] == (
        "Pumps", "# Pumps\n\n## Part\n\n```sh\n= no heading\n```\n\n| a | b |\n| --- | --- |\n| 1 | 2 |",
    )  # fmt: skip
    rst = "=====\nPumps\n=====\n\nPart\n----\n\nLike this::\n\n    # code\n    more\n\n"
    rst += ".. code-block:: python\n\n   x = 1\n\nEnd.\n"
    title, text, _ = read_rst(rst.encode())
    assert title == "Pumps"
    for part in ("# Pumps\n", "## Part\n", "Like this:\n\n```\n# code\nmore\n```", "```python\nx = 1\n```", "End."):
        assert part in text
    assert read_xml(f"<a><title>T</title><p>{BODY}</p><c><d>x</d><e>y <b>z</b></e></c></a>".encode())[:2] == (
        "T", f"T\n\n{BODY}\n\nx\n\ny z",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", f'\ufefftitle;text\nA;"{BODY}"\n'), ("a.tsv", f"title\ttext\nA\t{BODY}\n"),
        ("a.json", json.dumps([{"title": "A", "text": BODY}])),
        ("a.json", json.dumps({"data": [{"title": "A", "text": BODY}]})),
    ],
)  # fmt: skip
def test_tables_give_a_document_a_row(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    (passage,), rejected = read(tmp_path / name)
    assert (passage.text, passage.title, rejected) == (f"A\n{BODY}", "A", [])


def test_rows_of_other_columns_are_read_whole_and_uneven_ones_are_named(tmp_path: Path) -> None:
    (tmp_path / "faq.csv").write_text("question,answer\nWhen?,At noon each day\nwhy,because,of\n")
    (passage,), (rejected,) = read(tmp_path / "faq.csv")
    assert passage.text == "question: When?\nanswer: At noon each day"
    assert (rejected.document, rejected.reason) == ("faq.csv:3", "not_csv")


@pytest.mark.parametrize("suffix", ["gz", "zst", "bz2", "xz"])
def test_compressed_documents_and_tables_are_read_and_damaged_ones_named(tmp_path: Path, suffix: str) -> None:
    pack = {
        "gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress,
        "zst": lambda raw: pa.compress(raw, codec="zstd", asbytes=True),
    }[suffix]  # fmt: skip
    (tmp_path / f"a.md.{suffix}").write_bytes(pack(f"# Pumps\n\n{BODY}".encode()))
    (tmp_path / f"b.jsonl.{suffix}").write_bytes(pack(json.dumps({"text": BODY + " b"}).encode()))
    (tmp_path / f"c.txt.{suffix}").write_bytes(pack(BODY.encode() * 9)[:-9])
    (tmp_path / f"d.txt.{suffix}").write_bytes(pack(b"a " * 90_000))
    passages, rejected = read(tmp_path, max_file_bytes=50_000)
    assert [passage.text for passage in passages] == [f"# Pumps\n\n{BODY}", BODY + " b"]
    assert {entry.document[0]: entry.reason for entry in rejected} == {"c": "damaged", "d": "file_too_large"}


def test_running_heads_go_and_rows_that_count_stay() -> None:
    pages = [
        ["ACME manual, edition 7", f"Page {n} of 3", *(f"Gasket size {10 * n + k}" for k in range(10)), "end"]
        for n in (1, 2, 3)
    ]
    assert without_running_heads(pages) == [[f"Gasket size {10 * n + k}" for k in range(10)] for n in (1, 2, 3)]
