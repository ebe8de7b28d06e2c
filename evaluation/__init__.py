"""Scores students and the live teacher on code benchmarks, under the same conditions."""
