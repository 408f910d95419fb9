"""Merging: the weights of model directories, or of adapters on their bases, become one more, tensor by tensor."""
