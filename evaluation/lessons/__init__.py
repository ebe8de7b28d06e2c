"""Solutions that a model writes and tests check: further documents to learn from."""
