"""Embedding texts in bulk, vector stores, and exact, lexical and approximate search."""
