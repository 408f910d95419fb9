"""Export: a model directory becomes a verified folder that Sentence-Transformers and others read."""
