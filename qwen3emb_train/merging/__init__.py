"""Merging: the weights of two model directories are interpolated, tensor by tensor, into a third."""
