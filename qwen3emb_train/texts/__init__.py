"""Judges of text, for found and synthetic data alike: words, overlap, languages."""
