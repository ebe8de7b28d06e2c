"""Scalar float64 formulas, written from the mathematics: what the fast code is held against."""

import math


def softmax(logits: list[float], temperature: float) -> list[float]:
    """exp(z_i / T) / Σ exp(z_j / T)."""
    scaled = [z / temperature for z in logits]
    maximum = max(scaled)
    weights = [math.exp(s - maximum) for s in scaled]
    total = math.fsum(weights)
    return [w / total for w in weights]


def kl(p: list[float], q: list[float]) -> float:
    """Σ p log(p / q) in nats; 0 · log 0 = 0."""
    return math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def jensen_shannon(p: list[float], q: list[float]) -> float:
    """½ KL(p ‖ m) + ½ KL(q ‖ m) with m = (p + q) / 2, in nats."""
    m = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    return (kl(p, m) + kl(q, m)) / 2


def total_variation(p: list[float], q: list[float]) -> float:
    """½ Σ |p - q|."""
    return math.fsum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2


def entropy(p: list[float]) -> float:
    """-Σ p log p in nats."""
    return -math.fsum(a * math.log(a) for a in p if a > 0)


def kd_loss(
    student: list[float], teacher: list[float], label: int, temperature: float, alpha: float
) -> float:
    """alpha · T² · KL(p_T ‖ q_T) + (1 - alpha) · CE of one row (Hinton et al. 2015)."""
    distillation = temperature**2 * kl(softmax(teacher, temperature), softmax(student, temperature))
    return alpha * distillation - (1 - alpha) * math.log(softmax(student, 1.0)[label])


def spread_tail(logits: list[float], top_k: int, temperature: float) -> list[float]:
    """The softmax at T, with the mass outside the top-k spread evenly over those tokens."""
    p = softmax(logits, temperature)
    top = sorted(range(len(p)), key=lambda i: -logits[i])[:top_k]
    mass = math.fsum(p[i] for i in range(len(p)) if i not in top)
    share = mass / max(len(p) - top_k, 1)
    return [p[i] if i in top else share for i in range(len(p))]


def log_tail_mass(logits: list[float], top_k: int, temperature: float) -> float:
    """log Σ over tokens outside the top-k of exp(logprob_1 / T)."""
    logprobs = [math.log(p) for p in softmax(logits, 1.0)]
    rest = sorted(logprobs, reverse=True)[top_k:]
    return math.log(math.fsum(math.exp(lp / temperature) for lp in rest))


def captured(p: list[float], ids: list[int]) -> float:
    """Σ p over the tokens named."""
    return math.fsum(p[i] for i in ids)


def gradient_cosine(p: list[float], q: list[float]) -> float:
    """Cosine between u - p and u - q, the loss's gradients by the logits of a uniform student u."""
    u = 1 / len(p)
    one, other = [u - a for a in p], [u - b for b in q]
    product = math.fsum(a * b for a, b in zip(one, other, strict=True))
    lengths = math.fsum(a * a for a in one) * math.fsum(b * b for b in other)
    return product / math.sqrt(lengths)


def quantile(values: list[float], share: float) -> float:
    """Linear between the two order statistics around (n - 1) · share (Hyndman and Fan's type 7)."""
    ordered, place = sorted(values), (len(values) - 1) * share
    below = math.floor(place)
    above = min(below + 1, len(values) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
