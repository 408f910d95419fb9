"""The data factory: it makes examples out of documents, by rules or by a language model, and hands them over as files.

It knows of the training package only the line format and the run records (``qwen3emb_train.data.records``,
``qwen3emb_train.lineage``); nothing there imports it.
"""
