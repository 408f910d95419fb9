"""Every file and row gives passages or a rejection with its reason; the order is fixed."""

import gzip
import json
import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_synth.documents import DocumentsConfig, Passage, RejectedDocument, passage_id, read_passages

BODY = "The ferry sails twice a day from May to September, and on Fridays only in winter, except in storms."


def read(path: Path, **settings: object) -> tuple[list[Passage], list[RejectedDocument]]:
    rejected: list[RejectedDocument] = []
    config = DocumentsConfig(**{"path": str(path), "min_tokens": 4, **settings})  # type: ignore[arg-type]
    return list(read_passages("demo", config, rejected.append)), rejected


def write_jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_a_folder_is_read_in_name_order_by_suffix(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "a.txt").write_text(BODY)
    (tmp_path / "b" / "page.html").write_text(
        f"<html><head><title>Ferry &amp; more</title><style>x{{}}</style><body><script>evil()</script>"
        f"<h1>Times</h1><p>{BODY} Really.</p><nav>Home</nav>"
    )
    (tmp_path / "c.md").write_text(f"---\ndraft: true\n---\n# The title\n\n{BODY} So it is.")
    (tmp_path / "d.py").write_text("def sail(day):\n    return day in SAILING_DAYS and not is_stormy(day)\n")
    (tmp_path / ".hidden.txt").write_text(BODY)
    passages, rejected = read(tmp_path, language="en")
    assert [passage.document for passage in passages] == ["a.txt", "c.md", "d.py", "b/page.html"] or [
        passage.document for passage in passages
    ] == ["a.txt", "b/page.html", "c.md", "d.py"]
    by_name = {passage.document: passage for passage in passages}
    assert by_name["b/page.html"].title == "Ferry & more"
    assert "evil" not in by_name["b/page.html"].text
    assert "Home" not in by_name["b/page.html"].text
    assert by_name["b/page.html"].text.startswith("Ferry & more\n# Times")
    assert by_name["c.md"].title == "The title"
    assert "draft" not in by_name["c.md"].text
    assert by_name["c.md"].text.count("The title") == 1
    assert (by_name["d.py"].code, by_name["d.py"].language) == ("python", "")
    assert (by_name["a.txt"].code, by_name["a.txt"].language) == ("", "en")
    assert rejected == []
    assert read(tmp_path, language="en")[0] == passages


def test_bad_files_are_reported_with_file_and_reason(tmp_path: Path) -> None:
    outside = tmp_path / "secret.txt"
    outside.write_text(BODY)
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "binary.txt").write_bytes(b"abc\0def")
    (folder / "latin.txt").write_bytes("Fähre nach Süden".encode("latin-1"))
    (folder / "empty.md").write_text("  \n")
    (folder / "short.txt").write_text("Hi.")
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4 nothing")
    (folder / "broken.parquet").write_bytes(b"PAR1 nothing")
    (folder / "broken.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n')[:-9])
    (folder / "movie.mp4").write_bytes(b"x")
    (folder / "large.txt").write_text(BODY * 20)
    (folder / "link.txt").symlink_to(outside)
    (folder / "linked").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe.txt")
    passages, rejected = read(folder, max_file_bytes=1000)
    assert {Path(entry.document).name.split(":")[0]: entry.reason for entry in rejected} == {
        "binary.txt": "binary",
        "latin.txt": "not_unicode",
        "empty.md": "empty",
        "short.txt": "too_short",
        "broken.pdf": "broken_pdf",
        "broken.parquet": "damaged",
        "broken.jsonl.gz": "damaged",
        "movie.mp4": "unknown_suffix",
        "large.txt": "file_too_large",
        "link.txt": "no_regular_file",
        "linked": "no_regular_file",
        "pipe.txt": "no_regular_file",
    }
    assert passages == []
    assert all(entry.detail for entry in rejected)


def test_a_bad_row_is_reported_and_the_next_one_read(tmp_path: Path) -> None:
    path = write_jsonl(
        tmp_path / "rows.jsonl",
        {"text": BODY, "title": "Ferry", "language": "en", "id": "../../etc/passwd"},
        "{not json",
        {"body": BODY},
        "[1, 2]",
        '{"text": "half a pair \\ud800 stands in this text"}',
        {"text": 7},
        {"text": "nul \u0000 and bell \u0007 are left out of this text, nothing else is"},
        {"text": BODY, "title": "Ferry", "language": "de"},
        "[" * 200_000,
        {"text": "x" * 4000},
        {"text": BODY, "programming_language": "go"},
    )
    passages, rejected = read(path, max_file_bytes=3000, language="fr")
    assert [(passage.document, passage.language, passage.code) for passage in passages] == [
        ("rows.jsonl:1", "en", ""), ("rows.jsonl:7", "fr", ""), ("rows.jsonl:11", "", "go"),
    ]  # fmt: skip
    assert passages[1].text == "nul  and bell  are left out of this text, nothing else is"
    assert [(entry.document, entry.reason) for entry in rejected] == [
        ("rows.jsonl:2", "not_json"), ("rows.jsonl:3", "no_text"), ("rows.jsonl:4", "not_json"),
        ("rows.jsonl:5", "not_unicode"), ("rows.jsonl:6", "no_text"), ("rows.jsonl:8", "duplicate"),
        ("rows.jsonl:9", "line_too_long"), ("rows.jsonl:10", "line_too_long"),
    ]  # fmt: skip
    assert "text_column" in rejected[1].detail


def test_parquet_and_compressed_lines_are_read_alike(tmp_path: Path) -> None:
    rows = [{"content": BODY, "title": "A"}, {"content": BODY + " Indeed.", "title": ""}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    one, other = (read(tmp_path / name, text_column="content")[0] for name in ("rows.parquet", "rows.jsonl.gz"))
    assert [passage.text for passage in one] == [f"A\n{BODY}", BODY + " Indeed."]
    assert [(p.id, p.text) for p in one] == [(p.id, p.text) for p in other]


def test_a_pdf_gives_its_text(tmp_path: Path) -> None:
    text = "The ferry sails twice a day from May to September"
    content = f"BT /F1 12 Tf 20 100 Td ({text}) Tj ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 500 200] /Contents 4 0 R"
        b" /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]  # fmt: skip
    raw, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(raw))
        raw += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    raw += b"xref\n0 6\n0000000000 65535 f \n" + table
    raw += b"trailer\n<< /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % raw.rindex(b"xref\n0 6")
    (tmp_path / "a.pdf").write_bytes(raw)
    passages, rejected = read(tmp_path / "a.pdf")
    assert [passage.text for passage in passages] == [text]
    assert rejected == []


def test_ids_are_digests_of_the_text_whatever_the_document_calls_itself(tmp_path: Path) -> None:
    """G5: hostile names are data; a name that is no UTF-8 is escaped, not fatal."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "CON .. \u202e;rm -rf.txt").write_text(BODY)
    with open(os.fsencode(folder) + b"/bad\xff\nname.txt", "w") as file:
        file.write(BODY + " Indeed.")
    passages, rejected = read(folder)
    assert sorted(passage.id for passage in passages) == sorted(map(passage_id, (BODY, BODY + " Indeed.")))
    assert rejected == []
    json.dumps([passage.to_json() for passage in passages]).encode()
    assert any("\\xff" in passage.document for passage in passages)
    assert [Passage.from_json(json.loads(json.dumps(p.to_json()))) for p in passages] == passages


def test_caps_are_kept(tmp_path: Path) -> None:
    sentence = "Word number {} stands in this sentence. "
    path = write_jsonl(
        tmp_path / "rows.jsonl",
        {"text": "".join(sentence.format(i) for i in range(100))},
        {"text": "".join(sentence.format(i) for i in range(100, 103))},
        {"text": "never read but counted as the third one"},
    )
    passages, _ = read(path, max_tokens=20, max_passages_per_document=3, max_documents=2)
    assert [passage.document for passage in passages] == ["rows.jsonl:1"] * 3 + ["rows.jsonl:2"] * 2
    _, rejected = read(path, max_document_characters=1000)
    assert [(entry.document, entry.reason) for entry in rejected] == [("rows.jsonl:1", "document_too_long")]


def test_a_detector_is_asked_for_prose_of_unknown_language_only(tmp_path: Path) -> None:
    path = write_jsonl(
        tmp_path / "rows.jsonl", {"text": BODY}, {"text": BODY + " x", "language": "de"},
        {"text": BODY + " y", "programming_language": "c"},
    )  # fmt: skip
    asked: list[list[str]] = []

    def detect(texts: Sequence[str]) -> list[str]:
        asked.append(list(texts))
        return ["en"] * len(texts)

    config = DocumentsConfig(path=str(path), min_tokens=4)
    passages = list(read_passages("demo", config, lambda rejected: None, detect))
    assert [passage.language for passage in passages] == ["en", "de", ""]
    assert asked == [[BODY]]


def test_the_passages_of_one_file_are_told_together(tmp_path: Path) -> None:
    """And not with those of another, so that a new file changes nothing for the others."""
    for name in ("a", "b"):
        write_jsonl(tmp_path / f"{name}.jsonl", *({"text": f"{BODY} {name} {number}"} for number in range(3)))
    sizes: list[int] = []

    def detect(texts: Sequence[str]) -> list[str]:
        sizes.append(len(texts))
        return [text[-1] for text in texts]

    config = DocumentsConfig(path=str(tmp_path), min_tokens=4)
    passages = list(read_passages("demo", config, lambda rejected: None, detect))
    assert [passage.language for passage in passages] == ["0", "1", "2"] * 2
    assert sizes == [3, 3]


@pytest.mark.parametrize(
    "settings", [{"min_tokens": 0}, {"min_tokens": 600}, {"max_documents": 0}, {"max_file_bytes": 0}]
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        DocumentsConfig(**settings)  # type: ignore[arg-type]


def test_a_path_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read(tmp_path / "nowhere")
