"""Text analysis for existing and synthetic data: words, overlap, languages."""
