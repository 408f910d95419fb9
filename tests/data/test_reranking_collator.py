"""Prompts are the tokenizer's own for every document; labels, draws and filtering are what rows say."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qwen3emb_train.data.batch_plan import Step
from qwen3emb_train.data.batches import RerankingBatch
from qwen3emb_train.data.instructions import DEFAULT_INSTRUCTION, reranker_text
from qwen3emb_train.data.mixture import LengthConfig, MixtureConfig, SourceConfig
from qwen3emb_train.data.reranker_tokens import RerankerTokenizer, load_reranker_tokenizer
from qwen3emb_train.data.reranking_collator import FalseNegativeFilter, RerankingCollator
from qwen3emb_train.data.sampling import Frame
from qwen3emb_train.data.token_store import TokenStore
from qwen3emb_train.data.tokenization import load_tokenizer
from qwen3emb_train.data.training_data import DataSettings, TrainingData, open_reranking_data, open_training_data
from tests.data.stores import make_store
from tests.tiny import make_tiny_causal_lm_directory

ROWS: list[dict[str, Any]] = [
    {
        "query": "how to sort",
        "positives": ["sort()"],
        "negatives": ["open()", "read the file " * 40],
        "scores": [2, 1, 0],
    },
    {"query": "how to open", "documents": ["close()", "open(path)", "read()", "open()"], "labels": [0, 1, 0, 1]},
    {"query": "nothing fits", "documents": ["sum()", "split()"], "labels": [0, 0], "instruction": "Find code"},
    {"query": "all fits", "documents": ["übersetze: 北京", "x " * 300], "labels": [1, 1], "scores": [0.5, -3]},
    {"query": "one", "positive": "uno", "instruction": ""},
    {"query": "long " * 200, "positives": ["a", "b"], "negatives": [f"doc {n}" for n in range(12)]},
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> RerankerTokenizer:
    return load_reranker_tokenizer(str(make_tiny_causal_lm_directory(tmp_path_factory.mktemp("models") / "tiny")))


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def open_data(
    path: Path, tokenizer: RerankerTokenizer, *, source: SourceConfig | None = None, **changes: Any
) -> TrainingData[RerankingBatch]:
    settings: dict[str, Any] = {
        "max_tokens": 300, "max_positives": 4, "max_negatives": 20, "batch_size": 6, "steps": 8, "seed": 0,
        "mixture": MixtureConfig(), "false_negatives": FalseNegativeFilter(), "cache_dir": path.parent / "cache",
    } | changes  # fmt: skip
    limits = {name: settings.pop(name) for name in ("max_tokens", "max_positives", "max_negatives")}
    false_negatives = settings.pop("false_negatives")
    sources = {"mine": replace(source or SourceConfig(), path=str(path))}
    return open_reranking_data(DataSettings(sources, **settings), tokenizer, false_negatives, **limits)


def prompts_of(batch: RerankingBatch) -> list[list[int]]:
    bounds = batch.texts.cu_seqlens.tolist()
    return [batch.texts.input_ids[start:stop].tolist() for start, stop in pairwise(bounds)]


def judged(row: dict[str, Any]) -> list[tuple[str, float, float]]:
    """(document, label, score) of a line of either format, the relevant ones first."""
    documents = row.get("documents") or [*(row.get("positives") or [row["positive"]]), *row.get("negatives", [])]
    labels = row.get("labels") or [
        float(n < len(documents) - len(row.get("negatives", []))) for n in range(len(documents))
    ]
    scores = row.get("scores") or [float("nan")] * len(documents)
    return sorted(zip(documents, labels, scores, strict=True), key=lambda one: -one[1])


@pytest.mark.parametrize("max_tokens", [300, 170])
def test_every_document_has_the_prompt_that_inference_gives_it(
    tmp_path: Path, tokenizer: RerankerTokenizer, max_tokens: int
) -> None:
    """Both line formats, labels in any order, instructions of rows, of the source and none, documents that are cut."""
    path = write(tmp_path / "rows.jsonl", ROWS)
    for instruction in (None, "Find functions"):
        source = SourceConfig(instruction=instruction)
        batch = open_data(path, tokenizer, source=source, max_tokens=max_tokens).batch(0)
        assert batch.row_number is not None
        assert batch.scores is not None
        prompts, labels, scores, owners = [], [], [], []
        for number, row in enumerate(batch.row_number.tolist()):
            asked = ROWS[row].get("instruction") or instruction or DEFAULT_INSTRUCTION
            for document, label, score in judged(ROWS[row]):
                prompts += tokenizer.tokenize(asked, ROWS[row]["query"], [document], max_tokens)
                labels, scores, owners = [*labels, label], [*scores, score], [*owners, number]
        assert prompts_of(batch) == prompts
        assert max(map(len, prompts)) == max_tokens, "some are cut"
        assert batch.labels.tolist() == labels
        assert batch.query.tolist() == owners
        torch.testing.assert_close(batch.scores, torch.tensor(scores), equal_nan=True)
        assert batch.num_queries == len(ROWS)
        positions = [place for prompt in prompts for place in range(len(prompt))]
        assert batch.texts.position_ids.tolist() == positions
        assert batch.describe_rows([0]) == f"mine row {int(batch.row_number[0])}"


def test_a_prompt_reads_as_the_template_says(tmp_path: Path, tokenizer: RerankerTokenizer) -> None:
    """In characters, so that two equal mistakes in ids would show."""
    data = open_data(write(tmp_path / "rows.jsonl", ROWS[1:3]), tokenizer, batch_size=2, max_tokens=1000)
    texts = {tokenizer.hf.decode(prompt) for prompt in prompts_of(data.batch(0))}
    assert reranker_text("Find code", "nothing fits", "sum()") in texts
    assert reranker_text(DEFAULT_INSTRUCTION, "how to open", "open(path)") in texts
    assert len(texts) == 6


def test_too_short_a_prompt_is_refused_before_anything_is_read(tokenizer: RerankerTokenizer) -> None:
    around = len(tokenizer.prefix_ids) + len(tokenizer.suffix_ids)
    with pytest.raises(
        ValueError, match=f"max_tokens is {around + 7}, and the reranker's template alone takes {around}"
    ):
        open_data(Path("absent.jsonl"), tokenizer, max_tokens=around + 7)


def test_the_stores_of_both_kinds_of_training_lie_side_by_side(tmp_path: Path, tokenizer: RerankerTokenizer) -> None:
    """One file, one cache, one vocabulary: neither takes the other's ids, and each finds its own again."""
    path = write(tmp_path / "rows.jsonl", [ROWS[0], ROWS[4]])
    embedding = load_tokenizer(str(make_tiny_causal_lm_directory(tmp_path / "tiny")))

    def open_embedding() -> TokenStore:
        source = {"mine": SourceConfig(path=str(path))}
        lengths = LengthConfig(300, 300)
        settings = DataSettings(source, MixtureConfig(), batch_size=2, steps=1, seed=0, cache_dir=tmp_path / "cache")
        return open_training_data(settings, embedding, lengths).stores["mine"]

    first, second = open_embedding(), open_data(path, tokenizer, batch_size=2).stores["mine"]
    assert first.contents == second.contents
    assert first.directory != second.directory
    assert len(first.ids) < len(second.ids)  # bare documents, and whole bodies
    written = (second.directory / "meta.json").stat().st_mtime_ns
    again = open_data(path, tokenizer, batch_size=2, max_tokens=200).stores["mine"]  # lengths are no part of it
    assert again.directory == second.directory
    assert (again.directory / "meta.json").stat().st_mtime_ns == written
    assert np.array_equal(open_embedding().ids, first.ids)
    other = open_data(path, tokenizer, batch_size=2, source=SourceConfig(instruction="Find it")).stores["mine"]
    assert other.directory != second.directory  # the body holds the instruction


def test_everything_that_decides_a_batch_is_in_the_fingerprint(tmp_path: Path, tokenizer: RerankerTokenizer) -> None:
    path = write(tmp_path / "rows.jsonl", ROWS)
    changes: list[dict[str, Any]] = [
        {}, {"max_tokens": 200}, {"max_positives": 1}, {"max_negatives": 3},
        {"false_negatives": FalseNegativeFilter(margin=0.5)},
        {"seed": 1}, {"batch_size": 3}, {"source": SourceConfig(max_negatives=2)},
        {"source": SourceConfig(instruction="Find it")},
    ]  # fmt: skip
    fingerprints = [open_data(path, tokenizer, **change).fingerprint for change in changes]
    assert len(set(fingerprints)) == len(changes)
    same = open_data(path, tokenizer, source=SourceConfig(max_positives=4, max_negatives=20))
    assert same.fingerprint == fingerprints[0], "the run's default spelt out"
    assert open_data(path, tokenizer, steps=3).fingerprint == fingerprints[0], "a longer run begins alike"


# Below, stores in memory: a text's ids are its text_hash, over and over.
FRAME = Frame((1, 2), (3,))


def collate(
    stores: dict[str, TokenStore],
    rows: list[tuple[int, int]],
    *,
    sources: dict[str, SourceConfig] | None = None,
    false_negatives: FalseNegativeFilter | None = None,
    step: int = 0,
    seed: int = 0,
    members: tuple[int, ...] = (0,),
) -> RerankingBatch:
    """Of rows (number of the source, row)."""
    sources = {name: SourceConfig() for name in stores} | (sources or {})
    planned = Step("stream", "reranking", np.array([s for s, _ in rows]), np.array([r for _, r in rows]), 0)
    collator = RerankingCollator(
        sources, stores, FRAME, false_negatives or FalseNegativeFilter(), max_tokens=8, seed=seed
    )
    return collator(step, planned, members)


def judgements(batch: RerankingBatch) -> list[tuple[int, int, float]]:
    """(query, the document's text_hash, label) of every document."""
    hashes = [prompt[2] for prompt in prompts_of(batch)]
    return list(zip(batch.query.tolist(), hashes, batch.labels.tolist(), strict=True))


def test_a_template_is_never_cut_and_a_body_from_its_end() -> None:
    store = make_store([(7, [8], [9]), (6, [5], [])], tokens=[10, 2])
    batch = collate({"a": store}, [(0, 1), (0, 0)])
    assert prompts_of(batch) == [[1, 2, 5, 5, 3], [1, 2, 8, 8, 8, 8, 8, 3], [1, 2, 9, 9, 9, 9, 9, 3]]
    assert batch.texts.position_ids.tolist() == [*range(5), *range(8), *range(8)]


def test_rows_of_mixed_sources_keep_their_places_scores_and_names() -> None:
    stores = {
        "b": make_store([(11, [12], [13, 14]), (15, [], [16])]),
        "a": make_store([(21, [22, 23], [24]), (25, [26], [])], with_scores=True),
    }
    batch = collate(stores, [(1, 1), (0, 0), (1, 0), (0, 1)], members=(0, 1))
    assert judgements(batch) == [
        (0, 16, 0), (1, 22, 1), (1, 23, 1), (1, 24, 0), (2, 12, 1), (2, 13, 0), (2, 14, 0), (3, 26, 1),
    ]  # fmt: skip
    nan = float("nan")
    assert batch.scores is not None
    torch.testing.assert_close(batch.scores, torch.tensor([nan, 22, 23, 24, nan, nan, nan, 26]), equal_nan=True)
    assert batch.describe_rows(range(4)) == "b row 1, a row 0, b row 0, a row 1"
    only_b = collate(stores, [(1, 0)], members=(0, 1))  # this rank's rows are all of b: it has the column all the same
    assert only_b.scores is not None
    assert only_b.scores.isnan().all()
    assert collate(stores, [(1, 0)], members=(1,)).scores is None


def test_some_of_each_rows_documents_are_drawn_anew_at_every_step() -> None:
    """What a row draws follows from (seed, step, source, row): it is no matter of its company, so of no rank."""
    rows = [(100 * r, [100 * r + 1, 100 * r + 2], list(range(100 * r + 3, 100 * r + 3 + r))) for r in range(1, 6)]
    stores = {"a": make_store(rows)}
    sources = {"a": SourceConfig(max_positives=1, max_negatives=2)}
    drawn = []
    for step in range(60):
        batch = collate(stores, [(0, r) for r in range(5)], sources=sources, step=step)
        assert batch.query.tolist() == [0, 0, *(q for q in range(1, 5) for _ in range(3))]
        assert batch.labels.tolist() == [1, 0, *[1, 0, 0] * 4]
        drawn.append(judgements(batch))
        assert all(text_hash // 100 - 1 == query for query, text_hash, _ in drawn[-1])  # each row's own
    assert drawn[7] == judgements(collate(stores, [(0, r) for r in range(5)], sources=sources, step=7))
    assert len({tuple(one) for one in drawn}) > 50
    counts = np.bincount([text_hash for one in drawn for query, text_hash, label in one if query == 4 and not label])
    assert counts[503:508].min() > 12  # 24 expected
    ranks = [
        judgement
        for first in (0, 3)
        for judgement in judgements(
            collate(stores, [(0, r) for r in range(first, min(first + 3, 5))], sources=sources, step=7)
        )
    ]
    assert [one[1:] for one in ranks] == [one[1:] for one in drawn[7]]
    assert judgements(collate(stores, [(0, 4)], sources=sources, step=7, seed=1)) != [
        (0, *one[1:]) for one in drawn[7][-3:]
    ]


def test_the_runs_limits_hold_where_a_source_has_none_of_its_own(tmp_path: Path, tokenizer: RerankerTokenizer) -> None:
    path = write(tmp_path / "rows.jsonl", [ROWS[5], ROWS[5] | {"query": "short"}])

    def counts(**changes: Any) -> tuple[float, int]:
        labels = open_data(path, tokenizer, batch_size=2, **changes).batch(0).labels
        return float(labels.sum()), len(labels)

    assert counts(max_positives=1, max_negatives=8) == (2, 18)
    assert counts(max_positives=1, max_negatives=8, source=SourceConfig(max_positives=2, max_negatives=3)) == (4, 10)
    assert counts(max_positives=5, max_negatives=0) == (4, 4)
    assert counts(max_positives=1, max_negatives=20, source=SourceConfig(max_negatives=0)) == (2, 2)


@pytest.mark.parametrize(
    ("false_negatives", "kept"),
    [
        (FalseNegativeFilter(), [10, 15, 18, 19]),
        (FalseNegativeFilter(margin=1.0), [10, 15, 18, 19]),  # the mean of 20 and 21 is 20.5
        (FalseNegativeFilter(margin=1.5), [10, 15, 18, 19]),
        (FalseNegativeFilter(margin=1.51), [10, 15, 18]),
        (FalseNegativeFilter(margin=5.0), [10, 15]),
        (FalseNegativeFilter(margin=50.0), []),
        (FalseNegativeFilter(max_relative_score=0.9), [10, 15, 18]),  # 18.45
        (FalseNegativeFilter(max_relative_score=0.5), [10]),  # 10.25
        (FalseNegativeFilter(margin=5.0, max_relative_score=0.6), [10]),
        (FalseNegativeFilter(margin=1.51, max_relative_score=0.99), [10, 15, 18]),
    ],
)
def test_negatives_near_the_positives_are_left_out(false_negatives: FalseNegativeFilter, kept: list[int]) -> None:
    store = make_store([(1, [20, 21], [10, 15, 18, 19]), (2, [30], [29])], with_scores=True)
    batch = collate({"a": store}, [(0, 0)], false_negatives=false_negatives)
    assert [text_hash for _, text_hash, label in judgements(batch) if not label] == kept
    assert [text_hash for _, text_hash, label in judgements(batch) if label] == [20, 21]
    without = make_store([(1, [20, 21], [10, 15, 18, 19])])
    batch = collate({"a": without}, [(0, 0)], false_negatives=false_negatives)
    assert len(judgements(batch)) == 6, "rows without scores keep all"


def test_what_is_not_scored_is_not_doubted() -> None:
    """An unknown negative stays, and so do all negatives of a positive that is unknown or is not there."""
    store = make_store([(1, [20], [19, 18, 5]), (2, [30], [29, 28]), (3, [], [40, 41])], with_scores=True)
    assert store.scores is not None
    store.scores[[2, 6]] = np.nan  # negative 19, positive 30
    batch = collate(
        {"a": store}, [(0, 0), (0, 1), (0, 2)], false_negatives=FalseNegativeFilter(margin=10.0, max_relative_score=0.9)
    )
    assert [text_hash for _, text_hash, _ in judgements(batch)] == [20, 19, 5, 30, 29, 28, 40, 41]


def test_doubtful_negatives_do_not_use_up_the_draw() -> None:
    """First the false_negatives, then the draw: a row with enough sound negatives gets its full number."""
    store = make_store([(1, [100], [98, 99, 97, 96, 5, 6, 7])], with_scores=True)
    limit = {"a": SourceConfig(max_negatives=3)}
    for step in range(5):
        batch = collate(
            {"a": store}, [(0, 0)], false_negatives=FalseNegativeFilter(margin=50.0), sources=limit, step=step
        )
        assert {text_hash for _, text_hash, _ in judgements(batch)} == {100, 5, 6, 7}


def test_a_guard_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"false_negatives.max_relative_score is 0.0; use a share such as 0.95"):
        FalseNegativeFilter(max_relative_score=0.0)


@pytest.mark.parametrize("name", ["query", "row_number", "row_source"])
def test_indices_are_torch_longs(name: str) -> None:
    batch = collate({"a": make_store([(1, [2], []), (3, [], [4])])}, [(0, 0), (0, 1)])
    assert getattr(batch, name).dtype == torch.long


def test_queries_without_documents_are_left_empty_and_a_step_of_them_is_refused() -> None:
    """Possible where a row has no positives and its negatives are not drawn, or all are doubtful."""
    store = make_store([(1, [], [4]), (5, [6], [7])])
    none = {"a": SourceConfig(max_negatives=0)}
    batch = collate({"a": store}, [(0, 0), (0, 1), (0, 0)], sources=none)
    assert (batch.num_queries, judgements(batch)) == (3, [(1, 6, 1)])
    with pytest.raises(ValueError, match=r"a row 0, a row 0 leave no document.*max_negatives"):
        collate({"a": store}, [(0, 0), (0, 0)], sources=none)
