"""Train text-embedding models and rerankers by the Qwen3-Embedding recipe (arXiv 2506.05176).

Importing the package is cheap: every room imports torch only when a name in it is used. Start at
``python -m qwen3emb_train`` or at ``qwen3emb_train/README.md``.
"""

__version__ = "0.1.0"
