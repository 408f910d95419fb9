"""Data synthesis: a language model writes training examples from documents; the output is a directory of files.

Of the training package it imports only the line format, the run records, the command line and the text utilities
(``qwen3emb_train.data.records``, ``lineage``, ``configuration``, ``texts``, ``pages``); nothing there imports it.
"""
