"""Scores and their intervals: pass@k, BLEU, paired tests, plausibility."""
