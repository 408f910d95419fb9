"""From tokens to vectors: the backbone with packed attention and last-token pooling, its files, and inference."""
