"""What a run will need, before any GPU is touched: parameters, memory by part, tokens, time, disk; and a dry run."""
