"""Diagnostics of vectors, gradients and weights that a step has computed anyway, plain-language alerts on them, and the
guard that lets nothing non-finite reach the weights."""

from qwen3emb_train.training.health.non_finite import (
    NonFinite,
    NonFiniteAction,
    NonFiniteError,
    NonFiniteGuard,
    NonFinitePolicy,
)

__all__ = [
    "NonFinite",
    "NonFiniteAction",
    "NonFiniteError",
    "NonFiniteGuard",
    "NonFinitePolicy",
]
