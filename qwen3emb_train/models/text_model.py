"""TextModel: a Hugging Face decoder on packed texts; Encoder: its state at the EOS token; last-token pooling."""

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from qwen3emb_train.data.batches import PackedTokens
from qwen3emb_train.models.dropout import TextKeys
from qwen3emb_train.models.packing import PACKED, PackedLayout, is_causal

if TYPE_CHECKING:  # it tries models, which takes this file
    from qwen3emb_train.models.unread import UnreadWeights


def pool_last_token(
    states: Float[Tensor, "tokens dim"], cu_seqlens: Int[Tensor, " texts_and_one"]
) -> Float[Tensor, "texts dim"]:
    """The state at each packed text's EOS token."""
    return states[cu_seqlens[1:] - 1]


def pool_last_token_padded(
    states: Float[Tensor, "texts longest dim"], attention_mask: Int[Tensor, "texts longest"]
) -> Float[Tensor, "texts dim"]:
    """The same for texts padded on either side: the last position that the mask keeps."""
    longest = attention_mask.shape[1]
    last = longest - 1 - attention_mask.flip(1).argmax(1)
    return states[torch.arange(states.shape[0], device=states.device), last]


def truncate_and_normalize(vectors: Float[Tensor, "texts dim"], dim: int | None = None) -> Float[Tensor, "texts kept"]:
    """Matryoshka: the first ``dim`` components, *then* the L2 norm, as in the released models' usage code.

    Raises:
        ValueError: ``dim`` is outside 1..the vectors' dimension.
    """
    if dim is not None and not 0 < dim <= vectors.shape[1]:
        raise ValueError(f"dim {dim} is not within 1..{vectors.shape[1]}, the model's dimension.")
    return F.normalize(vectors[:, :dim], dim=-1)


class TextModel(nn.Module):
    """Base class of the encoder and the reranker; maps packed texts to one row of numbers each.

    Attributes:
        backbone: the transformers model without a language-model head (or its peft wrapper).
        text_keys: what dropout masks are made from, where there is dropout (see ``models.dropout``).
        stored_prefix: prefix of the backbone's parameter names in a saved model directory.
        unread: where the weights of meta parameters are; None where all are in memory.
    """

    stored_prefix = ""

    def __init__(self, backbone: Any, text_keys: TextKeys | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.text_keys = text_keys
        self.unread: UnreadWeights | None = None
        self._is_causal = is_causal(backbone)

    @property
    def config(self) -> Any:
        """The backbone's transformers configuration."""
        return self.backbone.config

    @property
    def shares_prefixes(self) -> bool:
        """Whether encoding a shared prefix once is exact: packed, causal, and no dropout masks drawn per text."""
        is_packed = self.config._attn_implementation == PACKED
        return is_packed and self._is_causal and self.text_keys is None

    def last_states(self, tokens: PackedTokens) -> Float[Tensor, "texts hidden"]:
        """The last layer's (normed) state at each text's last token, float32 or wider."""
        if self.text_keys is not None:
            self.text_keys.set_tokens(tokens)
        if self.config._attn_implementation == PACKED:
            return at_least_float32(self.last_states_packed(tokens, PackedLayout.of(tokens)))
        return at_least_float32(self.last_states_padded(*pad(tokens)))

    def last_states_packed(self, tokens: PackedTokens, layout: PackedLayout) -> Float[Tensor, "texts hidden"]:
        """The same in the dtype that the model computes in; ``layout`` says which tokens attend to which."""
        output = self.backbone(
            input_ids=tokens.input_ids.unsqueeze(0),
            position_ids=tokens.position_ids.unsqueeze(0),
            attention_mask=None,
            use_cache=False,
            layout=layout,
        )
        return pool_last_token(output.last_hidden_state[0], tokens.cu_seqlens[tokens.num_prefixes :])

    def head(self, states: Float[Tensor, "texts hidden"]) -> Float[Tensor, "texts columns"]:
        """What the model returns of each text's last state."""
        return states

    def forward(self, tokens: PackedTokens) -> Float[Tensor, "texts columns"]:
        """A row of float32 (or wider) numbers for each packed text."""
        return self.head(self.last_states(tokens))

    def last_states_padded(
        self, input_ids: Int[Tensor, "texts longest"], attention_mask: Int[Tensor, "texts longest"]
    ) -> Float[Tensor, "texts hidden"]:
        """The reference implementation that packing is tested against; padding may be on either side."""
        output = self.backbone(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        return pool_last_token_padded(output.last_hidden_state, attention_mask)


def pad(tokens: PackedTokens) -> tuple[Int[Tensor, "texts longest"], Int[Tensor, "texts longest"]]:
    """Right-padded ids and mask. The mask is computed from the lengths: the pad id may be the EOS token's."""
    lengths = tokens.lengths
    is_token = torch.arange(int(lengths.max()), device=lengths.device) < lengths[:, None]
    input_ids = tokens.input_ids.new_zeros(is_token.shape)
    input_ids[is_token] = tokens.input_ids
    return input_ids, is_token.to(input_ids.dtype)


def at_least_float32(states: Tensor) -> Tensor:
    """float32 where they are narrower, else as they are."""
    return states.float() if states.dtype in (torch.bfloat16, torch.float16) else states


class Encoder(TextModel):
    """Texts to vectors: the last layer's (normed) state at the EOS token, not L2-normalised.

    Build it with ``models.loading.load_encoder``.
    """

    @property
    def dim(self) -> int:
        """Components of a vector."""
        return int(self.config.hidden_size)
