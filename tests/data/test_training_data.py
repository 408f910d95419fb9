"""From files to batches: what decides them, said in a fingerprint that knows what has changed."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from qwen3emb_train.data.mixture import LengthConfig, MixtureConfig, NoRepeats, SourceConfig
from qwen3emb_train.data.tokenization import TextTokenizer, load_tokenizer
from qwen3emb_train.data.training_data import DataSettings, TrainingData, open_training_data, plan_difference


@pytest.fixture(scope="module")
def tokenizer(tiny_qwen3: Path) -> TextTokenizer:
    return load_tokenizer(str(tiny_qwen3))


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, SourceConfig]:
    for name, num_rows in (("a", 20), ("b", 30)):
        rows = [
            {"query": f"{name} {row}", "positive": f"answer {name} {row}", "negatives": ["n"]}
            for row in range(num_rows)
        ]
        if name == "b":
            rows = [row | {"scores": [float(number), -1.0]} for number, row in enumerate(rows)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {name: SourceConfig(path=str(tmp_path / f"{name}.jsonl")) for name in ("a", "b")}


@pytest.fixture
def open_data(tokenizer: TextTokenizer, sources: dict[str, SourceConfig], tmp_path: Path):  # type: ignore[no-untyped-def]
    def opened(**changes: Any) -> TrainingData:
        settings: dict[str, Any] = {
            "sources": sources, "mixture": MixtureConfig(), "batch_size": 8, "steps": 20, "seed": 0,
            "cache_dir": tmp_path / "cache",
        } | changes  # fmt: skip
        lengths = settings.pop("lengths", LengthConfig())
        return open_training_data(DataSettings(**settings), settings.pop("tokenizer", tokenizer), lengths)

    return opened


def test_ranks_get_slices_of_one_batch_with_the_rows_they_name(open_data) -> None:  # type: ignore[no-untyped-def]
    data = open_data(mixture=MixtureConfig(mixed_share=0.5))
    for step in range(data.steps):
        whole, halves = data.batch(step), [data.batch(step, rank, 2) for rank in (0, 1)]
        for field in ("row_source", "row_number", "positive_scores"):
            parts = [getattr(half, field) for half in halves]
            if getattr(whole, field) is None:
                assert parts == [None, None]
            else:
                # Rows go to ranks by length: together they are the batch, in another order.
                order = torch.cat([half.row_source * 10**6 + half.row_number for half in halves]).argsort()
                wanted = (whole.row_source * 10**6 + whole.row_number).argsort()
                torch.testing.assert_close(torch.cat(parts)[order], getattr(whole, field)[wanted], equal_nan=True)
        assert whole.source_names == ("a", "b")
        names = {whole.source_names[number] for number in whole.row_source.tolist()}
        assert names <= set(whole.source.split("+"))
        if "b" in whole.source:
            is_b = whole.row_source == 1
            torch.testing.assert_close(whole.positive_scores[is_b], whole.row_number[is_b].float())
            assert whole.positive_scores[~is_b].isnan().all()
    assert {data.batch(step).source for step in range(data.steps)} == {"a", "b", "a+b"}


def test_the_same_texts_in_other_places_give_the_same_batches(open_data, sources, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    moved = {name: replace(source, path=shutil.copy(source.path, elsewhere)) for name, source in sources.items()}
    here, there = open_data(), open_data(sources=dict(reversed(moved.items())), cache_dir=tmp_path / "other")
    assert here.fingerprint == there.fingerprint
    assert plan_difference(here.components, there.components) == ""
    for step in range(here.steps):
        assert torch.equal(here.batch(step).texts.input_ids, there.batch(step).texts.input_ids)


def test_more_steps_or_epochs_are_no_other_data(open_data) -> None:  # type: ignore[no-untyped-def]
    assert open_data(steps=20).fingerprint == open_data(steps=40).fingerprint
    one, two = (open_data(steps=None, mixture=MixtureConfig(epochs=epochs)) for epochs in (1, 2))
    assert one.fingerprint == two.fingerprint != open_data().fingerprint
    assert (one.steps, two.steps) == (2 + 3, 2 * (2 + 3))


SETTINGS = [
    ({"seed": 1}, "seed 0 -> 1"),
    ({"batch_size": 4}, "batch_size 8 -> 4"),
    ({"lengths": LengthConfig(max_query_tokens=9)}, "lengths.max_query_tokens 512 -> 9"),
    ({"mixture": MixtureConfig(alpha=1.0)}, "mixture.alpha 0.5 -> 1.0"),
    ({"mixture": MixtureConfig(mixed_share=0.1)}, "mixture.mixed_share 0.0 -> 0.1"),
    ({"mixture": MixtureConfig(rows_cap=9)}, "mixture.rows_cap None -> 9"),
    ({"mixture": MixtureConfig(length_buckets=True)}, "mixture.length_buckets False -> True"),
    ({"mixture": MixtureConfig(language_buckets=True)}, "mixture.language_buckets False -> True"),
    ({"mixture": MixtureConfig(rows_per_block=9)}, "mixture.rows_per_block 16384 -> 9"),
    ({"steps": None, "mixture": MixtureConfig(epochs=1)}, "mixture.epochs False -> True"),
]


@pytest.mark.parametrize(("changes", "said"), SETTINGS)
def test_every_setting_that_decides_the_batches_is_in_the_fingerprint(
    open_data, changes: dict[str, Any], said: str
) -> None:  # type: ignore[no-untyped-def]
    old, new = open_data(), open_data(**changes)
    assert old.fingerprint != new.fingerprint
    saved = json.loads(json.dumps(old.components))  # as a checkpoint keeps them
    assert plan_difference(saved, new.components) == said


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("weight", 2.0, "data.a.weight 1.0 -> 2.0"),
        ("batch_size", 4, "data.a.batch_size None -> 4"),
        ("max_rows", 9, "data.a.max_rows None -> 9"),
        ("max_negatives", 0, "data.a.max_negatives None -> 0"),
        ("task", "sts", "data.a.no_repeats texts -> queries; data.a.task retrieval -> sts"),
        ("no_repeats", NoRepeats.none, "data.a.no_repeats texts -> none"),
        ("instruction", "Find", "data.a is tokenised otherwise (tokenizer, instruction, query template or reading)"),
    ],
)
def test_every_setting_of_a_source_is_in_the_fingerprint(
    open_data,
    sources: dict[str, SourceConfig],
    field: str,
    value: object,
    said: str,  # type: ignore[no-untyped-def]
) -> None:
    changed = sources | {"a": replace(sources["a"], **{field: value})}
    old, new = open_data(), open_data(sources=changed)
    assert old.fingerprint != new.fingerprint
    assert plan_difference(old.components, new.components) == said


def test_changed_contents_and_sources_are_named(open_data, sources: dict[str, SourceConfig]) -> None:  # type: ignore[no-untyped-def]
    old = open_data()
    with Path(sources["a"].path).open("a") as file:
        file.write('{"query": "new", "positive": "row"}\n')
    new = open_data()
    assert old.fingerprint != new.fingerprint
    assert plan_difference(old.components, new.components) == "the contents of data.a changed (20 -> 21 rows)"
    renamed = open_data(sources={"a": sources["a"], "c": sources["b"]}, seed=5)
    assert plan_difference(new.components, renamed.components) == "data.b is gone; data.c is new; seed 0 -> 5"


def test_the_log_says_how_often_each_source_will_be_seen(open_data) -> None:  # type: ignore[no-untyped-def]
    lines = open_data(steps=None, mixture=MixtureConfig(epochs=2)).describe()
    assert lines[0].startswith("data.a: 20 rows, ")
    assert lines[2] == "a (retrieval): 4 steps (40.0%) of 8 queries, 2.00 passes over 20 rows"


def test_repeated_share_counts_rows_that_could_not_be_placed(open_data, sources, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    rows = [{"query": f"q {row}", "positive": f"label {row % 2}"} for row in range(16)]
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    one = {"a": SourceConfig(path=str(tmp_path / "labels.jsonl"))}
    assert open_data(sources=one).repeated_share(0) == pytest.approx(6 / 8)
    assert open_data(sources={"a": replace(one["a"], task="classification")}).repeated_share(0) == 0.0
