"""From completions to verdicts to scores, with a proof of the harness first."""
