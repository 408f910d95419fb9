"""From tokens to embeddings: the backbone with packed attention and last-token pooling, and its files."""
