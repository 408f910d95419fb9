"""Evaluation: a model directory, loaded as a user would load it, is measured on retrieval sets or asked a query."""
