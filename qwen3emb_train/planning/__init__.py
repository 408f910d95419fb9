"""What a run will need, predicted without a GPU: parameters, memory by part, tokens, time, disk; and a dry run."""
