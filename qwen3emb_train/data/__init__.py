"""From files to batches: records and their readers, the text templates, token stores, the batch plan and the collators.

Files of many layouts become ``TrainingExample`` records, records become token ids, and a seeded global plan selects
which of them form a step's batch. Nothing here depends on a model or a loss.
"""
