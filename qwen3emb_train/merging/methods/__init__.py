"""Merge methods on single tensors, one file for each; merge.py handles names, files and dtypes."""
