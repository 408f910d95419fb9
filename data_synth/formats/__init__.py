"""Readers of document files, one file per format."""
