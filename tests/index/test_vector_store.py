"""A store gives back the encoder's vectors in the order of the texts, and says so when it cannot."""

import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from qwen3emb_train.index.embed_config import EmbedConfig, TextRole
from qwen3emb_train.index.embed_texts import embed_texts
from qwen3emb_train.index.embedders import Embedder
from qwen3emb_train.index.inference import TextEncoder
from qwen3emb_train.index.vector_bytes import VectorType, from_stored, to_stored
from qwen3emb_train.index.vector_shards import ShardTask, cut_shards
from qwen3emb_train.index.vector_store import VectorStore
from qwen3emb_train.models.precision import Precision
from qwen3emb_train.models.text_model import truncate_and_normalize
from tests.index.store_setup import contents, make_texts

TEXTS = make_texts(23)
SETTINGS: dict[str, Any] = {"rows_per_shard": 5, "precision": Precision.fp32}


def _embed(directory: Path, model: Path, texts: list[tuple[str, str]] = TEXTS, **settings: Any) -> VectorStore:
    return embed_texts(iter(texts), str(model), directory, EmbedConfig(**(SETTINGS | settings)))


@pytest.fixture(scope="module")
def vectors(tiny_qwen3: Path) -> Tensor:
    """The truth: each text encoded alone."""
    encoder = TextEncoder.load(str(tiny_qwen3), precision="fp32")
    return torch.cat([encoder.encode([text]) for _, text in TEXTS])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_qwen3: Path) -> Path:
    directory = tmp_path_factory.mktemp("store") / "vectors"
    _embed(directory, tiny_qwen3)
    return directory


@pytest.fixture
def directory(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(made, tmp_path / "vectors"))


# ------------------------------------------------------------------------------------------------------------- reading


def test_rows_are_the_encoders_vectors_in_the_order_of_the_texts(made: Path, vectors: Tensor) -> None:
    store = VectorStore.open(made)
    assert (store.num_rows, store.dim) == (23, 32)
    torch.testing.assert_close(store.rows(0, 23), vectors, atol=1e-6, rtol=1e-5)
    assert store.ids() == [text_id for text_id, _ in TEXTS]


@given(start=st.integers(0, 30), length=st.integers(0, 30))
def test_any_block_is_that_slice(made: Path, start: int, length: int) -> None:
    store = VectorStore.open(made)
    whole, ids = store.rows(0, 23), store.ids()
    assert torch.equal(store.rows(start, start + length), whole[start : start + length])
    assert store.ids(start, start + length) == ids[start : start + length]


def test_single_rows_come_in_the_order_asked_for(made: Path) -> None:
    store = VectorStore.open(made)
    rows = [22, 0, 4, 5, 4, 17]
    assert torch.equal(store.at(rows), store.rows(0, 23)[rows])
    assert torch.equal(store.at(torch.tensor(rows)), store.at(rows))
    assert store.ids_at(rows) == [f"d{row}" for row in rows]
    assert store.at([]).shape == (0, 32)
    for bad in ([23], [-1]):
        with pytest.raises(IndexError, match="of a store of 23"):
            store.at(bad)
    with pytest.raises(IndexError, match="count from 0"):
        store.rows(-1, 3)


def test_shards_are_plain_safetensors(made: Path) -> None:
    arrays = load_file(made / "shard_00001" / "vectors.safetensors")
    assert torch.equal(arrays["vectors"], VectorStore.open(made).rows(5, 10))


# --------------------------------------------------------------------------------------------------------------- bytes


@given(st.integers(1, 40), st.sampled_from([1, 7, 8, 33]), st.integers(0, 5))
def test_int8_is_within_half_a_step_of_its_own_vector(num_rows: int, dim: int, seed: int) -> None:
    vectors = torch.randn(num_rows, dim, generator=torch.Generator().manual_seed(seed))
    vectors *= torch.logspace(-6, 2, num_rows)[:, None]
    stored = to_stored(vectors, VectorType.int8)
    restored = from_stored({name: value.numpy() for name, value in stored.items()}, VectorType.int8, dim)
    assert ((restored - vectors).abs() <= stored["scales"][:, None] * 0.501).all()
    assert int(stored["vectors"].abs().max()) == 127


@pytest.mark.parametrize(
    ("dtype", "bytes_per_vector", "cosine"),
    [("float32", 48, 0.999999), ("float16", 24, 0.999999), ("int8", 16, 0.9998), ("binary", 2, 0.6)],
)
def test_every_type_at_a_matryoshka_dimension(
    tmp_path: Path, tiny_qwen3: Path, vectors: Tensor, dtype: str, bytes_per_vector: int, cosine: float
) -> None:
    store = _embed(tmp_path / "store", tiny_qwen3, dtype=VectorType(dtype), dim=12)
    truth = truncate_and_normalize(vectors, 12)
    restored = store.rows(0, 23)
    assert restored.dtype == torch.float32
    assert store.dim == 12
    assert torch.nn.functional.cosine_similarity(restored, truth).min() > cosine
    assert torch.equal(store.at([7, 20]), restored[[7, 20]])
    arrays = load_file(tmp_path / "store" / "shard_00000" / "vectors.safetensors")
    per_row = sum(array.nbytes for name, array in arrays.items() if name != "text_hashes")
    assert per_row == 5 * bytes_per_vector
    if dtype == "float32":
        torch.testing.assert_close(restored.norm(dim=1), torch.ones(23), atol=1e-6, rtol=0)


# ------------------------------------------------------------------------------------------------------------ resuming


def test_a_finished_store_is_reused_without_the_model(
    directory: Path, tiny_qwen3: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(directory)
    monkeypatch.setattr(TextEncoder, "load", None)
    assert _embed(directory, tiny_qwen3).num_rows == 23
    assert contents(directory) == before


def test_only_missing_shards_are_made_and_the_bytes_are_the_same(directory: Path, tiny_qwen3: Path) -> None:
    before = contents(directory)
    shutil.rmtree(directory / "shard_00002")
    (directory / "store.json").unlink()
    (directory / ".shard_00002.writing").mkdir()  # what a killed process leaves
    (directory / ".shard_00002.writing" / "vectors.safetensors").write_bytes(b"half")
    kept = (directory / "shard_00001" / "shard.json").stat()
    _embed(directory, tiny_qwen3)
    assert contents(directory) == before
    assert (directory / "shard_00001" / "shard.json").stat().st_ino == kept.st_ino


def test_an_unfinished_store_is_not_opened(directory: Path, tmp_path: Path) -> None:
    (directory / "store.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"unfinished vector store.*continues"):
        VectorStore.open(directory)
    with pytest.raises(FileNotFoundError, match="no vector store"):
        VectorStore.open(tmp_path)


def test_bytes_do_not_depend_on_the_directory_or_the_time(made: Path, tmp_path: Path, tiny_qwen3: Path) -> None:
    _embed(tmp_path / "again", tiny_qwen3)
    assert contents(tmp_path / "again") == contents(made)


def test_ranks_make_every_other_shard_and_end_with_the_same_store(
    made: Path, tmp_path: Path, tiny_qwen3: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, results = tmp_path / "store", []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    second = threading.Thread(target=lambda: results.append(_embed(target, tiny_qwen3)), daemon=True)
    second.start()
    deadline = time.monotonic() + 60
    while len(list(target.glob("shard_*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    assert {path.name for path in target.glob("shard_*")} == {"shard_00001", "shard_00003"}
    assert second.is_alive(), "a rank returned before the store was complete"
    monkeypatch.setenv("RANK", "0")
    results.append(_embed(target, tiny_qwen3))
    second.join(timeout=60)
    assert [store.num_rows for store in results] == [23, 23]
    assert contents(target) == contents(made)


# ------------------------------------------------------------------------------------------------------------ refusals


def _changed(row: int, text: str) -> list[tuple[str, str]]:
    return [(text_id, text if number == row else old) for number, (text_id, old) in enumerate(TEXTS)]


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("texts", "named"),
    [
        (_changed(13, TEXTS[13][1] + "."), "text of document 'd13' has changed"),
        (_changed(0, TEXTS[0][1].upper()), "text of document 'd0' has changed"),
        ([*TEXTS[:7], ("new", "x"), *TEXTS[7:]], "document 'new' is where the store has 'd7'"),
        (TEXTS[:22], "document 'd22' is in the store, but no longer"),
        (TEXTS[:10], "document 'd10' is in the store, but no longer"),
        ([*TEXTS, ("d23", "more")], "document 'd23' is not in the store"),
    ],
)
def test_other_texts_are_refused_by_name_and_nothing_is_touched(
    directory: Path, tiny_qwen3: Path, texts: list[tuple[str, str]], named: str, finished: bool
) -> None:
    """One character is enough, in a complete store and in one that is still growing."""
    if not finished:
        (directory / "store.json").unlink()
    before = contents(directory)
    with pytest.raises(ValueError, match=f"{named}.*overwrite=true"):
        _embed(directory, tiny_qwen3, texts)
    assert contents(directory) == before


def test_a_finished_store_does_not_grow_unasked(directory: Path, tiny_qwen3: Path) -> None:
    """Full shards behind the last one are refused before anything is encoded."""
    first = _embed(directory.with_name("full"), tiny_qwen3, TEXTS[:20])
    before = contents(first.directory)
    with pytest.raises(ValueError, match="document 'd20' is not in the store"):
        _embed(first.directory, tiny_qwen3)
    assert contents(first.directory) == before


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"dim": 8}, "dim=None, but dim=8"),
        ({"dtype": VectorType.int8}, "dtype=float32, but dtype=int8"),
        ({"max_tokens": 9}, "max_tokens=512, but max_tokens=9"),
        ({"rows_per_shard": 6}, "rows_per_shard=5"),
        ({"role": TextRole.query}, "role=document, but role=query"),
        ({"num_layers": 1}, "num_layers=None, but num_layers=1"),
        ({"precision": Precision.bf16}, "precision=fp32, but precision=bf16"),
    ],
)
def test_other_settings_are_refused_by_name(
    directory: Path, tiny_qwen3: Path, settings: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        _embed(directory, tiny_qwen3, **settings)


def test_another_instruction_or_model_is_refused(tmp_path: Path, tiny_qwen3: Path, tiny_llama: Path) -> None:
    _embed(tmp_path / "store", tiny_qwen3, role=TextRole.query, instruction="Find")
    with pytest.raises(ValueError, match="instruction=Find, but instruction=Look"):
        _embed(tmp_path / "store", tiny_qwen3, role=TextRole.query, instruction="Look")
    with pytest.raises(ValueError, match="made with model="):
        _embed(tmp_path / "store", tiny_llama, role=TextRole.query, instruction="Find")


def test_overwrite_makes_anew_what_differs_and_nothing_else(directory: Path, tiny_qwen3: Path) -> None:
    kept = {n: (directory / f"shard_0000{n}" / "shard.json").stat().st_ino for n in range(5)}
    texts = _changed(13, "something else")[:20]
    store = _embed(directory, tiny_qwen3, texts, overwrite=True)
    now = {n: (directory / f"shard_0000{n}" / "shard.json").stat().st_ino for n in range(4)}
    assert [n for n in now if now[n] != kept[n]] == [2]
    assert store.num_rows == 20
    fresh = _embed(directory.with_name("fresh"), tiny_qwen3, texts)
    assert contents(directory) == contents(fresh.directory)


def test_a_store_is_not_complete_while_it_is_overwritten(directory: Path, tiny_qwen3: Path) -> None:
    """Else a kill would leave old and new shards under a description that calls them one store."""

    def texts():  # type: ignore[no-untyped-def]
        yield from _changed(3, "something else")[:20]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_texts(texts(), str(tiny_qwen3), directory, EmbedConfig(**SETTINGS, overwrite=True))
    with pytest.raises(FileNotFoundError, match="unfinished"):
        VectorStore.open(directory)


def test_no_texts_are_refused(tmp_path: Path, tiny_qwen3: Path) -> None:
    with pytest.raises(ValueError, match="no texts"):
        _embed(tmp_path / "store", tiny_qwen3, [])


# -------------------------------------------------------------------------------------------------------------- damage


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["vectors.safetensors", "ids.json"])
def test_a_damaged_shard_is_named(directory: Path, tiny_qwen3: Path, name: str) -> None:
    path = directory / "shard_00003" / name
    _flip(path)
    with pytest.raises(ValueError, match=rf"shard_00003: damaged shard: the bytes of {name}.*Delete"):
        VectorStore.open(directory, verify=True)
    with pytest.raises(ValueError, match="shard_00003: damaged shard"):
        _embed(directory, tiny_qwen3, verify=True)
    path.write_bytes(path.read_bytes()[:-1])
    for open_again in (VectorStore.open, lambda directory: _embed(directory, tiny_qwen3)):
        with pytest.raises(ValueError, match=rf"shard_00003: damaged shard: {name} has \d+ bytes instead of"):
            open_again(directory)
    path.unlink()
    with pytest.raises(ValueError, match=f"shard_00003: damaged shard: {name} is missing"):
        VectorStore.open(directory)


def test_a_damaged_description_is_named(directory: Path, tiny_qwen3: Path) -> None:
    (directory / "shard_00001" / "shard.json").write_text("{")
    with pytest.raises(ValueError, match=r"shard_00001: damaged shard: shard.json is not readable"):
        _embed(directory, tiny_qwen3)
    (directory / "store.json").write_text("[]")
    with pytest.raises(ValueError, match=r"store.json: not readable.*keeps the shards"):
        VectorStore.open(directory)


def test_the_remedy_for_a_damaged_shard_mends_it(directory: Path, tiny_qwen3: Path) -> None:
    before = contents(directory)
    shutil.rmtree(directory / "shard_00003")
    with pytest.raises(ValueError, match="shard_00003: damaged shard"):
        VectorStore.open(directory)
    _embed(directory, tiny_qwen3)
    assert contents(directory) == before


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_a_vector_without_a_direction_names_its_document(tmp_path: Path, value: float) -> None:
    vectors = torch.eye(5)
    vectors[3] = value
    embedder = Embedder(lambda texts, instruction: vectors, lambda texts: vectors)
    task = ShardTask(tmp_path / "store", "a model", "cpu", EmbedConfig())
    with pytest.raises(ValueError, match="a model gives document 'd3' a vector of zeros or with NaN"):
        task.write(embedder, next(cut_shards(TEXTS, 5)))
    assert not (tmp_path / "store").exists()


# --------------------------------------------------------------------------------------------------------- fingerprint


def test_the_fingerprint_tells_texts_and_settings_apart(made: Path, tmp_path: Path, tiny_qwen3: Path) -> None:
    fingerprint = VectorStore.open(made).fingerprint
    assert _embed(tmp_path / "same", tiny_qwen3).fingerprint == fingerprint
    others = [
        _embed(tmp_path / "a", tiny_qwen3, _changed(22, "x")).fingerprint,
        _embed(tmp_path / "b", tiny_qwen3, [("x", TEXTS[0][1]), *TEXTS[1:]]).fingerprint,
        _embed(tmp_path / "c", tiny_qwen3, dim=8).fingerprint,
    ]
    assert len({fingerprint, *others}) == 4


def test_ids_and_texts_are_told_apart_in_a_shards_digest() -> None:
    one, two = ([("a", "b"), ("c", "d")], [("a", "d"), ("c", "b")])
    (first,), (second,) = (list(cut_shards(texts, 5)) for texts in (one, two))
    assert first.digest != second.digest
    assert first.hashes.dtype == np.int64


@pytest.mark.parametrize("name", ["dim", "rows_per_shard", "num_processes", "threads_per_process", "tokens_per_batch"])
def test_settings_below_one_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}=0"):
        EmbedConfig(**{name: 0})


def test_documents_carry_no_instruction() -> None:
    with pytest.raises(ValueError, match="role=query"):
        EmbedConfig(instruction="Find")


def test_a_query_store_holds_prompted_queries(tmp_path: Path, tiny_qwen3: Path) -> None:
    store = _embed(tmp_path / "store", tiny_qwen3, role=TextRole.query, instruction="Find")
    encoder = TextEncoder.load(str(tiny_qwen3), precision="fp32")
    expected = encoder.encode([f"Instruct: Find\nQuery:{text}" for _, text in TEXTS])
    torch.testing.assert_close(store.rows(0, 23), expected, atol=1e-6, rtol=1e-5)
    assert json.loads((tmp_path / "store" / "store.json").read_text())["settings"]["role"] == "query"
