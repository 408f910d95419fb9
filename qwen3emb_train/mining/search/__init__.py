"""The search of mining, in blocks of queries: each block is a file, so a killed run continues, and ranks share the work
without messages."""
