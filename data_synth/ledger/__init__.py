"""The ledger: what was paid for is written down before anything else happens with it."""
