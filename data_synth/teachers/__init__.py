"""Teachers: the language models that are asked, and everything that can go wrong between them and us."""
