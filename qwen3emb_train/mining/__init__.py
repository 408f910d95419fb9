"""Mining: an embedding model searches a corpus for documents that look relevant to a query and are not, and writes them
as the hard negatives of its examples."""
