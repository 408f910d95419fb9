"""Selection: a model scores (query, positive) pairs, and the similar ones are kept."""
