"""Benchmarks: their problems, what their tests name, and what training data has seen of them."""
