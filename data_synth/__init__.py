"""The data factory: it makes examples out of documents, by rules or by a language model, and hands them over as files.

It knows of the training package only the line format, the run records and the judges of texts
(``qwen3emb_train.data.records``, ``lineage``, ``data.words``, ``data.overlap``, ``data.languages``); nothing
there imports it.
"""
