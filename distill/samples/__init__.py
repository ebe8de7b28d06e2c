"""What a student writes while it learns: greedy completions of a few validation prompts."""
