"""Time, FLOP and memory of one chunk of texts: a trace's stretches, layer after layer, at a GPU's rates.

A kernel takes as long as its products at their share of the peak, or its bytes at their share of the memory's speed,
whichever is longer, and never less than it takes to start one. Kernels run one after the other.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qwen3emb_train.models.text_model import TextModel
from qwen3emb_train.planning.gpus import Gpu
from qwen3emb_train.planning.kernels import Stretch, Unit
from qwen3emb_train.planning.tracing import How, Pass, TracedChunk, layer_kinds, trace_layer

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ChunkCost:
    """What one chunk costs.

    Attributes:
        forward_s, backward_s: seconds; the backward pass recomputes layers where they are checkpointed.
        forward_flop, backward_flop: of products and attention.
        kept: bytes that its graph holds.
        copies: those of them that are there for any number of tokens: bf16 copies of weights.
        forward_peak: bytes in use at most in a pass without graph.
        backward_peak: in the passes with graph, the graph included, weights and their gradients not.
        elementwise_share: of the time of one forward and backward pass.
    """

    forward_s: float
    backward_s: float
    forward_flop: float
    backward_flop: float
    kept: int
    copies: int
    forward_peak: int
    backward_peak: int
    elementwise_share: float


@dataclass(frozen=True)
class _Affine:
    """Numbers that grow with the tokens of a chunk, known at two sizes."""

    tokens: tuple[int, int]
    values: Floats  # [2, numbers]

    def at(self, tokens: int) -> Floats:
        low, high = self.tokens
        found: Floats = self.values[0] + (self.values[1] - self.values[0]) * ((tokens - low) / (high - low))
        return found


class _Line:
    """A stretch at any number of tokens."""

    def __init__(self, tokens: tuple[int, int], first: Stretch, second: Stretch) -> None:
        if [kernel.name for kernel in first.kernels] != [kernel.name for kernel in second.kernels]:
            raise ValueError("plan cannot trace this model: it launches other kernels for other numbers of tokens.")
        pairs = [first.kernels, second.kernels]

        def affine(name: str) -> _Affine:
            return _Affine(tokens, np.array([[getattr(k, name) for k in kernels] for kernels in pairs], dtype=float))

        self._flop, self._bytes, self._in_use = affine("flop"), affine("bytes"), affine("in_use")
        self._change = _Affine(tokens, np.array([[first.change], [second.change]], dtype=float))
        self._kernels = first.kernels

    def flop(self, tokens: int) -> float:
        return float(self._flop.at(tokens).sum())

    def seconds(self, tokens: int, gpu: Gpu) -> tuple[float, float]:
        """Of all kernels, and of those that are no products."""
        rates = np.array([gpu.rate(k.unit, is_half=k.is_half, is_backward="backward" in k.name) for k in self._kernels])
        flop, moved = self._flop.at(tokens), self._bytes.at(tokens)
        each = np.maximum(np.maximum(flop / rates, moved / gpu.traffic_rate), gpu.launch) if len(rates) else rates
        is_other = np.array([k.unit is Unit.other for k in self._kernels], dtype=bool)
        return float(each.sum()), float(each[is_other].sum())

    def peak(self, tokens: int) -> float:
        """Bytes above its beginning."""
        return max(float(self._in_use.at(tokens).max(initial=0.0)), self.change(tokens))

    def change(self, tokens: int) -> float:
        return float(self._change.at(tokens)[0])


class ModelTrace:
    """A model's traces, one for each kind of layer, and its cost for chunks of any size.

    Args:
        model: on the meta device; unchanged.
        how: it is run.

    Raises:
        ValueError: its code cannot be traced.
    """

    def __init__(self, model: TextModel, how: How) -> None:
        self.how = how
        kinds = layer_kinds(model)
        self._others = kinds[1:]  # the first layer is traced by itself: with frozen embeddings it does less
        by_kind = {kind: trace_layer(model, how, 1 + self._others.index(kind)) for kind in dict.fromkeys(self._others)}
        self._traces = by_kind or {0: trace_layer(model, how, None)}
        self._found: dict[tuple[int, int], ChunkCost] = {}
        self._lines = self._joined()

    def chunk(self, tokens: int, gpu: Gpu) -> ChunkCost:
        """The cost of a chunk of so many tokens."""
        key = (tokens, id(gpu))
        if key not in self._found:
            self._found[key] = self._cost(tokens, gpu)
        return self._found[key]

    def _cost(self, tokens: int, gpu: Gpu) -> ChunkCost:
        plain, forward, backward = self._lines
        kept = _sum(forward, lambda line: line.change(tokens))
        copies = _sum(forward, lambda line: line.change(0))
        forward_s, backward_s = (
            _sum(lines, lambda line: line.seconds(tokens, gpu)[0]) for lines in (forward, backward)
        )
        other_s = _sum([*forward, *backward], lambda line: line.seconds(tokens, gpu)[1])
        return ChunkCost(
            forward_s,
            backward_s,
            _sum(forward, lambda line: line.flop(tokens)),
            _sum(backward, lambda line: line.flop(tokens)),
            int(kept),
            int(copies),
            int(_peak(plain, tokens)),
            int(max(_peak(forward, tokens), kept + _peak(backward, tokens))),
            other_s / (forward_s + backward_s),
        )

    def _joined(self) -> tuple[list[_Line], list[_Line], list[_Line]]:
        """All stretches of the plain, the forward and the backward pass, in order."""
        found = {}
        for name in ("plain", "forward", "backward"):
            passes = {kind: _lines_of(pair, name) for kind, pair in self._traces.items()}
            before, first, _, after = next(iter(passes.values()))
            found[name] = [before, first, *(passes[kind][2] for kind in self._others), after]
        return found["plain"], found["forward"], found["backward"][::-1]


def _lines_of(pair: tuple[TracedChunk, TracedChunk], name: str) -> tuple[_Line, ...]:
    sizes = (pair[0].tokens, pair[1].tokens)
    passes: tuple[Pass, Pass] = (getattr(pair[0], name), getattr(pair[1], name))
    return tuple(
        _Line(sizes, getattr(passes[0], part), getattr(passes[1], part))
        for part in ("before", "first", "other", "after")
    )


def _sum(lines: list[_Line], value: Callable[[_Line], float]) -> float:
    """Over all lines; most are the same layer's, which is asked once."""
    counts = Counter(map(id, lines))
    return sum((counts[key] * value(line) for key, line in {id(line): line for line in lines}.items()), 0.0)


def _peak(lines: list[_Line], tokens: int) -> float:
    known = {id(line): (line.peak(tokens), line.change(tokens)) for line in {id(line): line for line in lines}.values()}
    level = peak = 0.0
    for line in lines:
        above, change = known[id(line)]
        peak = max(peak, level + above)
        level += change
    return peak
