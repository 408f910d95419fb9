"""A reranking step equals its definition: every prompt alone through transformers, losses as formulas, in float64."""

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qwen3emb_train.data.batches import PackedTokens, RerankingBatch
from qwen3emb_train.losses.list_wise import ListNet, RankNet
from qwen3emb_train.losses.point_wise import Answers, PointWise
from qwen3emb_train.losses.reranker_distillation import RerankerDistillation, TeacherForm
from qwen3emb_train.losses.reranking_loss import RerankingLoss
from qwen3emb_train.losses.reranking_sum import RerankingSum
from qwen3emb_train.models.loading import LM_HEAD, Attention, ModelConfig, load_reranker
from qwen3emb_train.models.lora import LoraConfig
from qwen3emb_train.models.precision import Precision
from qwen3emb_train.models.reranker import YesNoReranker
from qwen3emb_train.training.engines.engine import SingleEngine
from qwen3emb_train.training.reranking_objective import RerankingObjective
from tests.tiny import make_tiny_causal_lm_directory
from tests.training.engines.reranking_steps import ANSWER_IDS, NUM_DOCUMENTS, batch_of

YES, NO = ANSWER_IDS
MODELS = {
    "qwen3": ("qwen3", True),
    "qwen3_untied": ("qwen3", False),
    "llama": ("llama", True),
    "gemma3": ("gemma3", True),
    "mistral_untied": ("mistral", False),
}
EVERYTHING = 10_000

# Of all documents: logits [documents, vocabulary], labels, scores, the documents of each query.
Formula = Callable[[Tensor, Tensor, Tensor, list[list[int]]], Tensor]


class Spy(SingleEngine):
    """Notes what was encoded."""

    def __init__(self, reranker: YesNoReranker) -> None:
        optimizer = torch.optim.SGD(reranker.parameters())
        super().__init__(reranker, optimizer, Precision.fp32, torch.device("cpu"))
        self.chunks: list[PackedTokens] = []

    def forward(self, tokens: PackedTokens, *, last: bool = False) -> Tensor:
        self.chunks.append(tokens)
        return super().forward(tokens, last=last)


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("rerankers")
    return {
        name: make_tiny_causal_lm_directory(base / name, family=family, tied=tied)
        for name, (family, tied) in MODELS.items()
    }


@pytest.fixture(autouse=True)
def _norms_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers computes RMSNorm in float32 whatever the weights are: too coarse for an equality of 1e-10."""
    from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
    from transformers.models.llama.modeling_llama import LlamaRMSNorm
    from transformers.models.mistral.modeling_mistral import MistralRMSNorm
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

    def scaled(states: Tensor, epsilon: float) -> Tensor:
        return states * torch.rsqrt(states.square().mean(-1, keepdim=True) + epsilon)

    for norm in (Qwen3RMSNorm, LlamaRMSNorm, MistralRMSNorm):
        monkeypatch.setattr(norm, "forward", lambda self, x: self.weight * scaled(x, self.variance_epsilon))
    monkeypatch.setattr(Gemma3RMSNorm, "forward", lambda self, x: (1 + self.weight) * scaled(x, self.eps))


def reranker_of(directory: Path, loss: RerankingLoss, **changes: object) -> YesNoReranker:
    config = ModelConfig(path=str(directory), **changes)  # type: ignore[arg-type]
    return load_reranker(config, ANSWER_IDS, over_vocabulary=loss.needs_vocabulary).double()


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@cache
def by_definition(directory: Path, formula: Formula) -> tuple[float, dict[str, Tensor]]:
    """One prompt at a time, unpacked, through the whole of transformers' model."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="sdpa").double()
    batch = batch_of(0, with_scores=True)
    bounds = batch.texts.cu_seqlens.tolist()
    prompts = [batch.texts.input_ids[start:stop] for start, stop in pairwise(bounds)]
    logits = torch.stack([model(input_ids=prompt.view(1, -1)).logits[0, -1] for prompt in prompts])
    groups = [(batch.query == query).nonzero()[:, 0].tolist() for query in range(batch.num_queries)]
    assert batch.scores is not None
    loss = formula(logits, batch.labels.double(), batch.scores.double(), groups)
    loss.backward()
    names = {name: name.replace("model.", "backbone.", 1) for name in gradients(model)}
    return loss.item(), {names[name]: gradient for name, gradient in gradients(model).items()}


def full_vocabulary(logits: Tensor, labels: Tensor, scores: Tensor, groups: list[list[int]]) -> Tensor:
    """Eq. 2."""
    return F.cross_entropy(logits, torch.where(labels > 0, YES, NO))


def two_way(logits: Tensor, labels: Tensor, scores: Tensor, groups: list[list[int]]) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits[:, YES] - logits[:, NO], labels)


def rank_net(logits: Tensor, labels: Tensor, scores: Tensor, groups: list[list[int]]) -> Tensor:
    s = logits[:, YES] - logits[:, NO]
    losses = []
    for group in groups:
        pairs = [F.softplus(s[j] - s[i]) for i in group for j in group if labels[i] > labels[j]]
        losses += [torch.stack(pairs).mean()] if pairs else []
    return torch.stack(losses).mean()


def list_net(logits: Tensor, labels: Tensor, scores: Tensor, groups: list[list[int]]) -> Tensor:
    s = logits[:, YES] - logits[:, NO]
    mixed = [group for group in groups if len(set(labels[group].tolist())) == 2]
    return torch.stack([F.cross_entropy(s[g], labels[g] / labels[g].sum()) for g in mixed]).mean()


def distilled(logits: Tensor, labels: Tensor, scores: Tensor, groups: list[list[int]]) -> Tensor:
    """Of the documents that have a score."""
    s, known = logits[:, YES] - logits[:, NO], ~scores.isnan()
    return F.binary_cross_entropy_with_logits(s[known], scores[known].sigmoid())


def matched_lists(logits: Tensor, labels: Tensor, scores: Tensor, groups: list[list[int]]) -> Tensor:
    s = logits[:, YES] - logits[:, NO]
    known = [[i for i in group if not scores[i].isnan()] for group in groups]
    losses = [
        F.kl_div(s[g].log_softmax(0), scores[g].log_softmax(0), log_target=True, reduction="sum")
        for g in known
        if len(g) > 1
    ]
    return torch.stack(losses).mean()


def several(logits: Tensor, labels: Tensor, scores: Tensor, groups: list[list[int]]) -> Tensor:
    everything = (logits, labels, scores, groups)
    return 0.5 * full_vocabulary(*everything) + 2.0 * distilled(*everything) + 0.3 * rank_net(*everything)


LOSSES: dict[str, tuple[RerankingLoss, Formula]] = {
    "full_vocabulary": (PointWise(), full_vocabulary),
    "two_way": (PointWise(Answers.two_way), two_way),
    "rank_net": (RankNet(), rank_net),
    "list_net": (ListNet(), list_net),
    "distilled": (RerankerDistillation(), distilled),
    "matched_lists": (RerankerDistillation(TeacherForm.kl), matched_lists),
    "several": (
        RerankingSum(point_wise_weight=0.5, reranker_distillation_weight=2.0, rank_net_weight=0.3),
        several,
    ),
}


def assert_equal(found: tuple[float, dict[str, Tensor]], expected: tuple[float, dict[str, Tensor]]) -> None:
    assert found[0] == pytest.approx(expected[0], rel=1e-12)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        assert gradient.abs().max() > 0, name
        error = (found[1][name] - gradient).norm() / gradient.norm()
        assert error < 1e-10, (name, error)


def a_step(objective: RerankingObjective, batch: RerankingBatch) -> tuple[float, dict[str, Tensor]]:
    objective.engine.model.zero_grad()
    loss = objective.forward_backward(batch)["loss"]
    return float(loss), gradients(objective.engine.model)


@pytest.mark.parametrize("name", MODELS)
def test_loss_and_all_gradients_are_the_definitions(directories: dict[str, Path], name: str) -> None:
    """Whatever the chunks, with beginnings encoded once or every time; gemma3's window is shorter than these."""
    expected = by_definition(directories[name], full_vocabulary)
    engine = Spy(reranker_of(directories[name], PointWise()))
    num_tokens = {}
    for tokens_per_chunk, share_prefixes in ((EVERYTHING, True), (EVERYTHING, False), (230, True)):
        engine.chunks.clear()
        objective = RerankingObjective(engine, PointWise(), tokens_per_chunk, share_prefixes)
        assert_equal(a_step(objective, batch_of(0)), expected)
        num_tokens[tokens_per_chunk, share_prefixes] = sum(chunk.num_tokens for chunk in engine.chunks)
        assert any(chunk.num_prefixes for chunk in engine.chunks) == share_prefixes
    whole, saved = batch_of(0).texts.num_tokens, 0
    for query, documents in enumerate(NUM_DOCUMENTS):
        twice = (documents - 1) * (20 + query)  # tokens of a query's beginning that need not be encoded again
        saved += twice if twice >= 64 else 0
    assert num_tokens[EVERYTHING, False] == whole
    assert num_tokens[EVERYTHING, True] == whole - saved
    assert num_tokens[EVERYTHING, True] < num_tokens[230, True] < whole, "queries in parts, each with its beginning"


def test_a_chunk_holds_what_the_budget_says(directories: dict[str, Path]) -> None:
    """A document alone where nothing else fits, and neither more tokens nor more chunks than needed."""
    engine = Spy(reranker_of(directories["qwen3"], PointWise()))
    expected = by_definition(directories["qwen3"], full_vocabulary)
    numbers = []
    for tokens_per_chunk in (1, 70, 110, 230):
        engine.chunks.clear()
        found = a_step(RerankingObjective(engine, PointWise(), tokens_per_chunk), batch_of(0))
        assert_equal(found, expected)
        assert all(chunk.num_tokens <= tokens_per_chunk or chunk.num_texts == 1 for chunk in engine.chunks)
        numbers.append(len(engine.chunks))
    assert numbers[0] == sum(NUM_DOCUMENTS)
    assert numbers == sorted(set(numbers), reverse=True)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_its_formula_in_any_chunks(directories: dict[str, Path], name: str) -> None:
    """List-wise losses keep a query in a chunk also where it is larger than the budget."""
    loss, formula = LOSSES[name]
    expected = by_definition(directories["qwen3"], formula)
    engine = Spy(reranker_of(directories["qwen3"], loss))
    batch = batch_of(0, with_scores=True)
    if not loss.needs_vocabulary:  # what is not looked at is not computed
        assert engine.forward(batch.texts).shape == (sum(NUM_DOCUMENTS), 2)
    least = 1 if loss.needs_whole_queries else 60
    for tokens_per_chunk in (EVERYTHING, least):
        engine.chunks.clear()
        assert_equal(a_step(RerankingObjective(engine, loss, tokens_per_chunk), batch), expected)
    if loss.needs_whole_queries:
        assert sorted(chunk.num_texts for chunk in engine.chunks) == sorted(filter(None, NUM_DOCUMENTS))


def test_parts_of_a_sum_are_named_and_add_up(directories: dict[str, Path]) -> None:
    loss = LOSSES["several"][0]
    objective = RerankingObjective(Spy(reranker_of(directories["qwen3"], loss)), loss, 60)
    metrics = objective.forward_backward(batch_of(0, with_scores=True))
    assert set(metrics) == {"loss", "point_wise_loss", "reranker_distillation_loss", "rank_net_loss"}
    assert float(metrics["loss"]) == pytest.approx(sum(float(v) for n, v in metrics.items() if n != "loss"))


@pytest.mark.parametrize("changes", [{"activation_checkpointing": True}, {"attention": Attention.padded}])
def test_recomputed_layers_and_padded_batches_give_the_same(
    directories: dict[str, Path], changes: dict[str, object]
) -> None:
    expected = by_definition(directories["qwen3"], full_vocabulary)
    engine = Spy(reranker_of(directories["qwen3"], PointWise(), **changes))
    assert_equal(a_step(RerankingObjective(engine, PointWise(), 130), batch_of(0)), expected)
    assert any(chunk.num_prefixes for chunk in engine.chunks) == ("attention" not in changes)


def test_a_tied_embedding_receives_the_gradients_of_both_its_uses(directories: dict[str, Path]) -> None:
    tied, untied = (reranker_of(directories["qwen3"], PointWise()) for _ in range(2))
    untied.lm_head.weight = nn.Parameter(untied.lm_head.weight.detach().clone())
    (_, one), (_, two) = (a_step(RerankingObjective(Spy(m), PointWise()), batch_of(0)) for m in (tied, untied))
    embedding = "backbone.embed_tokens.weight"
    assert two.keys() == one.keys() | {LM_HEAD}
    assert min(two[embedding].norm(), two[LM_HEAD].norm()) > 1e-3
    torch.testing.assert_close(one[embedding], two[embedding] + two[LM_HEAD], rtol=1e-9, atol=1e-12)


def test_adapters_alone_learn_and_dropout_by_text_shares_nothing(directories: dict[str, Path]) -> None:
    """Each prompt has masks of its own, so beginnings are not common; the chunks do not matter all the same."""
    lora = LoraConfig(rank=4, dropout=0.3)
    torch.manual_seed(0)
    engine = Spy(reranker_of(directories["qwen3_untied"], PointWise(), lora=lora))
    engine.seed_dropout(5)
    one, other = (a_step(RerankingObjective(engine, PointWise(), n), batch_of(0)) for n in (60, EVERYTHING))
    assert all("lora_" in name for name in one[1])
    assert not any(chunk.num_prefixes for chunk in engine.chunks)
    assert one[0] == pytest.approx(other[0], rel=1e-12)
    for name, gradient in one[1].items():
        torch.testing.assert_close(gradient, other[1][name], rtol=1e-8, atol=1e-12)


def test_held_out_metrics_are_those_of_all_batches_together(directories: dict[str, Path]) -> None:
    """The loss of each batch weighs by its queries; MRR by counting; nothing keeps a graph."""
    engine = Spy(reranker_of(directories["qwen3"], PointWise()))
    objective = RerankingObjective(engine, PointWise(), 60)
    batches = [batch_of(0, 0, 5), batch_of(0, 5, 8)]
    losses, reciprocal = [], []
    sums: dict[str, Tensor] = {}
    for batch in batches:
        losses.append(float(objective.forward_backward(batch)["loss"]) * batch.num_queries)
        with torch.no_grad():
            columns = engine.model(batch.texts)
        score = columns[:, 0] - columns[:, 1]
        for query in range(batch.num_queries):
            own, relevant = score[batch.query == query], batch.labels[batch.query == query] > 0
            if relevant.any() and not relevant.all():
                reciprocal.append(1 / min(1 + int((own > value).sum()) for value in own[relevant]))
        found = objective.evaluate(batch)
        assert not any(value.requires_grad for value in found.values())
        sums = {name: value.double() + sums.get(name, 0.0) for name, value in found.items()}
    metrics = objective.held_out(sums)
    assert metrics["loss"] == pytest.approx(sum(losses) / 8, rel=1e-5)
    assert metrics["mrr"] == pytest.approx(sum(reciprocal) / len(reciprocal))
    assert set(metrics) == {"loss", "mrr", "auc", "accuracy_at_1", "calibration_error"}
    assert 0 < metrics["accuracy_at_1"] < metrics["mrr"] < 1


def test_equal_scores_are_no_first_place(directories: dict[str, Path]) -> None:
    """A model that says the same of everything is not credited with the order of its documents."""
    reranker = reranker_of(directories["qwen3_untied"], PointWise())
    nn.init.zeros_(reranker.lm_head.weight)
    objective = RerankingObjective(Spy(reranker), PointWise())
    metrics = objective.held_out(objective.evaluate(batch_of(0, 0, 1)))
    others = int((batch_of(0, 0, 1).labels == 0).sum())
    assert metrics["mrr"] == pytest.approx(1 / (1 + others))
    assert metrics["accuracy_at_1"] == 0


def test_the_queries_of_bad_documents_are_named(directories: dict[str, Path]) -> None:
    """One token that occurs in the end of one prompt has a broken embedding; what shares its beginning is sound."""
    loss = PointWise(Answers.two_way)
    reranker = reranker_of(directories["qwen3_untied"], loss)
    objective = RerankingObjective(Spy(reranker), loss, 60)
    assert objective.bad_queries() == []
    batch = batch_of(0)
    batch.texts.input_ids[batch.texts.cu_seqlens[8] - 1] = 1  # the last token of query 2's second document
    with torch.no_grad():
        reranker.backbone.embed_tokens.weight[1] = torch.nan
    objective.forward_backward(batch)
    assert objective.bad_queries() == [2]
    objective.release()
    assert objective.bad_queries() == []
