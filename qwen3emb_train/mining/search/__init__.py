"""The long part of mining, in blocks of queries: each block a file, so a killed run continues where it was, and ranks
share the work without messages."""
