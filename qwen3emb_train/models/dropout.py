"""Dropout whose masks belong to the text: a pure function of (seed, text, position, channel, module).

torch draws masks from a stream, so they depend on what else was encoded before: other chunks, other ranks. Here
the same text in the same step is masked alike in whichever chunk and on whichever rank it is encoded, and a replay
draws the first pass's mask without any saved state. So the gradient of a step with dropout, too, is the same for any
chunk size and any number of ranks.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from qwen3emb_train.data.batches import PackedTokens

# Odd 64-bit constants of splitmix64 (Steele, Lea & Flood 2014), as signed integers: torch's int64 wraps around.
_STEP, _MIX1, _MIX2 = -7046029254386353131, -4658895280553007687, -7723592293110705685


class TextKeys:
    """What the masks of one forward pass are made from; shared by all ``TextDropout`` modules of an encoder.

    Attributes:
        seed: of the step, equal on all ranks.
        keys: one number for each token: its text's contents and its position there.
    """

    def __init__(self) -> None:
        self.seed = 0
        self.keys: Int[Tensor, " tokens"] | None = None

    def set_tokens(self, tokens: PackedTokens) -> None:
        """Called by the encoder before every pass."""
        of_token = mix(mix(tokens.input_ids) + tokens.position_ids)
        text_idx = torch.repeat_interleave(tokens.lengths, output_size=tokens.num_tokens)
        of_text = torch.zeros_like(tokens.lengths).index_add(0, text_idx, of_token)
        self.keys = mix(mix(of_text + self.seed)[text_idx] + tokens.position_ids)

    def checkpoint_contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """``context_fn`` of ``torch.utils.checkpoint``: a layer is recomputed with the keys of its first pass.

        By the time of a backward pass other chunks were encoded, and the keys are theirs.
        """
        return nullcontext(), self._restored(self.keys)

    @contextmanager
    def _restored(self, keys: Int[Tensor, " tokens"] | None) -> Iterator[None]:
        before, self.keys = self.keys, keys
        try:
            yield
        finally:
            self.keys = before


class TextDropout(nn.Module):
    """Inverted dropout on packed states.

    Args:
        probability: of a component to be zeroed.
        salt: differs between modules.
        shared: the encoder's keys.
    """

    def __init__(self, probability: float, salt: int, shared: TextKeys) -> None:
        super().__init__()
        self.probability, self.salt, self._shared = probability, salt, shared

    def forward(self, states: Float[Tensor, "*batch tokens dim"]) -> Float[Tensor, "*batch tokens dim"]:
        if not self.training or self.probability == 0:
            return states
        assert self._shared.keys is not None, "the encoder sets the keys before every pass"
        return states * self._kept(states.shape[-1], states.device) / (1 - self.probability)

    def _kept(self, dim: int, device: torch.device) -> Bool[Tensor, "tokens dim"]:
        keys = self._shared.keys
        assert keys is not None
        channels = torch.arange(1, dim + 1, device=device) * _STEP
        drawn = mix((keys + self.salt)[:, None] + channels)
        # The upper 31 bits as a uniform number; 2**31 levels are plenty for a probability.
        return ((drawn >> 33) & 0x7FFFFFFF) >= int(self.probability * 2**31)


def mix(values: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """splitmix64's finalizer: similar numbers become unrelated ones."""
    values = (values ^ _shift(values, 30)) * _MIX1
    values = (values ^ _shift(values, 27)) * _MIX2
    return values ^ _shift(values, 31)


def _shift(values: Tensor, bits: int) -> Tensor:
    """Logical right shift of signed 64-bit integers."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)
