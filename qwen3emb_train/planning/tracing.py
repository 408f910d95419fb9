"""The configured model, traced: what its real modules do with a chunk of texts, for any number of tokens.

A model of the first layer and one more of each kind is run on fake tensors of the true shapes, without and with graph,
and backwards, at two sizes. Every count is affine in the number of tokens, so two sizes give all; and layers of a kind
are alike, so one gives all. What a change of the model does (another norm, other dtypes) is seen without a formula.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qwen3emb_train.data.batches import Extents, PackedTokens
from qwen3emb_train.models.grids import Grid, Grids
from qwen3emb_train.models.packing import PACKED, LayoutShapes, PackedLayout, is_causal
from qwen3emb_train.models.text_model import TextModel
from qwen3emb_train.models.varlen import VarlenSpans
from qwen3emb_train.planning.fused import FusedNorms
from qwen3emb_train.planning.kernels import Recorder, Stretch
from qwen3emb_train.planning.parameters import list_of_layers

_TEXTS = (4, 8)  # of the two traced chunks


@dataclass(frozen=True)
class How:
    """How a model is run.

    Attributes:
        bf16: products run in bf16.
        casts: by weights that are cast (FSDP2's mixed precision); else by autocast.
        on_gpu: a varlen kernel reads packed rows and torch's norms are one kernel; else grids, and several kernels.
        mean_tokens: of a text.
        cells_per_token: of the attention's grids. Texts of a chunk are sorted by length, so they differ little.
    """

    bf16: bool
    casts: bool = False
    on_gpu: bool = True
    mean_tokens: int = 256
    cells_per_token: float = 1.1


@dataclass(frozen=True)
class Pass:
    """The stretches of one pass: what precedes the layers, the first layer, another layer, the rest.

    Backwards in the opposite order.

    Attributes:
        before, first, other, after: in the order in which they run forwards.
    """

    before: Stretch
    first: Stretch
    other: Stretch
    after: Stretch


@dataclass(frozen=True)
class TracedChunk:
    """One traced size.

    Attributes:
        tokens: of the chunk.
        plain: the pass without graph.
        forward, backward: with graph.
    """

    tokens: int
    plain: Pass
    forward: Pass
    backward: Pass


def layer_kinds(model: TextModel) -> list[int]:
    """A number for each layer; equal numbers for layers that do the same."""
    types = getattr(model.config, "layer_types", None) or ()
    found: dict[Any, int] = {}
    kinds = []
    for number, layer in enumerate(list_of_layers(model)):
        shapes = tuple((name, tuple(p.shape), p.dtype, p.requires_grad) for name, p in layer.named_parameters())
        key = (shapes, types[number] if number < len(types) else None)
        kinds.append(found.setdefault(key, len(found)))
    return kinds


def trace_layer(model: TextModel, how: How, other: int | None) -> tuple[TracedChunk, TracedChunk]:
    """The model of its first layer and layer ``other`` (None: of the first alone), at two sizes.

    Args:
        model: on the meta device; unchanged.
        how: it is run.
        other: index of the second layer.

    Raises:
        ValueError: the family's code asks for values that only a real tensor has.
    """
    small = _with_layers(model, [0] if other is None else [0, other])
    try:
        first, second = (_trace(small, how, texts) for texts in _TEXTS)
    except Exception as error:  # whatever a foreign model's code raises where a tensor has no values
        kind = model.config.model_type
        line = (str(error).strip().splitlines() or [""])[0][:120]
        raise ValueError(
            f"plan cannot trace this {kind} model ({type(error).__name__}: {line}); train_embedding may still run it."
        ) from error
    return first, second


def _with_layers(model: TextModel, chosen: Sequence[int]) -> TextModel:
    """A copy with these layers only; what is not chosen is not copied."""
    layers = list(list_of_layers(model))
    memo: dict[int, Any] = {id(layer): nn.Identity() for n, layer in enumerate(layers) if n not in chosen}
    copied: TextModel = deepcopy(model, memo)
    kept = list_of_layers(copied)
    for number in reversed(range(len(kept))):
        if number not in chosen:
            del kept[number]
    config = copied.config
    config.num_hidden_layers = len(chosen)
    if vars(config).get("layer_types"):
        config.layer_types = [config.layer_types[number] for number in chosen]
    for module in copied.modules():  # these ask for the longest position; what they do costs the same
        if getattr(module, "rope_type", None) in ("dynamic", "longrope"):
            module.rope_type = "default"  # type: ignore[assignment]
    return copied


def _trace(model: TextModel, how: How, texts: int) -> TracedChunk:
    from torch._subclasses.fake_tensor import FakeTensorMode

    keys = how.mean_tokens / (2 if is_causal(model.backbone) else 1)
    fake = deepcopy(model)
    with FakeTensorMode(allow_non_fake_inputs=True), FusedNorms() if how.on_gpu else nullcontext():
        own = _give_fake_tensors(fake, torch.bfloat16 if how.bf16 and how.casts else None)
        gradients = [tensor.grad for tensor in own if tensor.grad is not None]
        without = Recorder([*own, *gradients], keys)
        with without, torch.no_grad(), _layers_marked(fake, without):
            _encode(fake, how, texts)
            without.begin()
        recorder = Recorder([*own, *gradients], keys)
        with recorder:
            with _layers_marked(fake, recorder):
                vectors = _encode(fake, how, texts)
            forwards = len(recorder.stretches)
            gradient = torch.empty_like(vectors)
            recorder.begin()
            vectors.backward(gradient)
            recorder.begin()
    count = len(list_of_layers(fake))
    forward, backward = recorder.stretches[:forwards], recorder.stretches[forwards:-1]
    return TracedChunk(
        texts * how.mean_tokens,
        _as_pass(without.stretches[:-1], count),
        _as_pass(forward, count),
        _as_pass(backward, count, backwards=True),
    )


def _as_pass(stretches: list[Stretch], num_layers: int, *, backwards: bool = False) -> Pass:
    """Names the stretches. Backwards the last ones are missing where nothing before a layer is trained."""
    found = [*stretches, *(Stretch() for _ in range(num_layers + 2 - len(stretches)))]
    if backwards:
        found.reverse()
    return Pass(found[0], found[1], found[2] if num_layers > 1 else Stretch(), found[-1])


def _give_fake_tensors(model: TextModel, dtype: torch.dtype | None) -> list[Tensor]:
    """Replaces the meta parameters and buffers; the trained ones get gradients, as in all but a step's first chunk.

    Args:
        model: changed in place, inside a fake mode.
        dtype: of floating-point parameters; None: their own.
    """
    replaced: dict[int, Tensor] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            if id(parameter) not in replaced:
                kind = dtype if dtype is not None and parameter.is_floating_point() else parameter.dtype
                new = nn.Parameter(torch.empty(parameter.shape, dtype=kind), requires_grad=parameter.requires_grad)
                new.grad = torch.empty_like(new) if new.requires_grad else None
                replaced[id(parameter)] = new
            module._parameters[name] = replaced[id(parameter)]  # type: ignore[assignment]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = replaced.setdefault(id(buffer), torch.empty(buffer.shape, dtype=buffer.dtype))
    return list(replaced.values())


def _encode(model: TextModel, how: How, texts: int) -> Tensor:
    mean = how.mean_tokens
    longest, num_tokens = max(mean, round(how.cells_per_token * mean)), texts * mean
    ids = torch.zeros(num_tokens, dtype=torch.long)
    cu_seqlens = torch.zeros(texts + 1, dtype=torch.long)
    tokens = PackedTokens(ids, cu_seqlens, ids.clone(), extents=Extents(mean, mean, num_tokens))
    if model.text_keys is not None:
        model.text_keys.set_tokens(tokens)
    by_autocast = how.bf16 and not how.casts
    context: AbstractContextManager[Any] = torch.autocast("cpu", torch.bfloat16) if by_autocast else nullcontext()
    with context:
        if model.config._attn_implementation == PACKED:
            states = model.last_states_packed(tokens, _layout(cu_seqlens, ids, longest, how))
        else:
            padded = torch.zeros(texts, longest, dtype=torch.long)
            states = model.last_states_padded(padded, torch.ones_like(padded))
        return model.head(states if states.dtype is torch.float64 else states.float())


def _layout(cu_seqlens: Tensor, cells: Tensor, longest: int, how: How) -> PackedLayout:
    """Of texts of the mean length, in grids that are somewhat longer."""
    texts = len(cu_seqlens) - 1
    grid = Grid(texts, longest, longest, cells, cells, longest == how.mean_tokens, None, cu_seqlens[1:])
    spans = cu_seqlens.int()
    kernel = VarlenSpans(spans, spans, how.mean_tokens, how.mean_tokens) if how.on_gpu else None
    return PackedLayout(None, shapes=LayoutShapes(Grids((grid,)), kernel))


@contextmanager
def _layers_marked(model: TextModel, recorder: Recorder) -> Iterator[None]:
    """Stretches begin where layers do, forwards and (by the gradients of their inputs) backwards."""
    layers = list(list_of_layers(model))
    seen: set[int] = set()

    def before(layer: nn.Module, args: Any, kwargs: Any) -> None:
        if id(layer) in seen:
            return
        seen.add(id(layer))
        recorder.begin()
        _when_gradient_arrives(_first_floating([*args, *kwargs.values()]), recorder)

    def after(layer: nn.Module, args: Any, output: Any) -> None:
        if len(recorder.stretches) == len(layers) + 1:
            recorder.begin_at_next()
            _when_gradient_arrives(_first_floating([output] if isinstance(output, Tensor) else output), recorder)

    handles = [layer.register_forward_pre_hook(before, with_kwargs=True) for layer in layers]
    handles.append(layers[-1].register_forward_hook(after))
    recorder.begin()
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _first_floating(values: Sequence[Any]) -> Tensor:
    return next(value for value in values if isinstance(value, Tensor) and value.is_floating_point())


def _when_gradient_arrives(tensor: Tensor, recorder: Recorder) -> None:
    if tensor.requires_grad:
        tensor.register_hook(lambda _: recorder.begin())
