"""Dropout whose masks belong to the text: a pure function of (seed, text, position, channel, module).

torch draws masks from a stream, so they depend on what else was encoded before: other chunks, other ranks. Here
the same text in the same step is masked alike in whichever chunk and on whichever rank it is encoded, and a replay
draws the first pass's mask without any saved state. So the gradient of a step with dropout, too, is the same for any
chunk size and any number of ranks.

A mask is drawn by multiply-shift hashing (Dietzfelbinger 1996): each token has a random line in each module, each
channel a random number, and a component is kept where ``slope * channel + start``, modulo 2**32, reaches the
probability. Any two components of a token are independent, and those of other tokens or modules have other lines. It
takes one multiplication and one comparison of 32-bit integers a component; the 64-bit arithmetic behind the lines is
done once a token.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Int32
from torch import Tensor, nn

from qwen3emb_train.data.batches import PackedTokens

# Odd 64-bit constants of splitmix64 (Steele, Lea & Flood 2014), as signed integers: torch's int64 wraps around.
_STEP, _MIX1, _MIX2 = -7046029254386353131, -4658895280553007687, -7723592293110705685


class Lines(NamedTuple):
    """Two numbers for each token in each module, from which its components' draws are computed.

    Attributes:
        slope: odd.
        start: any.
    """

    slope: Int32[Tensor, "modules tokens"]
    start: Int32[Tensor, "modules tokens"]


class TextKeys:
    """What the masks of one forward pass are made from; shared by all ``TextDropout`` modules of an encoder.

    Attributes:
        seed: of the step, equal on all ranks.
        num_modules: that draw from it.
        lines: of the texts' contents and the tokens' positions there.
    """

    def __init__(self) -> None:
        self.seed = 0
        self.num_modules = 0
        self.lines: Lines | None = None
        self._channels: dict[tuple[int, torch.device], Int32[Tensor, " dim"]] = {}

    def set_tokens(self, tokens: PackedTokens) -> None:
        """Called by the encoder before every pass."""
        of_token = mix(mix(tokens.input_ids) + tokens.position_ids)
        text_idx = torch.repeat_interleave(tokens.lengths, output_size=tokens.num_tokens)
        of_text = torch.zeros_like(tokens.lengths).index_add(0, text_idx, of_token)
        keys = mix(mix(of_text + self.seed)[text_idx] + tokens.position_ids)
        salts = torch.arange(1, self.num_modules + 1, device=keys.device) << 32
        drawn = mix(keys + salts[:, None])
        self.lines = Lines((drawn >> 32).int() | 1, drawn.int())

    def channels(self, dim: int, device: torch.device) -> Int32[Tensor, " dim"]:
        """A random number for each channel, the same in every module."""
        if (dim, device) not in self._channels:
            self._channels[dim, device] = (mix(torch.arange(1, dim + 1, device=device) * _STEP) >> 32).int()
        return self._channels[dim, device]

    def checkpoint_contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """``context_fn`` of ``torch.utils.checkpoint``: a layer is recomputed with the lines of its first pass.

        By the time of a backward pass other chunks were encoded, and the lines are theirs.
        """
        return nullcontext(), self._restored(self.lines)

    @contextmanager
    def _restored(self, lines: Lines | None) -> Iterator[None]:
        before, self.lines = self.lines, lines
        try:
            yield
        finally:
            self.lines = before


class TextDropout(nn.Module):
    """Inverted dropout on packed states.

    Args:
        probability: of a component to be zeroed.
        shared: the encoder's keys; a module draws by its number among those that share them.
    """

    def __init__(self, probability: float, shared: TextKeys) -> None:
        super().__init__()
        self.probability, self._shared, self._number = probability, shared, shared.num_modules
        shared.num_modules += 1

    def forward(self, states: Float[Tensor, "*batch tokens dim"]) -> Float[Tensor, "*batch tokens dim"]:
        if not self.training or self.probability == 0:
            return states
        return states * self._kept(states.shape[-1], states.device) / (1 - self.probability)

    def _kept(self, dim: int, device: torch.device) -> Bool[Tensor, "tokens dim"]:
        lines = self._shared.lines
        assert lines is not None, "the encoder sets the tokens before every pass"
        slope, start = lines.slope[self._number], lines.start[self._number]
        drawn = torch.addcmul(start[:, None], slope[:, None], self._shared.channels(dim, device))
        return drawn >= int(self.probability * 2**32) - 2**31  # int32: from -2**31


def mix(values: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """splitmix64's finalizer: similar numbers become unrelated ones."""
    values = (values ^ _shift(values, 30)) * _MIX1
    values = (values ^ _shift(values, 27)) * _MIX2
    return values ^ _shift(values, 31)


def _shift(values: Tensor, bits: int) -> Tensor:
    """Logical right shift of signed 64-bit integers."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)
