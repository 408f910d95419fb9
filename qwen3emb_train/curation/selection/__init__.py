"""Selection: pairs of a query and a positive are scored by a model, and the similar ones are kept."""
