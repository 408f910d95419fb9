"""One optimizer step, repeated: the objective, gradient caching, the loop, checkpoints, tracking."""
