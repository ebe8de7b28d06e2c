"""pass@k from n samples per problem, without bias."""

from collections.abc import Sequence

import numpy as np

from evaluation.errors import EvaluationError


def pass_at_k(num_samples: int, num_passed: int, k: int) -> float:
    """Probability that at least one of k samples drawn without replacement passes.

    The plain 1 - (1 - c/n)^k is biased; this is 1 - C(n-c, k) / C(n, k), as a product so that
    no binomial overflows.

    Raises: EvaluationError when k exceeds the samples, or the counts make no sense.
    Source: Chen et al. 2021, "Evaluating Large Language Models Trained on Code", equation 1.
    """
    if not 1 <= k <= num_samples:
        raise EvaluationError(
            f"pass@{k} needs at least {max(k, 1)} samples per problem and k of at least 1; "
            f"{num_samples} samples were given"
        )
    if not 0 <= num_passed <= num_samples:
        raise EvaluationError(
            f"{num_passed} of {num_samples} samples passed; need between 0 and {num_samples}"
        )
    if num_samples - num_passed < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(num_samples - num_passed + 1, num_samples + 1)))


def pass_at_k_per_problem(verdicts: Sequence[Sequence[bool]], k: int) -> np.ndarray:
    """pass@k of each problem, (num_problems,) float64; a problem's verdicts are its samples'."""
    if not verdicts:
        raise EvaluationError("pass@k of no problems is undefined; give at least one problem")
    return np.array([pass_at_k(len(row), sum(map(bool, row)), k) for row in verdicts])
