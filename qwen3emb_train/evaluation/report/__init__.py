"""The program ``report``: training runs, evaluations and merge searches on one page that opens from disk."""
