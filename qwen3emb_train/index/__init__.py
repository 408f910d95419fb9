"""Texts to vectors in bulk, vector stores, and exact, lexical and approximate search over them."""
