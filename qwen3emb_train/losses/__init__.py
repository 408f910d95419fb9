"""Losses on tensors: each is a dataclass of settings, called on embeddings by role. Nothing here uses a model, a
tracker or a process group; other ranks' embeddings are passed as an argument.
"""
