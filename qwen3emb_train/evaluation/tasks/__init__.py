"""Tasks other than retrieval: one file for each, with its layout on disk and mteb's protocol."""
