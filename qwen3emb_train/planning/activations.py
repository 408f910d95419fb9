"""Bytes that a forward pass saves for its backward pass, derived from the operations, and temporary memory.

One layer of Qwen3 as transformers writes it, for T tokens. H hidden size, I intermediate size, Q and K the widths of
all heads' queries and keys, n and m their numbers. c is the width of a computed number: 4 bytes, or 2 under bf16
autocast, where the residual stream, the norms and the rotation stay in 4. "Cells" are the [texts, longest] grid into
which packed attention spreads its tokens, C of them; without spreading (texts of one length) C = T.

    both norms over H        x and x/rms: 2 x 8H; 1/rms: 2 x 4
      their outputs          fp32: one tensor each, shared by the linear maps that read it: 2 x 4H
                             autocast: every linear map casts its own copy (q, k, v, gate, up): 5 x 2H
                             FSDP2 casts the weights themselves: the residual stream is bf16, x/rms too,
                             the outputs are shared again: 2 x (6H + 4) and 2 x 2H
    norm of the queries      x: 4Q (fp32, whatever c), x/rms: cQ, 1/rms: 4n
    norm of the keys         4K + cK + 4m
    attention                q and its result: 2cQC, k and v: 2cKC, log-sum-exp: 4nC
    output map               its input: cQ (a copy of the result; without spreading a view of it, hence 0)
    gated unit               gate, silu(gate), up, their product: 4cI

Rotation keeps only cosines and sines, which all layers share; maps keep their weights: the fp32 masters are there
anyway, but under autocast every graph owns bf16 copies of all of them (``weight_copies``).

With LoRA the norms' weights are frozen, so x/rms is not kept; every adapter keeps its [T, rank] inner state; and
nothing before the first adapter needs a gradient (the embedding, the first norm).
With activation checkpointing a layer keeps its input (4H), and its own list only while it is replayed.
"""

from dataclasses import dataclass

from qwen3emb_train.planning.parameters import Parameters


@dataclass(frozen=True)
class ChunkShape:
    """A chunk of texts that are encoded at once.

    Attributes:
        tokens: of all texts.
        cells: of the attention's [texts, longest] grid.
        is_spread: whether the texts differ in length, so that attention copies tokens to cells and back.
    """

    tokens: int
    cells: int
    is_spread: bool = True


@dataclass(frozen=True)
class Arithmetic:
    """The dtypes of a step, and whether layers are recomputed.

    Attributes:
        bf16: products run in bf16.
        activation_checkpointing: layers are replayed in the backward pass.
        autocast: bf16 by autocast over float32 weights; False: the weights are cast (FSDP2's mixed precision).
    """

    bf16: bool
    activation_checkpointing: bool = False
    autocast: bool = True

    @property
    def width(self) -> int:
        """Bytes of a product."""
        return 2 if self.bf16 else 4

    @property
    def residual(self) -> int:
        """Bytes of a component of the residual stream."""
        return 4 if self.autocast else self.width


def saved_by_layer(model: Parameters, chunk: ChunkShape, arithmetic: Arithmetic) -> int:
    """Bytes that one layer saves for its backward pass: the module's table.

    Args:
        model: its shapes.
        chunk: of texts.
        arithmetic: dtypes.
    """
    c, hidden, queries, keys = arithmetic.width, model.hidden, model.query_width, model.key_width
    is_full = model.lora_rank == 0
    norms = 2 * (hidden * (4 + (arithmetic.residual if is_full else 0)) + 4)
    norm_outputs = 5 * 2 * hidden if arithmetic.bf16 and arithmetic.autocast else 2 * c * hidden
    head_norms = 0
    if model.has_query_norm:
        head_norms = (queries + keys) * (4 + (c if is_full else 0)) + 4 * (model.heads + model.kv_heads)
    # Under autocast peft casts an adapter's input to float32 and autocast casts it back: one more copy.
    is_copied = chunk.is_spread or (not is_full and arithmetic.bf16 and arithmetic.autocast)
    output_input = c * queries if is_copied else 0
    gated = 4 * c * model.intermediate
    adapters = model.adapted * c * model.lora_rank
    by_token = norms + norm_outputs + head_norms + output_input + gated + adapters
    by_cell = 2 * c * (queries + keys) + 4 * model.heads
    return chunk.tokens * by_token + chunk.cells * by_cell


def saved_activations(model: Parameters, chunk: ChunkShape, arithmetic: Arithmetic) -> int:
    """Bytes that the graph of one chunk saves, without weights.

    Args:
        model, chunk, arithmetic: as in ``saved_by_layer``.
    """
    hidden, tokens = model.hidden, chunk.tokens
    is_full = model.lora_rank == 0
    ids = 8 if is_full else 0
    cells = 8 if chunk.is_spread else 0
    shared = tokens * (ids + cells + 2 * arithmetic.residual * model.head_dim)  # and cosines and sines
    final_norm = tokens * (hidden * (4 + (arithmetic.residual if is_full else 0)) + 4)
    layer = saved_by_layer(model, chunk, arithmetic)
    if arithmetic.activation_checkpointing:
        return shared + final_norm + model.layers * tokens * arithmetic.residual * hidden + layer
    first_norm = 0 if is_full else tokens * (4 * hidden + 4)  # not kept where the embedding is frozen
    return shared + final_norm + model.layers * layer - first_norm


def weight_copies(model: Parameters, arithmetic: Arithmetic) -> int:
    """Bytes of the bf16 weights that one graph keeps."""
    if not arithmetic.bf16 or not arithmetic.autocast:
        return 0
    if model.product_bytes < 4:  # bitsandbytes unpacks a map's weight in each pass and keeps none
        return 2 * model.adapters
    if arithmetic.activation_checkpointing:
        return 2 * (model.products + model.adapters) // model.layers
    unused = 0
    if model.lora_rank:  # with a frozen embedding the first layer's q, k and v need no gradient of their input
        unused = model.hidden * (model.query_width + 2 * model.key_width + 3 * model.lora_rank)
    return 2 * (model.products + model.adapters - unused)


def forward_workspace(model: Parameters, chunk: ChunkShape, arithmetic: Arithmetic) -> int:
    """Peak bytes in use in a pass without graph.

    The residual stream and either the gated unit (norm output, gate, silu(gate), up) or the attention (q, k, v, their
    scattered copies, the result).

    Args:
        model, chunk, arithmetic: as in ``saved_by_layer``.
    """
    c, hidden = arithmetic.width, model.hidden
    gated = chunk.tokens * (2 * 4 * hidden + 3 * c * model.intermediate)
    packed = chunk.tokens * (2 * 4 * hidden + 4 * (model.query_width + 2 * model.key_width))
    spread = chunk.cells * c * (2 * model.query_width + 2 * model.key_width)
    remembers = arithmetic.bf16 and arithmetic.autocast and model.lora_rank == 0  # trained weights only
    copies = 2 * model.products if remembers else 0
    return max(gated, packed + spread) + copies


def backward_workspace(model: Parameters, chunk: ChunkShape, arithmetic: Arithmetic) -> int:
    """Peak bytes of temporary gradients: after the gated unit, where the whole graph is still there.

    The residual's gradient and the gradients of the product and of both its factors.

    Args:
        model, chunk, arithmetic: as in ``saved_by_layer``.
    """
    return chunk.tokens * (4 * model.hidden + 3 * arithmetic.width * model.intermediate)
