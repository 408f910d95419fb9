"""Merge weights by gradient descent on a small probe set.

Li et al. 2024, *Improving general text embedding model* (arXiv 2410.15035), Self Positioning: they search the
interpolation space of task vectors by stochastic gradient descent. Here the merge is W = sum of a_i W_i with
a = softmax(z). One backward pass gives the gradient G of the contrastive loss with respect to W, and that of a_i is
<G, W_i>: memory holds one model, its gradient and a tensor of each input, for any number of models. This is the
gradient of the weighted mean; slerp differs little from it between checkpoints of one run, whose angles are small.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qwen3emb_train.data.batches import PackedTokens
from qwen3emb_train.data.instructions import DEFAULT_INSTRUCTION, format_query, query_prompt, refuse_template
from qwen3emb_train.data.readers import ColumnsConfig, read_examples
from qwen3emb_train.data.records import TrainingExample
from qwen3emb_train.data.rows import source_path
from qwen3emb_train.data.tokenization import TextTokenizer, text_hash
from qwen3emb_train.losses.embeddings import Embeddings
from qwen3emb_train.losses.infonce import InfoNCE
from qwen3emb_train.merging.inputs import ModelInput, carried_prompts
from qwen3emb_train.merging.methods.blocks import float_blocks
from qwen3emb_train.merging.methods.linear import weighted_mean
from qwen3emb_train.models.text_model import Encoder


@dataclass
class ProbeConfig(ColumnsConfig):
    """Settings of the probe set and of gradient descent.

    Attributes:
        path: training examples that no model was trained on; the authors take a few for every task.
        instruction: for examples that carry none; null = the models' own, "" = nothing.
        num_examples: taken from the start of the file, all in one batch.
        max_tokens: longest text.
        steps: gradient steps.
        lr: step size of Adam on z.
        temperature: of the contrastive loss.
    """

    path: str | None = None
    instruction: str | None = None
    num_examples: int = 64
    max_tokens: int = 256
    steps: int = 10
    lr: float = 0.2
    temperature: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_template("probe.instruction", self.instruction)
        if self.num_examples < 2:
            raise ValueError(f"probe.num_examples is {self.num_examples}; a contrastive loss needs at least 2.")
        if self.steps < 1 or self.lr <= 0.0:
            raise ValueError(f"probe.steps is {self.steps} and probe.lr {self.lr}; both must be positive.")


@dataclass(frozen=True)
class Position:
    """Merge weights during descent, and their probe loss.

    Attributes:
        weights: one for each model, with the sum 1.
        loss: of the probe set, in nats.
    """

    weights: tuple[float, ...]
    loss: float


def read_probe(config: ProbeConfig) -> list[TrainingExample]:
    """The first ``num_examples`` examples.

    Raises:
        FileNotFoundError, ValueError: the file cannot be read, holds fewer than two examples, or graded pairs (sts).
    """
    examples: list[TrainingExample] = []
    for example in read_examples(source_path(str(config.path)), columns=config.columns):
        if example.task == "sts":
            raise ValueError(
                f"{config.path}: example {len(examples) + 1} is of task sts: such pairs may be unlike, and the "
                "probe's loss takes every pair for a match. Leave such rows out."
            )
        examples.append(example)
        if len(examples) == config.num_examples:
            break
    if len(examples) < 2:
        raise ValueError(f"{config.path}: {len(examples)} examples; a contrastive loss needs at least 2.")
    return examples


def position_by_gradient(
    encoder: Encoder,
    tokenizer: TextTokenizer,
    models: Sequence[ModelInput],
    examples: Sequence[TrainingExample],
    config: ProbeConfig,
) -> list[Position]:
    """Gradient descent from equal weights; the weights of the encoder are overwritten.

    Args:
        encoder: of the architecture of the models.
        tokenizer: of the models.
        models: to merge.
        examples: the probe set.
        config: settings of the descent.

    Returns:
        ``steps + 1`` positions, from the start to the end.
    """
    encoder.eval()
    trained = carried_prompts(models)
    own_prompt = query_prompt(DEFAULT_INSTRUCTION) if trained is None else trained.query
    logits = torch.zeros(len(models), dtype=torch.float64)
    optimizer = torch.optim.Adam([logits], lr=config.lr)
    path = []
    for step in range(config.steps + 1):
        weights = logits.softmax(dim=0)
        _load_mean(encoder, models, weights.tolist())
        encoder.zero_grad(set_to_none=True)
        with torch.set_grad_enabled(step < config.steps):
            loss = _probe_loss(encoder, tokenizer, examples, config, own_prompt)
        path.append(Position(tuple(weights.tolist()), float(loss.detach())))
        if step < config.steps:
            loss.backward()
            gradient = _weight_gradient(encoder, models)
            logits.grad = weights * (gradient - weights @ gradient)  # through the softmax
            optimizer.step()
    return path


def _load_mean(encoder: Encoder, models: Sequence[ModelInput], weights: Sequence[float]) -> None:
    with torch.no_grad():
        for name, parameter in encoder.backbone.named_parameters():
            parameter.copy_(weighted_mean((_load(model, name) for model in models), weights))


def _weight_gradient(encoder: Encoder, models: Sequence[ModelInput]) -> Tensor:
    """<G, W_i - W_0> for every model: only differences matter under the softmax, and they are small against W_0."""
    totals = [0.0] * len(models)
    for name, parameter in encoder.backbone.named_parameters():
        if parameter.grad is None:
            continue
        first = _load(models[0], name)
        gradient = parameter.grad.cpu()
        for position, model in enumerate(models[1:], start=1):
            for slope, ours, theirs in float_blocks(gradient, first, _load(model, name)):
                totals[position] += torch.dot(slope, theirs - ours).item()
    return torch.tensor(totals, dtype=torch.float64)


def _load(model: ModelInput, name: str) -> Tensor:
    """A tensor by its name in the bare backbone; hub models have theirs under ``model.``."""
    return model.weights.load(name if name in model.weights.names else f"model.{name}")


def _probe_loss(
    encoder: Encoder,
    tokenizer: TextTokenizer,
    examples: Sequence[TrainingExample],
    config: ProbeConfig,
    own_prompt: str = query_prompt(DEFAULT_INSTRUCTION),
) -> Tensor:
    """InfoNCE over the probe set as one batch: in-batch documents and each query's own negatives."""
    own = [config.instruction if example.instruction is None else example.instruction for example in examples]
    queries = [
        own_prompt + example.query if instruction is None else format_query(instruction, example.query)
        for instruction, example in zip(own, examples, strict=True)
    ]
    positives = [example.positives[0] for example in examples]
    negatives = [(row, text) for row, example in enumerate(examples) for text in example.negatives[:1]]
    texts = [*queries, *positives, *(text for _, text in negatives)]
    tokens = PackedTokens.from_lists(tokenizer.tokenize(texts, config.max_tokens))
    vectors = encoder(tokens.to(next(encoder.parameters()).device))
    hashes = torch.tensor([text_hash(text) for text in texts], dtype=torch.long, device=vectors.device)
    parts = [len(queries), len(positives), len(negatives)]
    (query_vectors, positive_vectors, negative_vectors) = vectors.split(parts)
    (query_hash, positive_hash, negative_hash) = hashes.split(parts)
    local = Embeddings(
        queries=query_vectors,
        positives=positive_vectors,
        negatives=negative_vectors,
        positive_query_idx=torch.arange(len(queries), device=vectors.device),
        negative_query_idx=torch.tensor([row for row, _ in negatives], dtype=torch.long, device=vectors.device),
        query_hash=query_hash,
        positive_hash=positive_hash,
        negative_hash=negative_hash,
    )
    return InfoNCE(temperature=config.temperature, query_query=False, document_document=False)(local).loss
