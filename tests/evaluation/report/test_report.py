"""report: one page, whole in itself; nothing of its inputs becomes markup; equal inputs give equal bytes."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from qwen3emb_train.evaluation.report.report import ReportConfig, write_report
from tests.evaluation.report.written import EVIL, writable, write_evaluation, write_merge, write_run

SVG = "{http://www.w3.org/2000/svg}"


def parsed(page: Path) -> ElementTree.Element:
    return ElementTree.fromstring(page.read_text(encoding="utf-8"))


def words(element: ElementTree.Element) -> str:
    return " ".join(" ".join(element.itertext()).split())


def anchors(page: Path) -> list[str]:
    return [section.attrib["id"] for section in parsed(page).iter("section")]


def config_for(root: Path) -> ReportConfig:
    return ReportConfig(
        runs={"one": str(write_run(root / "one")), "two": str(write_run(root / "two", steps=3, shift=1.0))},
        evaluations={"test": str(write_evaluation(root / "test"))},
        merges={"pair": str(write_merge(root / "pair")), "three": str(write_merge(root / "three", num_models=3))},
        output_dir=str(root / "out"),
        metrics=["effective_negatives"],
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of plain inputs."""
    return write_report(config_for(tmp_path_factory.mktemp("report")))


@pytest.fixture(scope="module")
def evil_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of inputs in which every text tries to be markup, mathematics or no text at all."""
    root, name = tmp_path_factory.mktemp("evil"), writable(EVIL)
    config = ReportConfig(
        runs={name: str(write_run(root / "run", evil=EVIL))},
        evaluations={name: str(write_evaluation(root / "test", evil=EVIL))},
        merges={name: str(write_merge(root / "pair", evil=EVIL))},
        output_dir=str(root / "out"),
        title=name,
    )
    return write_report(config)


def test_every_kind_of_input_has_its_section(page: Path) -> None:
    expected = ["runs", "scores", "differences", "dimensions", "training", "validation", "health", "merges"]
    assert anchors(page) == [*expected, "similarities", "worst", "origin"]


def test_the_contents_lead_to_the_sections(page: Path) -> None:
    links = [link.attrib["href"] for link in parsed(page).iter("a") if link.attrib["href"].startswith("#")]
    assert links == [f"#{anchor}" for anchor in anchors(page)]


def test_every_figure_is_also_a_png(page: Path) -> None:
    linked = {link.attrib["href"] for link in parsed(page).iter("a") if link.attrib["href"].endswith(".png")}
    written = {f"figures/{file.name}" for file in (page.parent / "figures").iterdir()}
    drawn = {"loss", "training", "metrics", "validation", "health", "health_histograms", "scores", "pairs"}
    drawn |= {"dimensions", "merge_0", "merge_1", "cosines", "map"}
    assert linked == written == {f"figures/{name}.png" for name in drawn}
    assert len(list(parsed(page).iter(f"{SVG}svg"))) == len(drawn)
    for file in (page.parent / "figures").iterdir():
        assert file.read_bytes().startswith(b"\x89PNG")


def test_nothing_is_loaded_from_anywhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"<(link|img|iframe|object|embed)\b|@import|url\((?!#)|\bsrc=", text)
    assert not [value for value in re.findall(r'href="([^"]*)"', text) if not value.startswith(("#", "figures/"))]
    assert "default-src 'none'" in text


def test_names_of_figures_parts_are_unique_and_meant(page: Path) -> None:
    """Two figures on one page must not use one another's clip paths and markers."""
    text = page.read_text(encoding="utf-8")
    names = re.findall(r'\bid="([^"]*)"', text)
    assert len(names) == len(set(names))
    used = re.findall(r'url\(#([^)]*)\)|\bhref="#([^"]*)"', text.split("<nav>")[1])
    assert {one or other for one, other in used} - {"x"} <= set(names)


def test_no_text_becomes_markup(evil_page: Path) -> None:
    text = evil_page.read_text(encoding="utf-8")
    page = parsed(evil_page)
    assert not list(page.iter("script"))
    assert "<script" not in text
    assert not [name for element in page.iter() for name in element.attrib if name.startswith("on")]
    assert "&lt;script&gt;" in text
    assert "\x00" not in text
    cards = [card for card in page.iter("article") if "<script>alert('x')</script>" in words(card)]
    assert len(cards) == 6, "what was written is what is read"


def test_no_script_may_run(page: Path, evil_page: Path) -> None:
    for one in (page, evil_page):
        policies = [meta for meta in parsed(one).iter("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
        assert [meta.attrib["content"] for meta in policies] == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_equal_inputs_give_equal_bytes(page: Path, tmp_path: Path) -> None:
    """The evaluation alone again: its figures, on the page and as files, are those of the whole report."""
    evaluations = {"test": str(write_evaluation(tmp_path / "test"))}
    again = write_report(ReportConfig(evaluations=evaluations, output_dir=str(tmp_path / "again")))
    drawings = re.findall(r"<svg.*?</svg>", again.read_text(encoding="utf-8"), re.DOTALL)
    files = list((again.parent / "figures").iterdir())
    assert len(drawings) == len(files) == 5
    assert all(drawing in page.read_text(encoding="utf-8") for drawing in drawings)
    assert all(file.read_bytes() == (page.parent / "figures" / file.name).read_bytes() for file in files)


def test_an_unchanged_report_is_not_written_again(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = page.stat().st_mtime_ns
    assert write_report(config_for(page.parent.parent)) == page
    assert "up to date" in capsys.readouterr().out
    assert page.stat().st_mtime_ns == before
    record = json.loads((page.parent / "run.json").read_text())
    assert {"runs.one: metrics.jsonl", "evaluations.test: diagnostics.json", "merges.pair: run.json"} <= set(
        record["inputs"]
    )


def test_colours_follow_the_page(page: Path) -> None:
    drawings = "".join(re.findall(r"<svg.*?</svg>", page.read_text(encoding="utf-8"), re.DOTALL))
    assert "var(--series-0)" in drawings
    assert "var(--ink)" in drawings
    assert not re.search(r"(fill|stroke): #(0072b2|d55e00|1f2328|656d76|d8dee4)", drawings)


def test_points_of_the_map_say_their_text(page: Path) -> None:
    titles = {title.text for use in parsed(page).iter(f"{SVG}use") for title in use}
    assert {"query: how?", "document: so", "document: url(#x) #0072b2"} <= titles, "even what looks like our own marks"
    assert {"q1: 0.000 and 0.000", "q2: 0.500 and 0.500", "q3: 0.000 and 0.500"} <= titles


# ---------------------------------------------------------------------------------------------------------- parts only


def test_only_runs(tmp_path: Path) -> None:
    page = write_report(ReportConfig(runs={"a": str(write_run(tmp_path / "a"))}, output_dir=str(tmp_path / "o")))
    assert anchors(page) == ["runs", "training", "validation", "health", "origin"]
    text = words(parsed(page))
    assert "a-model" in text
    assert "1 min 20 s" in text, "8,000 tokens at 100 a second"
    assert "vectors collapse" in text
    assert "c0ffee" in text


def test_only_an_older_evaluation(tmp_path: Path) -> None:
    """Without diagnostics, units and intervals: what is missing is named, and how to get it."""
    row = {"model": "m", "set": "s", "dim": None, "scores": {"ndcg@10": 0.5}, "num_queries": 1, "num_documents": 2}
    (tmp_path / "e").mkdir()
    (tmp_path / "e/results.json").write_text(json.dumps([row, row | {"model": "n"}]))
    page = write_report(ReportConfig(evaluations={"e": str(tmp_path / "e")}, output_dir=str(tmp_path / "o")))
    assert anchors(page) == ["scores", "differences", "diagnostics", "origin"]
    text = words(parsed(page))
    assert "diagnostics=true" in text
    assert "per_query.jsonl" in text
    assert "baseline=NAME" in text


def test_a_run_that_is_still_writing(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", steps=3)
    (run / "health.json").unlink()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    page = write_report(ReportConfig(runs={"a": str(run)}, output_dir=str(tmp_path / "o")))
    assert "3 " in words(parsed(page))
    assert "no health.json" in words(parsed(page))


# -------------------------------------------------------------------------------------------------------------- errors


def refused(config: ReportConfig) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        write_report(config)
    assert not Path(config.output_dir).exists()
    return str(caught.value)


def test_bad_settings_are_refused() -> None:
    for settings, named in (
        ({}, "runs.NAME=DIRECTORY"),
        ({"runs": {"a": "b"}, "smoothing": 0}, "smoothing is 0"),
        ({"runs": {"a": "b"}, "num_worst": -1}, "num_worst is -1"),
        ({"evaluations": {"a": "b"}, "metrics": ["loss"]}, "runs is empty"),
    ):
        with pytest.raises(ValueError, match=re.escape(named)):
            ReportConfig(output_dir="o", **settings)  # type: ignore[arg-type]


def test_missing_files_are_named(tmp_path: Path) -> None:
    output = str(tmp_path / "o")
    nowhere = {"x": str(tmp_path)}
    assert "runs.x is" in refused(ReportConfig(runs=nowhere, output_dir=output))
    assert "results.json" in refused(ReportConfig(evaluations=nowhere, output_dir=output))
    assert "merge_search" in refused(ReportConfig(merges=nowhere, output_dir=output))
    run = {"x": str(write_run(tmp_path / "run"))}
    assert "made by train_embedding" in refused(ReportConfig(merges=run, output_dir=output))
    unknown = refused(ReportConfig(runs=run, metrics=["los"], output_dir=output))
    assert "'los'" in unknown
    assert "effective_negatives" in unknown


@pytest.mark.parametrize(
    ("file", "old", "new", "named"),
    [
        ("results.json", '"set": "questions"', '"sett": "questions"', "results.json, entry 1: the field 'set'"),
        ("results.json", '"scores": {"ndcg@10": ', '"scores": {"ndcg@10": "best", "x": ', "scores: ndcg@10 is 'best'"),
        ("results.json", '"dim": 64', '"dim": 32', "entry 2: model, set, dim"),
        ("per_query.jsonl", '"ids": ["q1", ', '"ids": [', "ids, values have [2, 3]"),
        ("diagnostics.json", '"kinds": ["query"', '"kinds": ["question"', "kinds holds 'question'"),
        ("diagnostics.json", '"cosine": 0.91', '"cosine": "high"', "found[0]: cosine is 'high'"),
        ("diagnostics.json", '"edges": [-1.0, ', '"edges": [', "edges must rise"),
        ("diagnostics.json", "[{", "[[{", "not JSON"),
    ],
)  # fmt: skip
def test_bad_fields_are_named(tmp_path: Path, file: str, old: str, new: str, named: str) -> None:
    directory = write_evaluation(tmp_path / "e")
    text = (directory / file).read_text()
    assert old in text
    (directory / file).write_text(text.replace(old, new, 1))
    said = refused(ReportConfig(evaluations={"e": str(directory)}, output_dir=str(tmp_path / "o")))
    assert named in said
    assert file in said


def test_a_bad_line_of_metrics_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a")
    path = run / "metrics.jsonl"
    path.write_text(path.read_text().replace('"step": 2', '"step": "2"', 1))
    config = ReportConfig(runs={"a": str(run)}, output_dir=str(tmp_path / "o"))
    assert "metrics.jsonl, line 2: step" in refused(config)
    path.write_text("{\n" + path.read_text())
    assert "metrics.jsonl, line 1: not JSON" in refused(config)
