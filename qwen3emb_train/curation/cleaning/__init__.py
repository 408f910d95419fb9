"""Cleaning: found data becomes a set that can be defended, without duplicates and evaluation texts, split by document.
Every line that is left out is kept elsewhere, with its reason."""
