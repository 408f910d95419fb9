"""The rules of mining, each alone and together: no positive ever becomes a negative; runs repeat to the byte."""

import json
import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3emb_train.data.instructions import format_query
from qwen3emb_train.data.readers import read_examples
from qwen3emb_train.data.records import TrainingExample, write_examples
from qwen3emb_train.mining.negatives import MiningConfig, Sampling, mine_negatives, score_limit, select_negatives
from qwen3emb_train.mining.pool import DocumentPool, identity
from qwen3emb_train.mining.report import MiningStatistics, histogram
from qwen3emb_train.models.inference import TextEncoder
from tests.tiny import make_tiny_model_directory

_NO_LIMITS: dict[str, Any] = {"max_relative_score": None, "sampling": Sampling.top}
_SCORES = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
_DOCUMENTS = [10, 11, 12, 13, 14, 15]


def _chosen(positive_score: float = 0.8, relevant: tuple[int, ...] = (), seed: str = "", **rules: Any) -> list[int]:
    config = MiningConfig(**(_NO_LIMITS | {"num_negatives": 2} | rules))
    return select_negatives(_SCORES, _DOCUMENTS, relevant, positive_score, config, seed)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model_directory(tmp_path_factory.mktemp("model"))


def _examples() -> list[TrainingExample]:
    words = ["cat", "dog", "list", "tree", "river", "Berlin", "query", "fox", "lazy", "number"]
    return [TrainingExample(f"what is a {word}", (f"A {word} is a thing called {word}.",)) for word in words]


def _mine(model: Path, directory: Path, examples: list[TrainingExample], **rules: Any) -> list[TrainingExample]:
    write_examples(directory / "in.jsonl", examples)
    settings = _NO_LIMITS | {"num_negatives": 3, "rank_to": 20, "precision": "fp32"} | rules
    settings["precision"] = MiningConfig.__dataclass_fields__["precision"].type(settings["precision"])
    config = MiningConfig(
        model=str(model), examples=str(directory / "in.jsonl"), output_dir=str(directory / "out"), **settings
    )
    return list(read_examples(mine_negatives(config) / "examples.jsonl"))


# -- the rules, one by one ---------------------------------------------------------------------------------------------


def test_top_takes_the_hardest() -> None:
    assert _chosen() == [0, 1]


def test_relevant_documents_are_taken_out_before_ranks_are_counted() -> None:
    assert _chosen(relevant=(10, 12)) == [1, 3]
    assert _chosen(relevant=(10,), rank_from=2) == [2, 3]


def test_the_window_of_ranks_includes_both_ends() -> None:
    assert _chosen(rank_from=3, rank_to=4) == [2, 3]
    assert _chosen(rank_from=6, rank_to=9) == [5]


def test_the_relative_limit_is_a_share_of_the_positive_and_strict() -> None:
    assert _chosen(positive_score=0.8, max_relative_score=0.95) == [2, 3]  # 0.8 is not below 0.76
    assert _chosen(positive_score=0.7, max_relative_score=1.0) == [3, 4]  # 0.7 is not below 0.7


def test_the_relative_limit_lies_below_a_negative_score_too() -> None:
    config = MiningConfig(max_relative_score=0.9)
    assert score_limit(-0.5, config) == pytest.approx(-0.55)


def test_the_absolute_margin_and_its_other_sign() -> None:
    assert _chosen(positive_score=0.8, absolute_margin=0.15) == [3, 4]
    assert _chosen(positive_score=0.8, absolute_margin=-0.05) == [1, 2]


def test_the_maximal_score() -> None:
    assert _chosen(max_score=0.55) == [4, 5]


def test_the_strictest_limit_decides() -> None:
    config = MiningConfig(max_relative_score=0.9, absolute_margin=0.2, max_score=0.7)
    assert score_limit(0.8, config) == pytest.approx(0.6)
    assert score_limit(0.95, config) == pytest.approx(0.7)


def test_limits_that_leave_too_few_give_fewer() -> None:
    assert _chosen(max_score=0.45, num_negatives=4) == [5]
    assert _chosen(max_score=0.1) == []


def test_random_draws_come_from_the_window_and_depend_on_the_seed_only() -> None:
    draws = {tuple(_chosen(sampling=Sampling.random, rank_from=2, rank_to=6, seed=str(i))) for i in range(60)}
    assert len(draws) == 10  # all pairs of five
    assert all(0 < first < second for first, second in draws)
    assert len({tuple(_chosen(sampling=Sampling.random, seed="one")) for _ in range(5)}) == 1


@given(
    st.lists(st.floats(-1, 1), min_size=1, max_size=30),
    st.sets(st.integers(0, 29)),
    st.floats(-1, 1),
    st.integers(1, 5),
    st.integers(1, 10),
    st.sampled_from(Sampling),
)
def test_whatever_is_chosen_obeys_every_rule(
    scores: list[float], relevant: set[int], positive: float, num: int, rank_from: int, sampling: Sampling
) -> None:
    scores = sorted(scores, reverse=True)
    config = MiningConfig(num_negatives=num, rank_from=rank_from, rank_to=rank_from + 7, sampling=sampling)
    chosen = select_negatives(scores, list(range(len(scores))), relevant, positive, config, "seed")
    assert len(chosen) == len(set(chosen)) <= num
    assert chosen == sorted(chosen)
    others = [position for position in range(len(scores)) if position not in relevant]
    for position in chosen:
        assert rank_from <= others.index(position) + 1 <= rank_from + 7
        assert scores[position] < positive - 0.05 * abs(positive) + 1e-9


@pytest.mark.parametrize(
    "settings",
    [
        {"num_negatives": 0},
        {"rank_from": 0},
        {"rank_from": 9, "rank_to": 8},
        {"rank_to": 5, "num_negatives": 6},
        {"max_relative_score": 1.5},
    ],
)
def test_senseless_settings_are_refused_by_name(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        MiningConfig(**settings)


# -- the program -------------------------------------------------------------------------------------------------------


def test_scores_are_the_cosines_of_positives_then_negatives(model: Path, tmp_path: Path) -> None:
    mined = _mine(model, tmp_path, _examples(), instruction="Find it")
    encoder = TextEncoder.load(str(model), precision="fp32", device="cpu")
    for example in mined:
        assert len(example.negatives) == 3
        texts = [format_query("Find it", example.query), *example.positives, *example.negatives]
        vectors = encoder.encode(texts)
        expected = vectors[1:] @ vectors[0]
        assert example.scores is not None
        torch.testing.assert_close(torch.tensor(example.scores), expected, atol=2e-5, rtol=0)
        assert list(example.scores[1:]) == sorted(example.scores[1:], reverse=True)


def test_top_negatives_are_the_nearest_of_the_whole_corpus(model: Path, tmp_path: Path) -> None:
    examples = _examples()
    mined = _mine(model, tmp_path, examples)
    encoder = TextEncoder.load(str(model), precision="fp32", device="cpu")
    documents = [example.positives[0] for example in examples]
    for example in mined:
        query = encoder.encode([format_query(MiningConfig().instruction, example.query)])[0]
        order = (encoder.encode(documents) @ query).argsort(descending=True).tolist()
        assert list(example.negatives) == [documents[i] for i in order if documents[i] != example.positives[0]][:3]


def test_an_examples_own_instruction_goes_before_the_default(model: Path, tmp_path: Path) -> None:
    rows = [TrainingExample("a cat", ("about cats",), instruction=text) for text in (None, "", "Find the animal")]
    scores = [example.scores for example in _mine(model, tmp_path, rows)]
    assert len(set(scores)) == 3
    assert [e.instruction for e in read_examples(tmp_path / "out" / "examples.jsonl")] == [None, "", "Find the animal"]


def test_positives_of_other_examples_with_the_same_query_are_no_negatives(model: Path, tmp_path: Path) -> None:
    rows = [*_examples(), TrainingExample("one  Query", ("first",)), TrainingExample("One query", ("second", "third"))]
    rows.append(TrainingExample("else", ("SECOND ", "other")))  # the same document as "second"
    mined = _mine(model, tmp_path, rows, num_negatives=20)
    for example in mined[10:12]:
        assert {identity(text) for text in example.negatives}.isdisjoint({"first", "second", "third"})
        assert len(example.negatives) == 11  # ten positives of the others, and "other"


def test_a_corpus_replaces_the_examples_documents_as_candidates(model: Path, tmp_path: Path) -> None:
    lines = [{"_id": "1", "title": "T", "text": "body"}, {"text": "plain"}, {"text": "A CAT is a thing  called cat."}]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    mined = _mine(model, tmp_path, _examples(), corpus=str(tmp_path / "corpus.jsonl"))
    assert {text for example in mined for text in example.negatives} == {"T\nbody", "plain", lines[2]["text"]}
    assert set(mined[0].negatives) == {"T\nbody", "plain"}  # the third is its own positive, written otherwise


def test_own_negatives_are_replaced_or_kept(model: Path, tmp_path: Path) -> None:
    rows = [
        TrainingExample("a query", ("good",), ("bad", "worse")),
        TrainingExample("A  query", ("Worse",)),
        *_examples(),
    ]
    assert len(_mine(model, tmp_path, rows)[0].negatives) == 3
    kept = _mine(model, tmp_path, rows, keep_negatives=True)
    assert kept[0].negatives[0] == "bad"
    assert "worse" not in kept[0].negatives  # relevant to the same query elsewhere
    assert len(set(kept[0].negatives)) == 3
    assert kept[0].scores is not None
    assert len(kept[0].scores) == 4


def test_examples_of_other_tasks_are_copied_with_their_labels(model: Path, tmp_path: Path) -> None:
    sts = TrainingExample("one sentence", ("another",), task="sts", scores=(0.3,))
    mined = _mine(model, tmp_path, [sts, *_examples()])
    assert mined[0] == sts
    assert all("another" not in example.negatives for example in mined[1:])
    with pytest.raises(ValueError, match=r"tasks=\['retrieval'\] finds no example; the tasks there: sts"):
        _mine(model, tmp_path, [sts])


def test_examples_with_doubtful_positives_are_left_out_and_counted(model: Path, tmp_path: Path) -> None:
    best = [max(example.scores or ()) for example in _mine(model, tmp_path, _examples(), num_negatives=1)]
    positives = [(example.scores or (0.0,))[0] for example in _mine(model, tmp_path, _examples(), num_negatives=1)]
    limit = sorted(positives)[4] + 1e-4
    mined = _mine(model, tmp_path, _examples(), min_positive_score=limit)
    assert len(mined) == 5 < len(best)
    metrics = json.loads((tmp_path / "out" / "run.json").read_text())["metrics"]
    assert metrics["num_left_out"] == 5
    assert "left out" in (tmp_path / "out" / "report.txt").read_text()


def test_runs_repeat_to_the_byte(model: Path, tmp_path: Path) -> None:
    """And another block size finds the same negatives; only the last digit of a score may be rounded otherwise."""
    outputs, negatives = [], []
    for name, block in (("a", 2**24), ("b", 2**24), ("c", 7)):
        (tmp_path / name).mkdir()
        mined = _mine(model, tmp_path / name, _examples(), sampling=Sampling.random, block_elements=block)
        outputs.append((tmp_path / name / "out" / "examples.jsonl").read_bytes())
        negatives.append([example.negatives for example in mined])
    assert outputs[0] == outputs[1]
    assert negatives[0] == negatives[2]


def test_the_order_of_the_examples_does_not_change_their_negatives(model: Path, tmp_path: Path) -> None:
    rows = _examples()
    shuffled = random.Random(0).sample(rows, len(rows))
    straight = {e.query: set(e.negatives) for e in _mine(model, tmp_path, rows, sampling=Sampling.random)}
    assert straight == {e.query: set(e.negatives) for e in _mine(model, tmp_path, shuffled, sampling=Sampling.random)}


def test_another_seed_draws_other_negatives(model: Path, tmp_path: Path) -> None:
    first = [e.negatives for e in _mine(model, tmp_path, _examples(), sampling=Sampling.random)]
    assert first != [e.negatives for e in _mine(model, tmp_path, _examples(), sampling=Sampling.random, seed=1)]


def test_a_finished_directory_is_left_alone_until_an_input_changes(model: Path, tmp_path: Path) -> None:
    _mine(model, tmp_path, _examples())
    record = tmp_path / "out" / "run.json"
    written = record.stat().st_mtime_ns
    _mine(model, tmp_path, _examples())
    assert record.stat().st_mtime_ns == written
    _mine(model, tmp_path, _examples()[1:])
    assert record.stat().st_mtime_ns != written


def test_mining_in_vain_is_said_aloud(model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _mine(model, tmp_path, _examples())
    assert not caplog.records
    _mine(model, tmp_path, _examples(), max_score=-1.0)
    assert "10 of 10 examples got no negative" in caplog.text


_WORDS = st.sampled_from(["cat", "Cat", "dog", "a  cat", "a cat", "tree", "blue sea", "x"])


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(_WORDS, st.lists(_WORDS, min_size=1, max_size=3, unique=True)), min_size=1, max_size=6),
    st.sampled_from(Sampling),
    st.booleans(),
)
def test_no_positive_is_ever_a_negative(
    model: Path, pairs: list[tuple[str, list[str]]], sampling: Sampling, has_limits: bool
) -> None:
    """Of any example with the same query, whatever its case and white space."""
    rows = [TrainingExample(query, tuple(positives)) for query, positives in pairs]
    limits = {"max_relative_score": 0.99} if has_limits else {}
    with tempfile.TemporaryDirectory() as directory:
        mined = _mine(model, Path(directory), rows, sampling=sampling, **limits)
    assert len(mined) == len(rows)
    for example in mined:
        relevant = {
            identity(text) for row in rows if identity(row.query) == identity(example.query) for text in row.positives
        }
        found = [identity(text) for text in example.negatives]
        assert relevant.isdisjoint(found)
        assert len(set(found)) == len(found)


@pytest.mark.parametrize("missing", ["examples", "corpus"])
def test_a_missing_input_is_named(model: Path, tmp_path: Path, missing: str) -> None:
    write_examples(tmp_path / "in.jsonl", _examples())
    paths = {"model": str(model), "examples": str(tmp_path / "in.jsonl"), "corpus": None}
    paths[missing] = str(tmp_path / "absent.jsonl")
    with pytest.raises(FileNotFoundError, match=r"absent\.jsonl: no such file"):
        mine_negatives(MiningConfig(output_dir=str(tmp_path / "out"), **paths))
    assert not (tmp_path / "out").exists()


# -- corpus and report -------------------------------------------------------------------------------------------------


def test_the_pool_keeps_the_first_of_identical_texts() -> None:
    pool = DocumentPool()
    pool.add(["A b", "c", "a  B"])
    pool.add(["C ", "d"])
    assert pool.texts == ["A b", "c", "d"]
    assert pool.rows(["a b", "D"]) == [0, 2]


def test_the_report_counts_what_came_short() -> None:
    statistics = MiningStatistics(num_negatives=2, num_queries=3, num_candidates=9)
    statistics.add([0.8], [0.5, 0.4], 0.8)
    statistics.add([0.6, 0.3], [0.1], 0.7)
    statistics.add([0.9], [], 0.1)
    counts = statistics.counts
    assert (counts["num_examples"], counts["num_short"], counts["num_without"]) == (3, 2, 1)
    assert counts["num_positive_first"] == 2
    assert counts["mean_negative_score"] == pytest.approx(1 / 3)
    assert "with fewer than 2 negatives" in statistics.as_text()


def test_histograms_cover_every_value_once() -> None:
    lines = histogram("cosines", [-1.0, 1.0, 0.05, 0.05, 1.0000001])
    assert lines[0].startswith("cosines: 5, mean")
    assert [int(line.split()[3]) for line in lines[1:]].count(0) == 17
    assert sum(int(line.split()[3]) for line in lines[1:]) == 5
    assert lines[1].split()[3:] == ["1", "#" * 20]
    assert histogram("cosines", []) == ["cosines: none"]
