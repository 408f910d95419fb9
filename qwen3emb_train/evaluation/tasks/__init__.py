"""What sets other than retrieval ask of vectors: one file a task, with its layout on disk and mteb's protocol."""
