"""Found data becomes training data: cleaning, splitting, and selection of pairs by cosine."""
