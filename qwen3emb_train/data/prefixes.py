"""Prefixes that several texts share (an instruction, a reranker's system turn and query), to be encoded once.

Under causal attention a token's state depends only on the tokens before it, so a shared prefix has the same states in
every text that starts with it. The rest of each text attends to it (``models.packing``); the gradient of the prefix is
the sum over all texts, as if each had encoded it.
"""

import torch
from jaxtyping import Int
from torch import Tensor

from qwen3emb_train.data.batches import PackedTokens

_HEAD = 8  # texts that agree in this many first tokens are compared further
_MIN_SAVED = 64  # tokens; below that the additional gather costs more than it saves


def share_prefixes(tokens: PackedTokens, groups: Int[Tensor, " texts"] | None = None) -> PackedTokens:
    """The same texts with each shared prefix once; ``tokens`` itself where there is nothing to share.

    Args:
        tokens: whole texts, on the CPU.
        groups: texts of a group share their longest common prefix; None: texts with equal first tokens are a group.
    """
    lengths, starts = tokens.lengths, tokens.cu_seqlens[:-1]
    if tokens.prefix_of is not None or len(lengths) < 2:
        return tokens
    member = _by_first_tokens(tokens) if groups is None else groups
    shared = torch.zeros_like(lengths)  # tokens of each text that are in its prefix
    prefix_of = torch.full_like(lengths, -1)
    prefixes: list[tuple[int, int]] = []  # (a text that starts with it, its length)
    for group in member[member >= 0].unique().tolist():
        texts = (member == group).nonzero().flatten()
        common = shared_length(tokens, texts)
        if not common:
            continue
        shared[texts], prefix_of[texts] = common, len(prefixes)
        prefixes.append((int(texts[0]), common))
    if not prefixes:
        return tokens
    text, length = torch.tensor(prefixes).unbind(1)
    packed = PackedTokens.gather(
        tokens.input_ids, torch.cat([starts[text], starts + shared]), torch.cat([length, lengths - shared])
    )
    offset = torch.cat([torch.zeros_like(length), shared])
    return PackedTokens(
        packed.input_ids,
        packed.cu_seqlens,
        packed.position_ids + offset.repeat_interleave(packed.lengths),
        prefix_of=torch.cat([torch.full_like(length, -1), prefix_of]),
        num_prefixes=len(prefixes),
    )


def shared_length(tokens: PackedTokens, texts: Int[Tensor, " chosen"]) -> int:
    """How many first tokens of the chosen texts are encoded once for all of them; 0 where it is not worth it.

    Every text keeps a token of its own.
    """
    starts = tokens.cu_seqlens[:-1][texts]
    longest = int(tokens.lengths[texts].min()) - 1
    heads = tokens.input_ids[starts[:, None] + torch.arange(longest)]
    common = int((heads == heads[0]).all(0).long().cumprod(0).sum())
    return common if common * (len(texts) - 1) >= _MIN_SAVED else 0


def _by_first_tokens(tokens: PackedTokens) -> Int[Tensor, " texts"]:
    """A group for each distinct first ``_HEAD`` tokens; -1 for texts that are no longer than that."""
    member = torch.full_like(tokens.lengths, -1)
    long_enough = (tokens.lengths > _HEAD).nonzero().flatten()
    if len(long_enough) < 2:
        return member
    heads = tokens.input_ids[tokens.cu_seqlens[:-1][long_enough, None] + torch.arange(_HEAD)]
    member[long_enough] = heads.unique(dim=0, return_inverse=True)[1]
    return member
