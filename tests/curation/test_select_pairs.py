"""Selection: what passes is what a brute-force float64 cosine and rank let pass; every line is kept, or kept aside."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qwen3emb_train.curation.selection.config import SelectPairsConfig
from qwen3emb_train.curation.selection.select_pairs import select_pairs
from qwen3emb_train.data.instructions import DEFAULT_INSTRUCTION, format_query
from qwen3emb_train.data.readers import ReadingConfig, read_examples
from qwen3emb_train.index.inference import TextEncoder
from qwen3emb_train.model_directory import Prompts
from qwen3emb_train.models.precision import Precision
from qwen3emb_train.texts.overlap import normal_form
from tests.curation.cleaning.rows import read_rows, row, write_rows

ANIMALS = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay", "kite", "lynx"]
ROWS = [
    *(row(f"what does a {name} eat", f"The {name} eats leaves, no. {n}.", source="zoo", language="en")
      for n, name in enumerate(ANIMALS)),
    row("两只 bees", "THE  BEE eats leaves, no. 1.", "Something else: 数字 12345!", source="mixed", language="zh"),
    row("what does a cat eat", "Mice.", instruction="Find the food", source="mixed", negatives=["Stones."]),
    row("graded", "One.", "Two.", negatives=["Three."], scores=[0.9, 0.8, 0.1], task="sts", source="mixed"),
]  # fmt: skip


def select(model: Path, directory: Path, rows: Any = ROWS, **settings: Any) -> Path:
    examples = write_rows(directory / "pairs.jsonl", rows)
    config = {"rows_per_block": 4, "max_tokens": 64, "output_dir": str(directory / "out")} | settings
    return select_pairs(SelectPairsConfig(model=str(model), examples=str(examples), **config))


@pytest.fixture(scope="module")
def encoder(tiny_qwen3: Path) -> TextEncoder:
    return TextEncoder.load(str(tiny_qwen3), max_tokens=64)


def brute_force(encoder: TextEncoder, rows: list[dict[str, Any]]) -> tuple[list[list[float]], list[list[int]]]:
    """Cosine and rank (without the query's other positives) of each positive, one row at a time in float64."""
    prompts = [format_query(one.get("instruction", DEFAULT_INSTRUCTION), one["query"]) for one in rows]
    documents = {normal_form(text): text for one in reversed(rows) for text in reversed(one["positives"])}
    vectors = encoder.encode(list(documents.values())).double()
    names = list(documents)
    cosines, ranks = [], []
    for query, one in zip(encoder.encode(prompts).double(), rows, strict=True):
        scores = dict(zip(names, (vectors @ query).tolist(), strict=True))
        asked = one["query"], one.get("instruction")
        same = [other for other in rows if (other["query"], other.get("instruction")) == asked]
        own = {normal_form(text) for other in same for text in other["positives"]}
        others = [score for name, score in scores.items() if name not in own]
        cosines.append([scores[normal_form(text)] for text in one["positives"]])
        ranks.append([1 + sum(other > score for other in others) for score in cosines[-1]])
    return cosines, ranks


def middle(cosines: list[list[float]]) -> float:
    """A threshold in the widest gap of the middle third, so that rounding decides nothing."""
    flat = sorted(score for some in cosines for score in some)
    third = len(flat) // 3
    at = max(range(third, 2 * third), key=lambda n: flat[n + 1] - flat[n])
    return (flat[at] + flat[at + 1]) / 2


def test_pairs_above_the_threshold_are_kept_with_all_they_have(
    tiny_qwen3: Path, tmp_path: Path, encoder: TextEncoder
) -> None:
    cosines, _ = brute_force(encoder, ROWS)
    limit = middle(cosines)
    output = select(tiny_qwen3, tmp_path, min_score=limit)
    scores = np.load(output / "scores.npy")
    assert scores.dtype == np.float32
    assert scores.tolist() == pytest.approx([score for some in cosines for score in some], abs=2e-6)
    expected = {
        one["query"] + str(one.get("instruction")): [
            t for t, score in zip(one["positives"], some, strict=True) if score > limit
        ]
        for one, some in zip(ROWS, cosines, strict=True)
    }
    kept = {e.query + str(e.instruction): list(e.positives) for e in read_examples(output / "examples.jsonl")}
    assert kept == {query: positives for query, positives in expected.items() if positives}
    assert 0 < len(kept) < len(ROWS)
    rejected = read_rows(output / "rejected" / "low_score.jsonl")
    assert [one["line"] for one in rejected] == [n for n, some in enumerate(cosines, 1) if max(some) <= limit]
    lines = (tmp_path / "pairs.jsonl").read_text().splitlines()
    for one in rejected:
        assert one["raw"] == lines[one["line"] - 1]
        assert one["scores"] == pytest.approx(cosines[one["line"] - 1], abs=2e-6)


# Queries with so many positives that these push one another down, if they count.
MANY = [row(f"query {q}", *(f"text {q} no. {n * 7919}" for n in range(5))) for q in (0, 1, 2, 3)]
MANY += [row(f"query {q}", f"one more text for {q}") for q in (2, 0)]


@pytest.mark.parametrize(("rows", "top_k"), [(ROWS, 1), (ROWS, 3), (ROWS, 100), (MANY, 1), (MANY, 2), (MANY, 4)])
def test_the_consistency_filter_equals_brute_force_ranks(
    tiny_qwen3: Path, tmp_path: Path, encoder: TextEncoder, rows: list[dict[str, Any]], top_k: int
) -> None:
    """The query's other positives are no competitors; a document in another case is the same one."""
    _, ranks = brute_force(encoder, rows)
    output = select(tiny_qwen3, tmp_path, rows, min_score=None, consistency_top_k=top_k)
    rejected = {one["line"] for one in read_rows(output / "rejected" / "inconsistent.jsonl")}
    assert rejected == {n for n, some in enumerate(ranks, 1) if min(some) > top_k}
    kept = [len(example.positives) for example in read_examples(output / "examples.jsonl")]
    assert kept == [passing for some in ranks if (passing := sum(rank <= top_k for rank in some))]
    assert sum(kept) < sum(map(len, ranks)) or top_k == 100, "otherwise the comparison says nothing"


def test_scores_follow_the_positives_that_stay(tiny_qwen3: Path, tmp_path: Path, encoder: TextEncoder) -> None:
    (cosines,), _ = brute_force(encoder, ROWS[-1:])
    output = select(tiny_qwen3, tmp_path, ROWS[-1:], min_score=sum(cosines) / 2)
    (example,) = read_examples(output / "examples.jsonl")
    better = int(cosines[1] > cosines[0])
    assert example.positives == (("One.", "Two.")[better],)
    assert example.scores == ((0.9, 0.8)[better], 0.1)
    assert example.negatives == ("Three.",)


def test_examples_of_other_tasks_are_kept_unscored(tiny_qwen3: Path, tmp_path: Path) -> None:
    output = select(tiny_qwen3, tmp_path, min_score=0.999999, tasks=["retrieval"])
    (example,) = read_examples(output / "examples.jsonl")
    assert example.task == "sts"
    assert len(example.positives) == 2
    assert len(np.load(output / "scores.npy")) == 15
    assert json.loads((output / "report.json").read_text())["unscored"] == 1
    with pytest.raises(ValueError, match=r"tasks=\['retrieva'\]"):
        select(tiny_qwen3, tmp_path, tasks=["retrieva"])


def test_blocks_and_processes_change_nothing(tiny_qwen3: Path, tmp_path: Path) -> None:
    written = []
    for number, block in enumerate((1, 5, 1000)):
        output = select(
            tiny_qwen3, tmp_path, min_score=0.2, consistency_top_k=3, rows_per_block=block, block_elements=10 * block,
            output_dir=str(tmp_path / f"out{number}"), work_dir=str(tmp_path / "work"),
        )  # fmt: skip
        names = ("scores.npy", "examples.jsonl", "report.json")
        written.append([(output / name).read_bytes() for name in names])
    assert written[0] == written[1] == written[2]


def test_a_killed_run_continues_with_its_vectors_and_ends_the_same(
    tiny_qwen3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing half-written stays, and no text is encoded twice."""
    expected = select(tiny_qwen3, tmp_path, min_score=0.2, output_dir=str(tmp_path / "unbroken"))
    assert not (tmp_path / "unbroken.work").exists(), "vectors nobody asked to keep"

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr("qwen3emb_train.curation.selection.select_pairs.write_examples", killed)
        with pytest.raises(KeyboardInterrupt):
            select(tiny_qwen3, tmp_path, min_score=0.2)
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(TextEncoder, "encode", killed)
    output = select(tiny_qwen3, tmp_path, min_score=0.2)
    for name in ("scores.npy", "examples.jsonl", "report.json", "rejected/low_score.jsonl"):
        assert (output / name).read_bytes() == (expected / name).read_bytes()


def test_another_threshold_needs_no_encoding_but_another_text_is_refused(
    tiny_qwen3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    work = str(tmp_path / "work")
    select(tiny_qwen3, tmp_path, work_dir=work)
    with monkeypatch.context() as context:
        context.setattr(TextEncoder, "encode", lambda *_, **__: pytest.fail("encoded again"))
        select(tiny_qwen3, tmp_path, work_dir=work, min_score=0.1)
        select(tiny_qwen3, tmp_path, work_dir=work, min_score=0.1)
        assert "up to date" in capsys.readouterr().out
    changed = [ROWS[0] | {"positives": ["The ant eats leaves, no. 1."]}, *ROWS[1:]]
    with pytest.raises(ValueError, match=r"pairs\.jsonl:1/positives/0.*overwrite=true"):
        select(tiny_qwen3, tmp_path, changed, work_dir=work)
    select(tiny_qwen3, tmp_path, changed, work_dir=work, overwrite=True)


def test_the_report_counts_by_source_language_and_task(tiny_qwen3: Path, tmp_path: Path, encoder: TextEncoder) -> None:
    cosines, _ = brute_force(encoder, ROWS)
    limit = middle(cosines)
    output = select(tiny_qwen3, tmp_path, min_score=limit)
    report = json.loads((output / "report.json").read_text())
    zoo = [score for some in cosines[:12] for score in some]
    found = report["columns"]["source"]["zoo"]
    assert found["pairs"] == 12
    assert found["kept"] == sum(score > limit for score in zoo)
    assert found["mean"] == pytest.approx(sum(zoo) / 12, abs=1e-5)
    assert set(report["columns"]["language"]) == {"en", "zh", ""}
    assert set(report["columns"]["task"]) == {"retrieval", "sts"}
    assert sum(report["histogram"]) == report["pairs"]["pairs"] == 17
    shown = [pair["cosine"] for pair in report["near_threshold"]]
    assert shown == sorted(shown, reverse=True)
    assert len(shown) == 17
    text = (output / "report.txt").read_text()
    assert "zoo" in text
    assert "below: rejected" in text
    assert any(level in text for level in "▁▂▃▄▅▆▇█")


def test_only_the_pairs_nearest_to_the_threshold_are_shown(
    tiny_qwen3: Path, tmp_path: Path, encoder: TextEncoder
) -> None:
    rows = [row(f"query {n}", f"text {n * 7919} of {n}") for n in range(60)]
    flat = sorted(score for (score,) in brute_force(encoder, rows)[0])
    limit = (flat[29] + flat[30]) / 2
    report = json.loads((select(tiny_qwen3, tmp_path, rows, min_score=limit) / "report.json").read_text())
    assert [pair["cosine"] for pair in report["near_threshold"]] == pytest.approx(flat[39:19:-1], abs=2e-6)


def test_a_threshold_that_hardly_anything_passes_is_pointed_out(
    tiny_qwen3: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    select(tiny_qwen3, tmp_path, min_score=-1.0, instruction=DEFAULT_INSTRUCTION)
    assert not caplog.text
    select(tiny_qwen3, tmp_path, min_score=0.9999999)
    assert "Only 0 of 17 pairs pass" in caplog.text


def test_a_malformed_line_is_put_aside_or_stops(tiny_qwen3: Path, tmp_path: Path) -> None:
    rows = [*ROWS[:3], {"query": "no positive"}]
    with pytest.raises(ValueError, match=r"pairs\.jsonl:4"):
        select(tiny_qwen3, tmp_path, rows)
    output = select(tiny_qwen3, tmp_path, rows, reading=ReadingConfig(skip_bad_lines=True), min_score=-1.0)
    assert [one["line"] for one in read_rows(output / "rejected" / "malformed.jsonl")] == [4]
    assert json.loads((output / "report.json").read_text())["malformed"] == 1


def test_several_ranks_need_a_common_place(tiny_qwen3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="work_dir"):
        select(tiny_qwen3, tmp_path)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"min_score": None}, "consistency_top_k"),
        ({"min_score": 1.0}, "min_score=1.0"),
        ({"consistency_top_k": 0}, "consistency_top_k=0"),
        ({"rows_per_block": 0}, "rows_per_block=0"),
    ],
)
def test_a_setting_without_sense_is_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        SelectPairsConfig(model="m", examples="e", output_dir="o", **settings)


def test_the_tiny_model_tells_texts_apart(encoder: TextEncoder) -> None:
    """Guards the comparisons above against a model that gives all texts one vector."""
    vectors = encoder.encode([one["positives"][0] for one in ROWS])
    assert torch.pdist(vectors).min() >= 0
    assert torch.pdist(vectors).max() > 0.1


@pytest.mark.parametrize("own", ["", "Instruct: Find food\nQuery:"])
def test_a_query_without_an_instruction_is_scored_as_the_model_was_trained(
    own: str, tiny_qwen3: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = Path(shutil.copytree(tiny_qwen3, tmp_path / "model"))
    Prompts({"query": own, "document": ""}).write(model)
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"query": "what does a cat eat", "positive": "Mice."}) + "\n")

    def score(name: str, **settings: Any) -> float:
        config = SelectPairsConfig(
            model=str(model), examples=str(tmp_path / "pairs.jsonl"), output_dir=str(tmp_path / name), min_score=-1.0,
            precision=Precision.fp32, **settings,
        )  # fmt: skip
        return float(np.load(select_pairs(config) / "scores.npy")[0])

    encoder = TextEncoder.load(str(model), precision="fp32")
    expected = (encoder.encode([own + "what does a cat eat"]) @ encoder.encode(["Mice."]).T).item()
    assert score("null") == pytest.approx(expected, abs=1e-5)
    assert not caplog.records
    assert score("given", instruction="Look up") != pytest.approx(expected, abs=1e-3)
    assert "instruction differs from training: instruction is 'Look up'" in caplog.text
