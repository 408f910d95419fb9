"""The program: no positive ever becomes a negative; runs repeat to the byte; a killed run ends like any other."""

import json
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3emb_train.data.instructions import DEFAULT_INSTRUCTION, format_query
from qwen3emb_train.data.readers import read_examples
from qwen3emb_train.data.records import TrainingExample, write_examples
from qwen3emb_train.index.inference import TextEncoder
from qwen3emb_train.index.rerankers import TextReranker
from qwen3emb_train.mining.config import MiningConfig, Sampling, WrittenScores
from qwen3emb_train.mining.negatives import mine_negatives
from qwen3emb_train.mining.pool import normalized_text
from qwen3emb_train.model_directory import Prompts
from qwen3emb_train.models.precision import Precision
from tests.mining.children import run_killed, run_ranks
from tests.tiny import make_tiny_causal_lm_directory, make_tiny_model_directory

_PLAIN: dict[str, Any] = {
    "max_relative_score": None,
    "sampling": Sampling.top,
    "scores": WrittenScores.cosine,
    "num_negatives": 3,
    "rank_to": 20,
    "precision": Precision.fp32,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model_directory(tmp_path_factory.mktemp("model"))


def _examples() -> list[TrainingExample]:
    words = ["cat", "dog", "list", "tree", "river", "Berlin", "query", "fox", "lazy", "number"]
    return [TrainingExample(f"what is a {word}", (f"A {word} is a thing called {word}.",)) for word in words]


def _config(model: Path, directory: Path, examples: list[TrainingExample], **rules: Any) -> MiningConfig:
    write_examples(directory / "in.jsonl", examples)
    return MiningConfig(
        model=str(model),
        examples=str(directory / "in.jsonl"),
        output_dir=str(directory / "out"),
        **(_PLAIN | rules),
    )


def _mine(model: Path, directory: Path, examples: list[TrainingExample], **rules: Any) -> list[TrainingExample]:
    return list(read_examples(mine_negatives(_config(model, directory, examples, **rules)) / "examples.jsonl"))


def _provenance(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "out" / "provenance.jsonl").read_text().splitlines()]


def _results(directory: Path) -> dict[str, bytes]:
    names = ("examples.jsonl", "provenance.jsonl", "report.html", "report.txt")
    return {name: (directory / "out" / name).read_bytes() for name in names}


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
        query = encoder.encode([format_query(DEFAULT_INSTRUCTION, example.query)])[0]
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
        assert {normalized_text(text) for text in example.negatives}.isdisjoint({"first", "second", "third"})
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


def test_a_negative_that_is_kept_is_not_mined_again(model: Path, tmp_path: Path) -> None:
    first, *rest = _examples()
    nearest = _mine(model, tmp_path, [first, *rest])[0].negatives
    brought = TrainingExample(first.query, first.positives, (nearest[0].upper(),))
    kept = _mine(model, tmp_path, [brought, *rest], keep_negatives=True)[0].negatives
    assert [normalized_text(text) for text in kept] == [normalized_text(text) for text in nearest]


def test_scores_are_written_on_demand_only(model: Path, tmp_path: Path) -> None:
    """A distillation weight would else teach the student the miner's cosines; what an example brought is void, too."""
    rows = [TrainingExample("a query", ("good",), ("bad",), scores=(0.9, 0.1)), *_examples()]
    mined = _mine(model, tmp_path, rows, scores=WrittenScores.auto)
    assert [example.scores for example in mined] == [None] * len(rows)


def test_provenance_tells_id_rank_cosine_and_source(model: Path, tmp_path: Path) -> None:
    sts = TrainingExample("one sentence", ("another",), task="sts")
    rows = [sts, *_examples(), TrainingExample("a query", ("A cat is a thing called cat.",), ("brought along",))]
    mined = _mine(model, tmp_path, rows, keep_negatives=True, bm25_share=0.34)
    lines = _provenance(tmp_path)
    assert lines[0] == {}
    assert lines[1]["positives"][0]["id"] == "2/positives/0"
    texts = {f"{number}/positives/0": row.positives[0] for number, row in enumerate(rows, 1)}
    texts[f"{len(rows)}/negatives/0"] = "brought along"
    for example, line in zip(mined[1:], lines[1:], strict=True):
        described = line["positives"] + line["negatives"]
        assert tuple(one["cosine"] for one in described) == example.scores
        found = [one for one in line["negatives"] if one["source"] != "own"]
        assert [texts[one["id"]] for one in line["negatives"]] == list(example.negatives)
        assert all(1 <= one["rank"] <= 20 for one in found)
        by_model = [one["rank"] for one in found if one["source"] == "model"]
        assert by_model == sorted(by_model)
    assert lines[-1]["negatives"][0]["source"] == "own"
    assert lines[-1]["negatives"][0]["id"] == f"{len(rows)}/negatives/0"
    assert {one["source"] for line in lines[1:] for one in line["negatives"]} == {"model", "bm25", "own"}


def test_bm25_proposes_only_what_shares_a_word(model: Path, tmp_path: Path) -> None:
    rows = [TrainingExample("red fish", ("a red fish swims",)), TrainingExample("blue", ("the blue fish",)),
            TrainingExample("green", ("green grass",))]  # fmt: skip
    _mine(model, tmp_path, rows, bm25_share=1.0, num_negatives=2)
    assert [[(n["source"], n["rank"]) for n in line["negatives"] if n["source"] == "bm25"] for line in
            _provenance(tmp_path)] == [[("bm25", 1)], [], []]  # fmt: skip


def test_examples_of_other_tasks_are_copied_with_their_labels_and_counted(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sts = TrainingExample("one sentence", ("another",), task="sts", scores=(0.3,))
    mined = _mine(model, tmp_path, [sts, *_examples()])
    assert mined[0] == sts
    assert "1 examples of task 'sts' are copied without mining" in caplog.text
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
    """Whatever the blocks are: scores are those of float64."""
    outputs = []
    for name, block_elements, queries_per_block in (("a", 2**24, 4096), ("b", 2**24, 4096), ("c", 7, 3)):
        (tmp_path / name).mkdir()
        blocks = {"block_elements": block_elements, "queries_per_block": queries_per_block}
        _mine(model, tmp_path / name, _examples(), sampling=Sampling.random, bm25_share=0.3, **blocks)
        outputs.append(_results(tmp_path / name))
    assert outputs[0] == outputs[1] == outputs[2]


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
    _mine(model, tmp_path, _examples(), instruction=DEFAULT_INSTRUCTION)
    assert not caplog.records
    _mine(model, tmp_path, _examples(), max_score=-1.0)
    assert "10 of 10 examples got no negative" in caplog.text


_WORDS = st.sampled_from(["cat", "Cat", "dog", "a  cat", "a cat", "tree", "blue sea", "x"])


@settings(max_examples=12, deadline=None)
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
            normalized_text(text)
            for row in rows
            if normalized_text(row.query) == normalized_text(example.query)
            for text in row.positives
        }
        found = [normalized_text(text) for text in example.negatives]
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


# -- killed, shared, continued -----------------------------------------------------------------------------------------


def test_a_run_killed_in_the_search_continues_and_ends_with_the_same_bytes(model: Path, tmp_path: Path) -> None:
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    settings = {"queries_per_block": 3, "bm25_share": 0.5, "sampling": Sampling.random}
    mine_negatives(_config(model, tmp_path / "whole", _examples(), **settings))
    config = _config(model, tmp_path / "killed", _examples(), **settings)
    run_killed(config, after_blocks=2)
    work_dir = tmp_path / "killed" / "out.work"
    blocks = sorted(work_dir.glob("found_by_model_*/block_*.safetensors"))
    assert len(blocks) == 2
    assert list(work_dir.glob("found_by_model_*/*.writing")), "killed in the middle of the third"
    written = [block.stat().st_mtime_ns for block in blocks]
    mine_negatives(MiningConfig(**(vars(config) | {"work_dir": str(work_dir)})))  # given: it is kept
    assert [block.stat().st_mtime_ns for block in blocks] == written
    assert _results(tmp_path / "killed") == _results(tmp_path / "whole")


def test_ranks_share_the_work_and_give_the_same_bytes(model: Path, tmp_path: Path) -> None:
    for name in ("one", "three"):
        (tmp_path / name).mkdir()
    settings = {"queries_per_block": 2, "bm25_share": 0.5}
    mine_negatives(_config(model, tmp_path / "one", _examples(), **settings))
    done = run_ranks(_config(model, tmp_path / "three", _examples(), **settings), 3)
    assert done["model"] == [[0, 3], [1, 4], [2]]
    assert _results(tmp_path / "three") == _results(tmp_path / "one")
    assert not (tmp_path / "three" / "out.work").exists()


def test_the_work_directory_waits_for_a_late_rank_that_has_nothing_to_do(model: Path, tmp_path: Path) -> None:
    """Else it would look for the vectors for ever. That it was done in a killed run says nothing."""
    (tmp_path / "out.work").mkdir()
    for rank in (1, 2):
        (tmp_path / "out.work" / f"rank_{rank}.done").touch()
    done = run_ranks(_config(model, tmp_path, _examples()), 3, late=1)
    assert done["model"] == [[0], [], []]
    assert len(list(read_examples(tmp_path / "out" / "examples.jsonl"))) == 10
    assert not list(tmp_path.glob("*.work*")) + list(tmp_path.glob(".*"))


def test_a_kept_work_dir_serves_other_rules_and_refuses_another_corpus(model: Path, tmp_path: Path) -> None:
    corpus, work_dir = tmp_path / "corpus.jsonl", tmp_path / "work"
    texts = [f"text number {number}" for number in range(30)]

    def write_corpus() -> None:
        corpus.write_text("".join(json.dumps({"_id": f"d{i}", "text": text}) + "\n" for i, text in enumerate(texts)))

    settings = {"corpus": str(corpus), "work_dir": str(work_dir)}
    write_corpus()
    _mine(model, tmp_path, _examples(), **settings)
    made = {path: path.stat().st_mtime_ns for path in work_dir.rglob("*.safetensors")}
    _mine(model, tmp_path, _examples(), num_negatives=5, **settings)
    assert {path: path.stat().st_mtime_ns for path in work_dir.rglob("*.safetensors")} == made
    first, *rest = _examples()
    relabelled = TrainingExample(first.query, (*first.positives, texts[3]))
    assert texts[3] not in _mine(model, tmp_path, [relabelled, *rest], **settings)[0].negatives
    texts[17] = "text numbez 17"
    write_corpus()
    with pytest.raises(ValueError, match=r"document 'd17'.*overwrite=true"):
        _mine(model, tmp_path, _examples(), **settings)
    mined = _mine(model, tmp_path, _examples(), overwrite=True, num_negatives=30, rank_to=30, **settings)
    assert any("text numbez 17" in example.negatives for example in mined)


@pytest.mark.parametrize("own", ["", "Instruct: Find the animal\nQuery:"])
def test_a_query_without_an_instruction_is_searched_as_the_model_was_trained(
    model: Path, tmp_path: Path, own: str, caplog: pytest.LogCaptureFixture
) -> None:
    trained = Path(shutil.copytree(model, tmp_path / "trained"))
    Prompts({"query": own, "document": ""}).write(trained)
    for name in ("null", "given"):
        (tmp_path / name).mkdir()
    instruction = "Find the animal" if own else ""
    unset = _mine(trained, tmp_path / "null", _examples())
    assert unset == _mine(trained, tmp_path / "given", _examples(), instruction=instruction)
    assert not caplog.records
    (tmp_path / "other").mkdir()
    assert unset != _mine(trained, tmp_path / "other", _examples(), instruction="Look up")
    assert "instruction differs from training: instruction is 'Look up'" in caplog.text


def test_the_reranker_judges_by_its_own_instruction_where_none_is_given(model: Path, tmp_path: Path) -> None:
    """The searching model's is not forced upon it; a row's own goes to both."""
    reranker = make_tiny_causal_lm_directory(tmp_path / "reranker")
    Prompts({"query": "Judge the animal"}, "query").write(reranker)
    rows = [TrainingExample("a cat", ("about cats",), instruction=text) for text in (None, "Find the animal")]
    settings: dict[str, Any] = {"reranker": str(reranker), "scores": WrittenScores.reranker}
    found = _mine(model, tmp_path, rows, **settings)
    alone = TextReranker.load(str(reranker), precision="fp32", device="cpu")
    for example, instruction in zip(found, ("Judge the animal", "Find the animal"), strict=True):
        expected = alone.score("a cat", ["about cats"], instruction).tolist()
        assert example.scores == pytest.approx(expected, abs=1e-4)
    assert found[0].scores != found[1].scores
