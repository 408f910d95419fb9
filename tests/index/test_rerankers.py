"""A document's score is that of its prompt alone, whatever is scored beside it, in whatever order and batch."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from qwen3emb_train.data.batches import PackedTokens
from qwen3emb_train.index import rerankers as module
from qwen3emb_train.index.rerankers import TextReranker, chunk_groups, is_yes_no_reranker
from qwen3emb_train.models.loading import Attention, ModelConfig, load_reranker
from qwen3emb_train.models.precision import Precision
from qwen3emb_train.models.reranker import YesNoReranker
from tests.index.reranker_reference import SUFFIX, PlainReranker
from tests.tiny import make_tiny_causal_lm_directory, make_tiny_model_directory

QUERIES = ["number of items", "Wie viele Einwohner hat Berlin?", "nothing to be judged", ""]
DOCUMENTS = [
    ["Return the number of items in the list.", "", "北京是中国的首都。", "The quick brown fox. " * 20, "a"],
    ["Berlin hat viele Einwohner. " * 4, "x"],
    [],
    ["Le chat dort sur le canapé.", "Le chien court.", "Le chat dort sur le canapé."],
]
KINDS = [("qwen3", True), ("qwen3", False), ("llama", True), ("gemma3", True)]
TOLERANCE = 2e-5  # float32 against float64; the scores spread over whole units


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: f"{kind[0]}-{'tied' if kind[1] else 'untied'}")
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    family, tied = request.param
    return make_tiny_causal_lm_directory(tmp_path_factory.mktemp("models") / "model", family=family, tied=tied)


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_causal_lm_directory(tmp_path_factory.mktemp("models") / "model")


def _load(path: Path, **settings: Any) -> TextReranker:
    return TextReranker.load(str(path), precision="fp32", device="cpu", **settings)


def test_scores_are_those_of_one_prompt_at_a_time_through_plain_transformers(directory: Path) -> None:
    plain = PlainReranker(directory, 1024)
    scores = _load(directory).score_groups(QUERIES, DOCUMENTS, "Find what answers")
    assert [len(of_query) for of_query in scores] == [5, 2, 0, 3]
    assert scores[3][0] == scores[3][2], "equal documents have equal scores, to the bit"
    for query, documents, found in zip(QUERIES, DOCUMENTS, scores, strict=True):
        assert found.dtype is torch.float32
        assert found.tolist() == pytest.approx(plain.score(query, documents, "Find what answers"), abs=TOLERANCE)
    assert scores[0].max() - scores[0].min() > 0.1, "different documents have different scores"


@pytest.mark.parametrize("tokens_per_batch", [1, 400, 900, 100_000])
def test_scores_do_not_depend_on_the_budget_the_order_or_the_company(directory: Path, tokens_per_batch: int) -> None:
    reranker = _load(directory)
    expected = [reranker.score(*group) for group in zip(QUERIES, DOCUMENTS, strict=True)]
    turned = [documents[::-1] for documents in DOCUMENTS[::-1]]
    found = reranker.score_groups(QUERIES[::-1], turned, tokens_per_batch=tokens_per_batch)
    for one, other in zip(expected, found[::-1], strict=True):
        torch.testing.assert_close(one, other.flip(0), rtol=0, atol=TOLERANCE)


def test_shared_beginnings_change_nothing_and_are_read_once(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reranker = _load(directory)
    read: list[PackedTokens] = []
    original = YesNoReranker.forward

    def watched(self: YesNoReranker, tokens: PackedTokens) -> torch.Tensor:
        read.append(tokens)
        return original(self, tokens)

    monkeypatch.setattr(YesNoReranker, "forward", watched)
    scores = reranker.score_groups(QUERIES, DOCUMENTS)
    with monkeypatch.context() as without:
        without.setattr(YesNoReranker, "shares_prefixes", False)
        plain = reranker.score_groups(QUERIES, DOCUMENTS)
    (shared, whole) = read
    assert (shared.num_prefixes, whole.num_prefixes) == (3, 0)  # the third query has no documents
    assert shared.num_texts == whole.num_texts == 9, "a document that a query has twice is read once"
    assert shared.num_tokens < 0.7 * whole.num_tokens
    for one, other in zip(scores, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=TOLERANCE)


def test_padded_attention_gives_the_same(qwen3: Path) -> None:
    packed = _load(qwen3)
    config = ModelConfig(path=str(qwen3), attention=Attention.padded)
    padded = TextReranker(
        load_reranker(config, packed.tokenizer.answer_ids), packed.tokenizer, max_tokens=1024, precision=Precision.fp32
    )
    expected = padded.score_groups(QUERIES, DOCUMENTS)
    for one, other in zip(packed.score_groups(QUERIES, DOCUMENTS), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=TOLERANCE)


def test_what_is_too_long_is_cut_at_the_document_and_still_asks_for_the_answer(
    qwen3: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    longs = ["cat " * 300, "cat " * 300 + "dog", "dog " * 300]
    reranker = _load(qwen3, max_tokens=420)
    scores = reranker.score("q", longs)
    assert scores.tolist() == pytest.approx(PlainReranker(qwen3, 420).score("q", longs), abs=TOLERANCE)
    assert scores[0] == pytest.approx(scores[1].item(), abs=TOLERANCE)
    assert abs(scores[0] - scores[2]) > 1e-2
    for ids in reranker.tokenizer.tokenize("i", "q", longs, 420):
        assert len(ids) == 420
        assert reranker.tokenizer.hf.decode(ids).endswith(SUFFIX)


def test_the_models_positions_hold_and_the_template_must_fit(qwen3: Path) -> None:
    assert _load(qwen3).max_tokens == 1024
    assert _load(qwen3, max_tokens=500).max_tokens == 500
    with pytest.raises(ValueError, match=r"max_tokens is 20, and the reranker's template alone takes \d+"):
        _load(qwen3, max_tokens=20)


def test_only_the_first_layers_where_asked_for(qwen3: Path) -> None:
    shallow = _load(qwen3, num_layers=1)
    assert len(shallow.reranker.backbone.layers) == 1
    assert not torch.allclose(shallow.score(QUERIES[0], DOCUMENTS[0]), _load(qwen3).score(QUERIES[0], DOCUMENTS[0]))


def test_bf16_is_autocast_and_close(qwen3: Path) -> None:
    rough = TextReranker.load(str(qwen3), precision="bf16", device="cpu").score(QUERIES[0], DOCUMENTS[0])
    exact = _load(qwen3).score(QUERIES[0], DOCUMENTS[0])
    assert rough.dtype is torch.float32
    assert not torch.equal(rough, exact)
    torch.testing.assert_close(rough, exact, rtol=0, atol=0.1)


def test_an_empty_instruction_is_the_rerankers_own(qwen3: Path) -> None:
    reranker = _load(qwen3)
    reranker.instruction = "Find the cat"
    documents = ["a cat", "a dog"]
    own = reranker.score("q", documents)
    assert torch.equal(own, reranker.score("q", documents, ""))
    expected = PlainReranker(qwen3).score("q", documents, "Find the cat")
    assert own.tolist() == pytest.approx(expected, abs=TOLERANCE)
    assert not torch.equal(own, reranker.score("q", documents, "Find the dog"))


def _prompts(*groups: tuple[int, list[int]]) -> dict[int, list[list[int]]]:
    """For each query a shared beginning of so many tokens and prompts of so many tokens of their own."""
    return {
        query: [[0] * common + [number + 1] * own for number, own in enumerate(owns)]
        for query, (common, owns) in enumerate(groups)
    }


def _cost(chunk: list[tuple[int, int]], prompts: dict[int, list[list[int]]], shared: bool = True) -> int:
    total = 0
    for query in {query for query, _ in chunk}:
        its_prompts = [prompts[query][number] for other, number in chunk if other == query]
        common = prompts[query][0].count(0) if shared else 0
        total += common + sum(len(prompt) - common for prompt in its_prompts)
    return total


def test_a_query_stays_together_as_long_as_it_fits() -> None:
    prompts = _prompts((50, [10, 20, 30]), (50, [40, 5]), (50, [100] * 10), (20, [1]))
    chunks = chunk_groups(prompts, 210)
    assert sorted(pair for chunk in chunks for pair in chunk) == [
        (query, number) for query in prompts for number in range(len(prompts[query]))
    ]
    # The large one in pieces of 50 + 100 (two would be 250); the small ones whole, behind it and with one another.
    assert [[query for query, _ in chunk] for chunk in chunks[:10]] == [[2]] * 9 + [[2]]
    assert chunks[10:] == [[(1, 0), (1, 1), (0, 2), (0, 1), (0, 0)], [(3, 0)]]
    assert all(_cost(chunk, prompts) <= 210 for chunk in chunks)
    # The first of its prompts would find room beside the other query, but not both.
    assert chunk_groups(_prompts((50, [100]), (50, [40, 40])), 250) == [[(0, 0)], [(1, 0), (1, 1)]]


def test_pieces_of_a_large_query_count_their_beginning_once_each() -> None:
    prompts = _prompts((50, [100] * 10), (50, [20, 20]))
    chunks = chunk_groups(prompts, 400)
    assert [len(chunk) for chunk in chunks] == [3, 3, 3, 3]  # 50 + 3 * 100; the last with the other query's two
    assert {query for query, _ in chunks[3]} == {0, 1}
    alone = chunk_groups(prompts, 400, is_shared=False)
    assert all(_cost(chunk, prompts, shared=False) <= 400 for chunk in alone)
    assert len(alone) == 6  # 150 tokens a prompt: two in a chunk; the other query's two in one


def test_a_prompt_beyond_the_budget_is_a_chunk_of_its_own() -> None:
    assert chunk_groups(_prompts((5, [300]), (0, []), (5, [2])), 100) == [[(0, 0)], [(2, 0)]]
    with pytest.raises(ValueError, match="tokens_per_batch is 0"):
        chunk_groups({}, 0)


def test_only_so_many_prompts_are_held_at_once(qwen3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PROMPTS_IN_MEMORY", 3)
    held = []

    def watched(prompts: dict[int, list[list[int]]], budget: int, *, is_shared: bool = True) -> Any:
        held.append(sum(map(len, prompts.values())))
        return chunk_groups(prompts, budget, is_shared=is_shared)

    monkeypatch.setattr(module, "chunk_groups", watched)
    reranker = _load(qwen3)
    scores = reranker.score_groups(["a"] * 5, [["b"], ["c", "d"], ["e"], ["f", "h", "i", "j"], ["g"]])
    assert sum(held) == 9
    assert held == [3, 1, 4, 1]  # four of one query stay together
    assert scores[1].tolist() == pytest.approx(reranker.score("a", ["c", "d"]).tolist(), abs=TOLERANCE)


def test_what_is_no_causal_language_model_is_refused(qwen3: Path, tmp_path: Path) -> None:
    assert is_yes_no_reranker(str(qwen3))
    encoder = make_tiny_model_directory(tmp_path / "encoder")
    assert not is_yes_no_reranker(str(encoder))
    with pytest.raises(ValueError, match=r"encoder: not a yes/no reranker"):
        _load(encoder)
    with pytest.raises(FileNotFoundError, match="no such directory"):
        _load(tmp_path / "nothing")
    embedding = shutil.copytree(qwen3, tmp_path / "embedding")
    (embedding / "modules.json").write_text(json.dumps([{"idx": 0, "type": "Transformer", "path": ""}]))
    assert not is_yes_no_reranker(str(embedding)), "a Sentence-Transformers model that pools"
