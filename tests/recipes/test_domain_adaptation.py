"""The one file of settings: keys of the examples are known, a slip is named; titles are not found in their passage."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

RECIPE = Path(__file__).resolve().parent.parent.parent / "recipes" / "domain-adaptation"


@pytest.fixture(scope="module")
def adapt() -> ModuleType:
    spec = importlib.util.spec_from_file_location("adapt", RECIPE / "adapt.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["adapt"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", sorted(RECIPE.glob("examples/*.yaml")), ids=lambda path: path.name)
def test_examples_are_short_and_their_keys_known(
    adapt: ModuleType, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QWEN3EMB_DATA", "sets")
    settings = adapt.read_settings(path)
    assert "sets/conala" in {judged["path"] for judged in settings.sets.values()}
    assert len(path.read_text().splitlines()) < 30


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "documents: d\nmodel: m\noutput_dir: o\nteacher: {url: local}\nstep: 3\n",
            r"unknown \['step'\]; known: .*steps",
        ),
        ("documents: d\nmodel: m\nteacher: {url: local}\n", r"\['output_dir'\] must be there"),
        ("documents: d\nmodel: m\noutput_dir: o\nteacher: {model: x}\n", r"teacher needs \['url'\]"),
    ],
)
def test_a_slip_is_named(adapt: ModuleType, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(SystemExit, match=said):
        adapt.read_settings(tmp_path / "mine.yaml")


def test_titles_find_passages_that_do_not_hold_them(adapt: ModuleType, tmp_path: Path) -> None:
    """Otherwise the loss is zero at once and nothing but copying is learned."""
    body = "A write-ahead log records every change before the page itself is written, so that a crash loses nothing."
    (tmp_path / "docs.jsonl").write_text(json.dumps({"title": "Recovery", "text": body}) + "\n")
    settings = adapt.Settings(str(tmp_path / "docs.jsonl"), "m", str(tmp_path / "out"), {"url": "local"})
    pairs = adapt.draw(settings, tmp_path / "out")
    (pair,) = map(json.loads, pairs.read_text().splitlines())
    assert (pair["query"], pair["positives"]) == ("Recovery", [body])
    (drawn,) = map(json.loads, (tmp_path / "out" / "drawn.jsonl").read_text().splitlines())
    assert drawn["text"] == f"Recovery\n{body}"
